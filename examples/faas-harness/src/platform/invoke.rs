//! One request through one instance.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as HttpBody, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::{Function, InstanceLease, Platform};
use crate::function::FunctionSpec;
use crate::http::body::{Answer, Body};
use crate::http::headers;
use crate::instance::{Instance, LaunchError};
use crate::pool::AcquireError;

/// The longest time that a connection to an instance takes, which is on this very host.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// How long an answer may still be read after its instance's guest has ended. All that it sent is on this host by then.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why a request was not answered by its function.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// There is no such function.
    #[error("there is no such function")]
    UnknownFunction,
    /// There is no instance for it.
    #[error(transparent)]
    Acquire(#[from] AcquireError<LaunchError>),
    /// Its body is larger than the function takes.
    #[error("the body is larger than the {limit} bytes that this function takes")]
    BodyTooLarge {
        /// What it takes.
        limit: u64,
    },
    /// The instance failed it.
    #[error("the instance failed: {0}")]
    Instance(String),
    /// The function's time was over before the head of its answer was there.
    #[error("the function did not answer within {0:?}")]
    TimedOut(Duration),
}

type Lost = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// What became of a try.
enum Try {
    /// The head of an answer; the future is over when nothing more can come.
    Answered(Response<Incoming>, Lost),
    /// Nothing of the request has left: another instance may have it.
    Unsent(Box<Request<Body>>, InvokeError),
    Failed(InvokeError),
}

impl Platform {
    /// Has the function `name` answer `request`, at `path_and_query` of one of its instances.
    ///
    /// If an instance fails before anything was sent to it, a second one is tried, once.
    ///
    /// # Errors
    /// See [`InvokeError`].
    pub async fn invoke(
        &self,
        name: &str,
        request: Request<Incoming>,
        path_and_query: Uri,
    ) -> Result<Response<Body>, InvokeError> {
        let function = self.function(name).ok_or(InvokeError::UnknownFunction)?;
        let answer = invoke(&function, request, path_and_query).await;
        if let Ok(answer) = &answer {
            function.metrics().answered(answer.status().as_u16());
        }
        answer
    }
}

async fn invoke(
    function: &Function,
    request: Request<Incoming>,
    path_and_query: Uri,
) -> Result<Response<Body>, InvokeError> {
    let mut request = outgoing(function, request, path_and_query)?;
    let mut may_retry = true;
    loop {
        let mut lease = function.pool().acquire().await?;
        let begin = Instant::now();
        let deadline = begin + function.spec().timeout();
        match send(&mut lease, request, deadline, function.spec()).await {
            Try::Answered(answer, lost) => {
                let (mut head, body) = answer.into_parts();
                headers::remove_hop_by_hop(&mut head.headers);
                let metrics = Arc::clone(function.metrics());
                let body = Answer::new(body, lease, over(deadline, lost), move |whole| {
                    if whole {
                        metrics.executed(begin.elapsed());
                    }
                });
                return Ok(Response::from_parts(head, body.boxed()));
            }
            Try::Unsent(unsent, _) if may_retry => {
                may_retry = false;
                request = *unsent;
            }
            Try::Unsent(_, error) | Try::Failed(error) => return Err(error),
        }
    }
}

/// Is over with the reason when an answer's time is.
async fn over(deadline: Instant, lost: Lost) -> &'static str {
    tokio::select! {
        () = sleep_until(deadline) => "the function's time is over",
        () = lost => "the instance's guest has ended",
    }
}

/// The request as an instance gets it.
fn outgoing(
    function: &Function,
    request: Request<Incoming>,
    path_and_query: Uri,
) -> Result<Request<Body>, InvokeError> {
    let limit = function.spec().max_body_bytes;
    if request.body().size_hint().lower() > limit {
        return Err(InvokeError::BodyTooLarge { limit });
    }
    let (mut head, body) = request.into_parts();
    head.uri = path_and_query;
    headers::remove_hop_by_hop(&mut head.headers);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(Request::from_parts(head, Limited::new(body, limit).boxed()))
}

/// Sends `request` to the instance of `lease`. From here on the lease is begun.
async fn send(lease: &mut InstanceLease, mut request: Request<Body>, deadline: Instant, spec: &FunctionSpec) -> Try {
    lease.begin();
    let Some(instance) = lease.instance() else {
        let error = InvokeError::Instance("its lease is over".to_owned());
        return Try::Unsent(Box::new(request), error);
    };
    // A guest that is killed says nothing, and so does its network, which goes with it.
    let mut lost: Lost = Box::pin(lost(instance));
    let connected = tokio::select! {
        connected = connection(instance) => connected,
        () = &mut lost => Err(io::Error::other("its guest has ended")),
    };
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(error) => {
            let error = InvokeError::Instance(format!("cannot connect to {}: {error}", instance.address()));
            return Try::Unsent(Box::new(request), error);
        }
    };
    if let Ok(host) = HeaderValue::from_str(&instance.address().to_string()) {
        request.headers_mut().insert(HOST, host);
    }
    let answered = tokio::select! {
        answered = timeout_at(deadline, connection.try_send_request(request)) => answered,
        () = &mut lost => return Try::Failed(InvokeError::Instance("its guest has ended".to_owned())),
    };
    match answered {
        Ok(Ok(answer)) => {
            instance.connection = Some(connection);
            Try::Answered(answer, lost)
        }
        Ok(Err(mut failure)) => match failure.take_message() {
            Some(unsent) => Try::Unsent(Box::new(unsent), InvokeError::Instance(failure.error().to_string())),
            None => Try::Failed(failed(failure.error(), spec.max_body_bytes)),
        },
        Err(_) => Try::Failed(InvokeError::TimedOut(spec.timeout())),
    }
}

/// Is over when nothing more can come from the instance.
fn lost(instance: &Instance) -> impl Future<Output = ()> + Send + Sync + 'static {
    let ended = instance.ended();
    async move {
        ended.await;
        sleep(LAST_WORDS).await;
    }
}

/// A body that is too large shows only while it is sent, where its length was not announced.
fn failed(error: &hyper::Error, limit: u64) -> InvokeError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return InvokeError::BodyTooLarge { limit };
        }
        cause = error.source();
    }
    InvokeError::Instance(error.to_string())
}

/// The connection that the last request left open, or a new one.
async fn connection(instance: &mut Instance) -> io::Result<SendRequest<Body>> {
    if let Some(mut kept) = instance.connection.take()
        && kept.ready().await.is_ok()
    {
        return Ok(kept);
    }
    let stream = timeout(CONNECT_PATIENCE, TcpStream::connect(instance.address())).await??;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // Whoever waits for an answer on it hears of its failure too.
        let _ = connection.await;
    });
    Ok(sender)
}
