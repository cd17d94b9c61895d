//! A device that vCPU threads and the event loop share.
//!
//! An event of the host that finds the device busy does not wait for it: it is noted, and whoever holds the device
//! serves it when it lets go. A thread that waited instead would be woken by the very work that it waits for (a frame
//! that the guest sends is answered before the call that sends it returns), only to go back to sleep: two changes of
//! threads for each frame.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::{Progress, VirtioDevice};

/// Rounds in which a thread that is not there to serve a device works off what came meanwhile, before it leaves the
/// rest to the next one: more than a tap's whole queue takes.
const ROUNDS_ON_RELEASE: usize = 16;

/// A device behind its lock, and the events that wait for it.
pub struct Shared<D: ?Sized> {
    /// Events to be served, a bit for each token.
    waiting: AtomicU32,
    device: Mutex<D>,
}

impl<D> Shared<D> {
    /// A device that nobody holds.
    pub fn new(device: D) -> Self {
        Self {
            waiting: AtomicU32::new(0),
            device: Mutex::new(device),
        }
    }
}

impl<D: VirtioDevice + ?Sized> Shared<D> {
    /// Holds the device. Events that come meanwhile are served when it is released.
    pub fn lock(&self) -> Held<'_, D> {
        Held {
            device: self.acquire(),
            _release: Release(self),
        }
    }

    /// Serves the device by `work`, and then what came meanwhile.
    pub fn serve(&self, work: impl FnOnce(&mut D) -> Progress) -> Progress {
        let progress = work(&mut self.acquire());
        progress.and(self.serve_waiting())
    }

    /// Tells the device of an event, by its token; or has whoever holds the device tell it.
    pub fn tell(&self, token: u32) -> Progress {
        self.waiting.fetch_or(bit(token), Ordering::SeqCst);
        self.serve_waiting()
    }

    /// To be called after each release of the lock: either this sees an event that was noted meanwhile, or the one who
    /// noted it finds the lock free.
    fn serve_waiting(&self) -> Progress {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return Progress::Waiting;
        }
        let mut device = match self.device.try_lock() {
            Ok(device) => device,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Progress::Waiting,
        };
        let events = self.waiting.swap(0, Ordering::SeqCst);
        let mut unfinished = 0;
        for token in (0..u32::BITS).filter(|token| events & bit(*token) != 0) {
            if device.host_event(token) == Progress::More {
                unfinished |= bit(token);
            }
        }
        drop(device);
        fence(Ordering::SeqCst);
        match self.waiting.fetch_or(unfinished, Ordering::SeqCst) | unfinished {
            0 => Progress::Waiting,
            _ => Progress::More,
        }
    }

    fn acquire(&self) -> MutexGuard<'_, D> {
        // A device that panicked under its lock is no reason to panic again: its sandbox goes on as far as it can.
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Devices have a handful of events; a token beyond the bits would be one that no device lists.
fn bit(token: u32) -> u32 {
    1u32.checked_shl(token).unwrap_or(0)
}

/// A device that this thread holds.
pub struct Held<'a, D: VirtioDevice + ?Sized> {
    // In this order: first released, then served.
    device: MutexGuard<'a, D>,
    _release: Release<'a, D>,
}

impl<D: VirtioDevice + ?Sized> Deref for Held<'_, D> {
    type Target = D;

    fn deref(&self) -> &D {
        &self.device
    }
}

impl<D: VirtioDevice + ?Sized> DerefMut for Held<'_, D> {
    fn deref_mut(&mut self) -> &mut D {
        &mut self.device
    }
}

/// Serves, once the device is released, what came meanwhile.
struct Release<'a, D: VirtioDevice + ?Sized>(&'a Shared<D>);

impl<D: VirtioDevice + ?Sized> Drop for Release<'_, D> {
    fn drop(&mut self) {
        let mut rounds = 0..ROUNDS_ON_RELEASE;
        while rounds.next().is_some() && self.0.serve_waiting() == Progress::More {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;

    use super::*;
    use crate::devices::virtio::test_support::EventCounter;

    #[test]
    fn an_event_that_finds_the_device_busy_is_served_by_its_holder() {
        let shared = Arc::new(Shared::new(EventCounter::new(1)));
        let held = shared.lock();
        let teller = Arc::clone(&shared);
        // It does not wait for this thread.
        thread::spawn(move || assert_eq!(teller.tell(3), Progress::Waiting))
            .join()
            .unwrap();
        assert!(held.events.is_empty());
        drop(held);
        assert_eq!(shared.lock().events, [3]);
        assert_eq!(shared.serve(|_| Progress::Waiting), Progress::Waiting);
        assert_eq!(shared.lock().events, [3], "served twice");
    }

    #[test]
    fn what_an_event_leaves_over_is_served_when_it_is_asked_for_again() {
        let shared = Shared::new(EventCounter::new(3));
        assert_eq!(shared.tell(0), Progress::More);
        assert_eq!(shared.serve(|_| Progress::Waiting), Progress::More);
        assert_eq!(shared.serve(|_| Progress::Waiting), Progress::Waiting);
        assert_eq!(shared.lock().events, [0, 0, 0]);
    }

    #[test]
    fn no_event_is_lost_between_two_threads() {
        const EVENTS: u32 = 20_000;
        let shared = Arc::new(Shared::new(EventCounter::new(1)));
        let (sender, receiver) = mpsc::channel();
        let teller = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for _ in 0..EVENTS {
                // The last event must be served before the next one is told, by whichever thread.
                while teller.tell(5) == Progress::More {}
                sender.send(()).unwrap();
            }
        });
        let mut told = 0;
        while told < EVENTS {
            while shared.serve(|_| Progress::Waiting) == Progress::More {}
            told += receiver.try_iter().count() as u32;
        }
        thread.join().unwrap();
        while shared.serve(|_| Progress::Waiting) == Progress::More {}
        assert_eq!(shared.waiting.load(Ordering::SeqCst), 0);
        let events = shared.lock().events.len();
        assert!((1..=EVENTS as usize).contains(&events), "{events}");
    }
}
