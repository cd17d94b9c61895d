//! Things made ahead of time: restored sandboxes, or parts of them.
//!
//! ```text
//! Pool::new ── its thread makes, one at a time, until `size` are ready
//! take      ── gives one that is ready, at once, or none; the thread makes another
//! drop      ── the thread ends, what is ready is given back
//! ```
//!
//! Whoever takes never waits for something to be made: without one that is ready there is `None`, and the caller makes
//! its own, or waits if that is what it wants.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

/// The most that a pool holds ready: each may be a virtual machine of the host's kernel.
pub const MAX_SIZE: usize = 4096;

/// A number of things that are ready to be taken, and a thread that makes more.
pub struct Pool<T> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    ready: VecDeque<T>,
    metrics: PoolMetrics,
    /// How many were taken whose places are not to be filled yet.
    held_back: usize,
    /// The last attempt failed, and nobody has taken anything since.
    discouraged: bool,
    closed: bool,
}

/// What a pool has done, since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolMetrics {
    /// How many it is to hold ready.
    pub size: usize,
    /// How many are ready now.
    pub ready: usize,
    /// How often one was taken.
    pub taken: u64,
    /// How often one was asked for and none was ready.
    pub missed: u64,
    /// How many were made.
    pub made: u64,
    /// How many could not be made.
    pub failed: u64,
    /// Why the last of those could not.
    pub last_error: Option<String>,
    /// How long making those took that were made, all together.
    pub time_spent: Duration,
}

