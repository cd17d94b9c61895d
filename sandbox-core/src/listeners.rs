//! Those who want to hear when something changes.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

/// Called at a change by whoever brings it about, so it must return at once and must not wait for anything.
pub type Listener = dyn Fn() + Send + Sync;

/// The listeners of one thing; each is told for as long as it exists.
#[derive(Default)]
pub struct Listeners {
    /// Spares those who tell the lock while nobody listens.
    any: AtomicBool,
    all: Mutex<Vec<Weak<Listener>>>,
}

impl Listeners {
    /// Nobody listens yet.
    pub const fn new() -> Self {
        Self {
            any: AtomicBool::new(false),
            all: Mutex::new(Vec::new()),
        }
    }

    /// Adds a listener, which is told of changes from now on.
    pub fn add(&self, listener: Weak<Listener>) {
        let mut all = self.lock();
        all.push(listener);
        self.any.store(true, Ordering::SeqCst);
    }

    /// Calls those that still exist, without holding a lock, and forgets the others.
    pub fn tell(&self) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        let mut present = Vec::new();
        {
            let mut all = self.lock();
            all.retain(|listener| listener.upgrade().map(|listener| present.push(listener)).is_some());
            self.any.store(!all.is_empty(), Ordering::SeqCst);
        }
        for listener in present {
            listener();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Listener>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listeners")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn listeners_are_told_while_they_exist_and_forgotten_then() {
        let told = Arc::new(AtomicUsize::new(0));
        let listener: Arc<Listener> = {
            let told = Arc::clone(&told);
            Arc::new(move || {
                told.fetch_add(1, Ordering::SeqCst);
            })
        };
        let listeners = Listeners::default();
        listeners.tell();
        listeners.add(Arc::downgrade(&listener));
        listeners.tell();
        drop(listener);
        listeners.tell();
        assert_eq!(told.load(Ordering::SeqCst), 1);
        assert!(listeners.lock().is_empty());
    }
}
