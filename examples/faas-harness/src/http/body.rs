//! Bodies: those made here, and those passed on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

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
    /// Is over, with the reason, when nothing more is waited for.
    over: Pin<Box<dyn Future<Output = &'static str> + Send + Sync>>,
    /// What is done at the end, with whether it was a good one.
    done: Option<Box<dyn FnOnce(bool) + Send + Sync>>,
}

impl Answer {
    /// The answer `inner` of the instance of `lease`, which is broken off when `over` is.
    pub fn new(
        inner: Incoming,
        lease: InstanceLease,
        over: impl Future<Output = &'static str> + Send + Sync + 'static,
        done: impl FnOnce(bool) + Send + Sync + 'static,
    ) -> Self {
        let mut answer = Self {
            inner,
            lease: Some(lease),
            over: Box::pin(over),
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
        if let Poll::Ready(reason) = self.over.as_mut().poll(context) {
            self.end(false);
            return Poll::Ready(Some(Err(reason.into())));
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
