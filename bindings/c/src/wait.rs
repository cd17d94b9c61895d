//! Waiting for several things at once: something that happens, a token's cancellation, the end of the time.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use sandbox::listeners::Listener;
use sandbox::{Error, ErrorKind};

use crate::cancel::Token;
use crate::entry::{Failure, Outcome};

/// What a waiting call sleeps on.
#[derive(Default)]
struct Waker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Waker {
    fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// Sleeps until woken; false when the time was over first.
    fn sleep(&self, deadline: Option<Instant>) -> bool {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        while !*woken {
            woken = match deadline {
                None => self.changed.wait(woken).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    let waited = self.changed.wait_timeout(woken, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        *woken = false;
        true
    }
}

/// What a call waits for, and how long.
pub struct Wait<'a> {
    /// For the message when the time is over.
    pub what: &'static str,
    /// For ever if there is none.
    pub timeout: Option<Duration>,
    pub cancel: Option<&'a Token>,
}

impl Wait<'_> {
    /// Waits until `attempt` gives something. `listen` has the caller woken whenever it may.
    pub fn until<T>(&self, listen: impl FnOnce(Weak<Listener>), mut attempt: impl FnMut() -> Option<T>) -> Outcome<T> {
        if let Some(value) = attempt() {
            return Ok(value);
        }
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let waker = Arc::new(Waker::default());
        let listener: Arc<Listener> = {
            let waker = Arc::clone(&waker);
            Arc::new(move || waker.wake())
        };
        listen(Arc::downgrade(&listener));
        if let Some(token) = self.cancel {
            token.listen(Arc::downgrade(&listener));
        }
        loop {
            if let Some(value) = attempt() {
                return Ok(value);
            }
            if let Some(token) = self.cancel {
                token.check()?;
            }
            if !waker.sleep(deadline) {
                return Err(Failure::Core(Error::timeout(self.what)));
            }
        }
    }
}

/// Whether a failure says that the time was over.
pub fn is_timeout(failure: &Error) -> bool {
    failure.kind() == ErrorKind::Timeout
}
