//! The listening side: connections, their limits, and a graceful end.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::patient::Patient;
use super::router::{self, Audience};
use crate::output::complain;
use crate::platform::Platform;

/// A client that sends its request's head more slowly than this is sent away: a slow-loris attack holds connections.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// A client that takes nothing of its answer for so long is sent away, for the same reason.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// The most headers that are read at all: a flood of them costs memory and time. The router refuses fewer, with a reason.
const MAX_HEADERS: usize = 1000;
/// The largest head that is read at all, in bytes, for the same reason.
const MAX_HEAD_BYTES: usize = 128 << 10;

/// What such a client is told.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: 51\r\n\
    connection: close\r\n\r\n{\"error\":\"the head of the request came too slowly\"}";

/// Why the platform cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody else listens there.
    #[error("{0} is taken by another program: choose another address with --listen")]
    Taken(SocketAddr),
    /// Something else.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
}

/// A listening server.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    audience: Audience,
}

impl Server {
    /// Listens on `address` for `audience`; port 0 lets the kernel choose one.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub async fn bind(address: SocketAddr, audience: Audience) -> Result<Self, ServerError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => ServerError::Taken(address),
            _ => ServerError::Listen(address, error),
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            audience,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `end`, then takes no more connections and waits for the requests under way.
    pub async fn serve(self, platform: Arc<Platform>, end: impl Future<Output = ()>) {
        let (ending, ended) = watch::channel(false);
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, client)) => {
                        let visit = Visit { client, audience: self.audience, platform: Arc::clone(&platform) };
                        tokio::spawn(connection(stream, visit, ended.clone()));
                    }
                    Err(error) => {
                        // Most likely no descriptor is free: some connection must end first.
                        complain(format_args!("cannot accept a connection: {error}"));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                () = &mut end => break,
            }
        }
        drop(self.listener);
        drop(ended);
        // Each connection holds a receiver until it is over.
        let _ = ending.send(true);
        ending.closed().await;
    }
}

/// Who is on a connection, and whom they see.
struct Visit {
    client: SocketAddr,
    audience: Audience,
    platform: Arc<Platform>,
}

async fn connection(stream: TcpStream, visit: Visit, mut ended: watch::Receiver<bool>) {
    // An answer's last piece must not wait for the client's acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let platform = Arc::clone(&visit.platform);
        Box::pin(async move {
            let reply = match visit.audience {
                Audience::Clients => router::route(&platform, request).await,
                Audience::Instances => router::route_instance(&platform, &request, visit.client),
            };
            Ok::<_, Infallible>(reply)
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream, WRITE_PATIENCE)), service);
    let done = tokio::select! {
        outcome = poll_fn(|context| connection.poll_without_shutdown(context)) => Some(outcome),
        // The one change is that of the end.
        _ = ended.changed() => None,
    };
    let outcome = match done {
        Some(outcome) => outcome,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|context| connection.poll_without_shutdown(context)).await
        }
    };
    let mut stream = connection.into_parts().io.into_inner();
    // What else goes wrong on a connection is its client's affair, and so is whether it still listens.
    if outcome.is_err_and(|error| error.is_timeout()) {
        let _ = stream.write_all(TOO_SLOW).await;
    }
    let _ = stream.shutdown().await;
}
