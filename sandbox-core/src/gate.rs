//! A door that opens once, for good, and lets everybody through who waits at it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A value that is set once and can be waited for.
#[derive(Debug)]
pub struct Gate<T> {
    value: Mutex<Option<T>>,
    opened: Condvar,
}

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Self {
            value: Mutex::new(None),
            opened: Condvar::new(),
        }
    }
}

impl<T: Clone> Gate<T> {
    /// Sets the value and wakes all waiters; false, and nothing changed, if it was set before.
    pub fn open(&self, value: T) -> bool {
        self.open_after(value, || {})
    }

    /// Like [`Gate::open`], and does `first` before, unless the value was set already: nobody sees the value without what
    /// `first` did.
    pub fn open_after(&self, value: T, first: impl FnOnce()) -> bool {
        let mut slot = self.lock();
        if slot.is_some() {
            return false;
        }
        first();
        *slot = Some(value);
        drop(slot);
        self.opened.notify_all();
        true
    }

    /// The value, if it is set.
    pub fn get(&self) -> Option<T> {
        self.lock().clone()
    }

    /// Waits for the value, for ever without `timeout`; `None` when the time was over first.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<T> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut slot = self.lock();
        loop {
            if let Some(value) = &*slot {
                return Some(value.clone());
            }
            slot = match deadline {
                None => self.opened.wait(slot).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let waited = self.opened.wait_timeout(slot, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    #[test]
    fn the_first_value_stays_and_everybody_gets_it() {
        let gate = Arc::new(Gate::default());
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let gate = Arc::clone(&gate);
                std::thread::spawn(move || gate.wait(None))
            })
            .collect();
        assert!(gate.open(7));
        assert!(!gate.open(8));
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Some(7));
        }
    }

    #[test]
    fn what_comes_first_is_done_once_and_before_anybody_is_let_through() {
        let gate = Arc::new(Gate::default());
        let done = Arc::new(AtomicU8::new(0));
        let waiter = {
            let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
            std::thread::spawn(move || (gate.wait(None), done.load(Ordering::Relaxed)))
        };
        let count = || {
            done.fetch_add(1, Ordering::Relaxed);
        };
        assert!(gate.open_after(7, count));
        assert!(!gate.open_after(8, count));
        assert_eq!(waiter.join().unwrap(), (Some(7), 1));
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_closed_gate_times_out() {
        assert_eq!(Gate::<u8>::default().wait(Some(Duration::from_millis(1))), None);
    }
}
