//! Whether the guest of a clone has taken its identity.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sandbox_core::Error;
use sandbox_core::gate::Gate;

/// Waits for a guest's confirmation of one generation of its identity.
#[derive(Default)]
pub struct Confirmation {
    on_given: Option<Box<dyn Fn() + Send + Sync>>,
    /// 0 as long as none is awaited.
    generation: AtomicU32,
    /// Whether the guest confirmed; false if it ended first.
    outcome: Gate<bool>,
}

impl Confirmation {
    /// One that calls `on_given` when the guest confirms, on a vCPU's thread: it must return at once.
    pub fn told(on_given: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            on_given: Some(Box::new(on_given)),
            ..Self::default()
        }
    }

    /// The guest is about to be told of `generation`, which is not 0.
    pub fn expect(&self, generation: u32) {
        self.generation.store(generation, Ordering::Release);
    }

    /// The guest confirms `generation`. One that nobody told it of, an earlier one or one that it made up, does not
    /// count.
    pub fn confirm(&self, generation: u32) {
        if generation != 0 && generation == self.generation.load(Ordering::Acquire) {
            let first = self.outcome.open(true);
            if let (true, Some(on_given)) = (first, &self.on_given) {
                on_given();
            }
        }
    }

    /// The generation that the guest has confirmed.
    pub fn given(&self) -> Option<u32> {
        self.is_given().then(|| self.generation.load(Ordering::Acquire))
    }

    /// The guest has ended; it will confirm nothing any more.
    pub fn guest_ended(&self) {
        self.outcome.open(false);
    }

    /// Whether the guest has confirmed.
    pub fn is_given(&self) -> bool {
        self.outcome.get() == Some(true)
    }

    /// Waits until the guest has confirmed.
    pub fn wait(&self, timeout: Duration) -> Result<(), Error> {
        match self.outcome.wait(Some(timeout)) {
            Some(true) => Ok(()),
            Some(false) => {
                let context = "the guest ended before it had confirmed its identity";
                Err(Error::new(sandbox_core::ErrorKind::GuestEnded, context))
            }
            None => Err(Error::timeout("the guest's confirmation of its identity")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox_core::ErrorKind;

    #[test]
    fn only_the_generation_that_is_awaited_counts() {
        let confirmation = Confirmation::default();
        confirmation.confirm(0);
        confirmation.expect(7);
        confirmation.confirm(6);
        assert!(!confirmation.is_given());
        let error = confirmation.wait(Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        confirmation.confirm(7);
        confirmation.guest_ended();
        assert!(confirmation.wait(Duration::ZERO).is_ok());
    }

    #[test]
    fn a_guest_that_ends_keeps_nobody_waiting() {
        let confirmation = Confirmation::default();
        confirmation.expect(7);
        confirmation.guest_ended();
        let error = confirmation.wait(Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GuestEnded);
    }
}
