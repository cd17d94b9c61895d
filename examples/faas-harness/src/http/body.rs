//! Bodies: those made here, and those passed on.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::platform::InstanceLease;

/// Why a body ended early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The body of any request to an instance, and of any answer.
pub type Body = BoxBody<Bytes, BodyError>;

/// A body with this content.
pub fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed()
}

/// A body of pieces that come by and by, and end with their sender.
pub fn pieces(receiver: mpsc::Receiver<Bytes>) -> Body {
    Pieces(receiver).boxed()
}

struct Pieces(mpsc::Receiver<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// The answer of an instance, which holds the instance until its last byte was passed on.
pub struct Answer(Arc<Held>);

/// Shared with a task that breaks the answer off when its time is over: a client that does not read has nobody ask for
/// the next piece, and would hold the instance for ever.
struct Held(Mutex<State>);

enum State {
    Open(Box<Open>),
    /// It was broken off, and its reader is to be told why.
    Broken(&'static str),
    Over,
}

struct Open {
    inner: Incoming,
    lease: InstanceLease,
    /// What is done at the end, with whether it was a good one.
    done: Box<dyn FnOnce(bool) + Send>,
    /// Who waits for the next piece.
    reader: Option<Waker>,
    watch: Option<AbortHandle>,
}

impl Answer {
    /// The answer `inner` of the instance of `lease`, which is broken off when `over` is, with the reason.
    pub fn new(
        inner: Incoming,
        lease: InstanceLease,
        over: impl Future<Output = &'static str> + Send + 'static,
        done: impl FnOnce(bool) + Send + 'static,
    ) -> Self {
        let open = Box::new(Open {
            inner,
            lease,
            done: Box::new(done),
            reader: None,
            watch: None,
        });
        if open.inner.is_end_stream() {
            open.end(true);
            return Self(Arc::new(Held(Mutex::new(State::Over))));
        }
        let held = Arc::new(Held(Mutex::new(State::Open(open))));
        let watched = Arc::downgrade(&held);
        let watch = tokio::spawn(async move {
            let reason = over.await;
            if let Some(held) = watched.upgrade() {
                held.break_off(reason);
            }
        });
        if let State::Open(open) = &mut *held.lock() {
            open.watch = Some(watch.abort_handle());
        }
        Self(held)
    }
}

impl Open {
    fn end(mut self: Box<Self>, whole: bool) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        if whole {
            self.lease.finish();
        }
        // The lease goes before anybody hears of the end.
        drop(self.lease);
        (self.done)(whole);
    }
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn break_off(&self, reason: &'static str) {
        let old = {
            let mut state = self.lock();
            // An answer that is over is whole: who comes late must not break it.
            if !matches!(*state, State::Open(_)) {
                return;
            }
            mem::replace(&mut *state, State::Broken(reason))
        };
        if let State::Open(mut open) = old {
            let reader = open.reader.take();
            open.end(false);
            if let Some(reader) = reader {
                reader.wake();
            }
        }
    }

    fn end(&self, whole: bool) {
        let old = mem::replace(&mut *self.lock(), State::Over);
        if let State::Open(open) = old {
            open.end(whole);
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (frame, is_last) = {
            let mut state = self.0.lock();
            match &mut *state {
                State::Over => return Poll::Ready(None),
                State::Broken(reason) => {
                    let reason = *reason;
                    *state = State::Over;
                    return Poll::Ready(Some(Err(reason.into())));
                }
                State::Open(open) => match Pin::new(&mut open.inner).poll_frame(context) {
                    Poll::Pending => {
                        open.reader = Some(context.waker().clone());
                        return Poll::Pending;
                    }
                    Poll::Ready(frame) => (frame, open.inner.is_end_stream()),
                },
            }
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if is_last {
                    self.0.end(true);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.0.end(false);
                Some(Err(error.into()))
            }
            None => {
                self.0.end(true);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &*self.0.lock() {
            State::Open(open) => open.inner.is_end_stream(),
            State::Broken(_) => false,
            State::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &*self.0.lock() {
            State::Open(open) => open.inner.size_hint(),
            State::Broken(_) => SizeHint::default(),
            State::Over => SizeHint::with_exact(0),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The client left, or the answer broke off.
        self.0.end(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_over_is_broken_by_nobody() {
        let held = Held(Mutex::new(State::Over));
        held.break_off("too late");
        assert!(matches!(*held.lock(), State::Over));
    }
}
