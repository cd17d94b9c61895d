//! Bodies: those made here, and those passed on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::platform::InstanceLease;

/// Why a body ended early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The body of any request to an instance, and of any answer.
pub type Body = BoxBody<Bytes, BodyError>;

/// A body with this content.
pub fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed()
}

/// The answer of an instance, which holds the instance until its last byte was passed on.
pub struct Answer {
    inner: Incoming,
    /// Let go at the end.
    lease: Option<InstanceLease>,
    deadline: Pin<Box<Sleep>>,
    /// What is done at the end, with whether it was a good one.
    done: Option<Box<dyn FnOnce(bool) + Send + Sync>>,
}

impl Answer {
    /// The answer `inner` of the instance of `lease`, which must be over at `deadline`.
    pub fn new(
        inner: Incoming,
        lease: InstanceLease,
        deadline: Instant,
        done: impl FnOnce(bool) + Send + Sync + 'static,
    ) -> Self {
        let mut answer = Self {
            inner,
            lease: Some(lease),
            deadline: Box::pin(sleep_until(deadline)),
            done: Some(Box::new(done)),
        };
        if answer.inner.is_end_stream() {
            answer.end(true);
        }
        answer
    }

    fn end(&mut self, whole: bool) {
        if let Some(mut lease) = self.lease.take()
            && whole
        {
            lease.finish();
        }
        if let Some(done) = self.done.take() {
            done(whole);
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.deadline.as_mut().poll(context).is_ready() {
            self.end(false);
            return Poll::Ready(Some(Err("the function's time is over".into())));
        }
        match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) => {
                if self.inner.is_end_stream() {
                    self.end(true);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.end(false);
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                self.end(true);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The client left, or the answer broke off.
        self.end(false);
    }
}