impl<T: Send + 'static> Pool<T> {
    /// A pool of `size` things that `make` makes, on a thread of their own that begins at once. When one cannot be made,
    /// the next attempt is made when somebody takes one, or asks for one in vain.
    ///
    /// # Errors
    /// A size of 0 or above [`MAX_SIZE`], or a host without threads left.
    pub fn new(size: usize, mut make: impl FnMut() -> Result<T> + Send + 'static) -> Result<Self> {
        if !(1..=MAX_SIZE).contains(&size) {
            let context = format!("a pool of {size} is not possible; give 1 to {MAX_SIZE}");
            return Err(Error::invalid("size", context));
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                ready: VecDeque::with_capacity(size),
                metrics: PoolMetrics {
                    size,
                    ..PoolMetrics::default()
                },
                held_back: 0,
                discouraged: false,
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let filled = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("sandbox-pool".to_owned())
            .spawn(move || filled.keep_full(&mut make))
            .map_err(|error| {
                Error::new(ErrorKind::HostExhausted, "the host has no thread left for a pool").with_source(error)
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// One that is ready, the oldest first; `None` if there is none. Never waits.
    pub fn take(&self) -> Option<T> {
        self.take_before_refill().map(|(taken, _)| taken)
    }

    /// The same, and its place is not filled before the [`Refill`] is dropped: whoever is in a hurry with what was taken
    /// does not share the processor, and the kernel's locks, with the making of another.
    pub fn take_before_refill(&self) -> Option<(T, Refill)> {
        let mut state = self.shared.lock();
        state.discouraged = false;
        match state.ready.pop_front() {
            Some(taken) => {
                state.metrics.taken += 1;
                state.held_back += 1;
                drop(state);
                Some((taken, Refill(Arc::clone(&self.shared) as Arc<dyn Refillable>)))
            }
            None => {
                state.metrics.missed += 1;
                drop(state);
                self.shared.changed.notify_all();
                None
            }
        }
    }

    /// Waits until the pool is full; false when `timeout` is over first, or something could not be made.
    pub fn wait_full(&self, timeout: Duration) -> bool {
        self.wait_ready(self.metrics().size, timeout)
    }

    /// Waits until at least `count` are ready; false when `timeout` is over first, something could not be made, or the
    /// pool never holds so many. They are anybody's: what is ready now may be taken by another caller.
    pub fn wait_ready(&self, count: usize, timeout: Duration) -> bool {
        let state = self.shared.lock();
        if count > state.metrics.size {
            return false;
        }
        let unfinished = |state: &mut State<T>| state.ready.len() < count && !state.discouraged;
        let waited = self.shared.changed.wait_timeout_while(state, timeout, unfinished);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.ready.len() >= count
    }

    /// What it has done up to now.
    pub fn metrics(&self) -> PoolMetrics {
        let state = self.shared.lock();
        PoolMetrics {
            ready: state.ready.len(),
            ..state.metrics.clone()
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A maker that panicked did so without the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_full(&self, make: &mut dyn FnMut() -> Result<T>) {
        while self.wait_for_room() {
            let began = Instant::now();
            let made = make();
            let mut state = self.lock();
            match made {
                Ok(thing) => {
                    state.metrics.made += 1;
                    state.metrics.time_spent += began.elapsed();
                    state.ready.push_back(thing);
                }
                Err(error) => {
                    state.metrics.failed += 1;
                    state.metrics.last_error = Some(error.report());
                    state.discouraged = true;
                }
            }
            drop(state);
            self.changed.notify_all();
        }
        // Given back here, without the lock: that takes its time.
        let ready = std::mem::take(&mut self.lock().ready);
        drop(ready);
    }

    /// False when the pool is closed.
    fn wait_for_room(&self) -> bool {
        let idle = |state: &mut State<T>| !state.closed && (!state.has_room() || state.discouraged);
        let state = self.changed.wait_while(self.lock(), idle);
        !state.unwrap_or_else(PoisonError::into_inner).closed
    }
}

/// Keeps a pool from filling the place of what was taken; dropped, it lets it.
#[must_use]
pub struct Refill(Arc<dyn Refillable>);

impl Drop for Refill {
    fn drop(&mut self) {
        self.0.refill();
    }
}

/// A pool of anything.
trait Refillable: Send + Sync {
    /// Fills one more place that was held back.
    fn refill(&self);
}

impl<T: Send> Refillable for Shared<T> {
    fn refill(&self) {
        self.lock().held_back -= 1;
        self.changed.notify_all();
    }
}

impl<T> State<T> {
    fn has_room(&self) -> bool {
        self.ready.len() + self.held_back < self.metrics.size
    }
}

/// Waits for what is just being made, and until what is ready is given back.
impl<T> Drop for Pool<T> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A maker that panicked left nothing to be given back.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn it_fills_up_gives_the_oldest_and_makes_another() {
        let mut next = 0;
        let make = move || {
            next += 1;
            Ok(next)
        };
        let pool = Pool::new(3, make).unwrap();
        assert!(pool.wait_full(PATIENCE));
        assert_eq!([pool.take(), pool.take()], [Some(1), Some(2)]);
        assert!(pool.wait_full(PATIENCE));
        let metrics = pool.metrics();
        assert_eq!(
            (metrics.ready, metrics.taken, metrics.made, metrics.missed),
            (3, 2, 5, 0)
        );
    }

    #[test]
    fn who_needs_one_does_not_wait_for_all() {
        let (allow, allowed) = mpsc::channel::<()>();
        let pool = Pool::new(2, move || allowed.recv().map_err(|_| Error::timeout("the test"))).unwrap();
        assert!(!pool.wait_ready(1, Duration::from_millis(20)));
        allow.send(()).unwrap();
        assert!(pool.wait_ready(1, PATIENCE));
        assert!(!pool.wait_ready(2, Duration::from_millis(20)));
        assert!(!pool.wait_ready(3, PATIENCE), "it never holds three");
        drop(allow);
        assert!(!pool.wait_ready(2, PATIENCE), "it cannot make another");
    }

    #[test]
    fn a_place_is_not_filled_before_its_taker_lets_it() {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let pool = Pool::new(2, move || Ok(counted.fetch_add(1, Ordering::SeqCst))).unwrap();
        assert!(pool.wait_full(PATIENCE));
        let (first, refill) = pool.take_before_refill().unwrap();
        // This place is filled, by a thread that could have filled the other as well.
        assert_eq!((first, pool.take()), (0, Some(1)));
        assert!(pool.wait_ready(1, PATIENCE));
        assert!(!pool.wait_full(Duration::from_millis(20)));
        assert_eq!(made.load(Ordering::SeqCst), 3);
        drop(refill);
        assert!(pool.wait_full(PATIENCE));
        assert_eq!(pool.take(), Some(2));
    }

    #[test]
    fn who_takes_does_not_wait_for_what_is_being_made() {
        let (allow, allowed) = mpsc::channel::<()>();
        let pool = Pool::new(1, move || allowed.recv().map_err(|_| Error::timeout("the test"))).unwrap();
        assert_eq!(pool.take(), None);
        allow.send(()).unwrap();
        assert!(pool.wait_full(PATIENCE));
        assert_eq!(pool.take(), Some(()));
        assert_eq!(pool.metrics().missed, 1);
        drop(allow);
    }

    #[test]
    fn after_a_failure_it_tries_again_when_somebody_asks_and_not_by_itself() {
        let attempts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&attempts);
        let make = move || match counted.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Error::timeout("the first")),
            attempt => Ok(attempt),
        };
        let pool = Pool::new(2, make).unwrap();
        assert!(!pool.wait_full(PATIENCE));
        assert_eq!(attempts.load(Ordering::SeqCst), 1);
        let metrics = pool.metrics();
        assert_eq!(metrics.failed, 1);
        assert!(metrics.last_error.unwrap().contains("the first"));
        assert_eq!(pool.take(), None);
        assert!(pool.wait_full(PATIENCE));
    }

    #[test]
    fn what_is_ready_is_given_back_with_the_pool() {
        let thing = Arc::new(());
        let made = Arc::clone(&thing);
        let pool = Pool::new(4, move || Ok(Arc::clone(&made))).unwrap();
        assert!(pool.wait_full(PATIENCE));
        drop(pool);
        assert_eq!(Arc::strong_count(&thing), 1);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for size in [0, MAX_SIZE + 1] {
            assert_eq!(Pool::new(size, || Ok(())).err().unwrap().field(), Some("size"));
        }
    }
}
