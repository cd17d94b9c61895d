//! What a function's instances share, made when the first of them needs it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::LaunchError;

/// A thing that is made once, and given up once.
pub struct Lazy<T> {
    state: Mutex<State<T>>,
}

enum State<T> {
    Empty,
    Made(Arc<T>),
    Closed,
}

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State::Empty),
        }
    }
}

impl<T> Lazy<T> {
    /// The thing, made by `make` if there is none yet, or none that `is_sound`. Whoever comes meanwhile waits for it.
    pub(super) fn get(
        &self,
        is_sound: impl FnOnce(&T) -> bool,
        make: impl FnOnce() -> Result<T, LaunchError>,
    ) -> Result<Arc<T>, LaunchError> {
        let mut state = self.lock();
        match &*state {
            State::Made(thing) if is_sound(thing) => Ok(Arc::clone(thing)),
            State::Closed => Err(LaunchError::internal(&"the function is being removed")),
            State::Made(_) | State::Empty => {
                *state = State::Empty;
                let thing = Arc::new(make()?);
                *state = State::Made(Arc::clone(&thing));
                Ok(thing)
            }
        }
    }

    /// The thing, if it was made. Waits while it is being made.
    pub(super) fn made(&self) -> Option<Arc<T>> {
        match &*self.lock() {
            State::Made(thing) => Some(Arc::clone(thing)),
            State::Empty | State::Closed => None,
        }
    }

    /// Gives the thing up, for good, unless somebody still uses it: then that is who does.
    pub(super) fn close(&self) {
        let old = std::mem::replace(&mut *self.lock(), State::Closed);
        drop(old);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_tried_again_after_a_failure_and_never_after_the_end() {
        let lazy = Lazy::default();
        assert!(lazy.get(|_| true, || Err(LaunchError::internal(&"no"))).is_err());
        assert_eq!(*lazy.get(|_| true, || Ok(1)).unwrap(), 1);
        assert_eq!(*lazy.get(|_| true, || Ok(2)).unwrap(), 1);
        assert_eq!(*lazy.get(|_| false, || Ok(3)).unwrap(), 3);
        lazy.close();
        assert!(lazy.get(|_| true, || Ok(4)).is_err());
    }
}
