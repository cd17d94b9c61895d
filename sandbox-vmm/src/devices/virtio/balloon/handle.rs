//! The machine's hold on the balloon.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::BalloonStatistics;

/// Why a balloon did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum BalloonError {
    /// The guest would be left without memory.
    #[error("balloon target of {target} pages would take all of the guest's {guest} pages: choose a smaller one")]
    TargetTooLarge {
        /// Pages asked for.
        target: u32,
        /// Pages that the guest has.
        guest: u64,
    },
    /// The balloon was made without statistics.
    #[error("the balloon has no statistics: set balloon.statistics in the spec")]
    NoStatistics,
    /// The driver did not answer.
    #[error("the guest's balloon driver sent no statistics in time: it may not be loaded yet")]
    StatisticsTimeout,
    /// The event loop could not be woken.
    #[error("cannot wake the balloon")]
    Wake(#[source] io::Error),
}

/// Works one guest's balloon from any thread. What it asks for is done by the VM's event loop, and by the guest's driver
/// as far as it wants.
#[derive(Clone)]
pub struct BalloonHandle(Arc<Shared>);

/// What handle and device share.
pub(super) struct Shared {
    /// Wakes the device for a new target or a wish for statistics.
    pub(super) wake: EventFd,
    /// Pages that the guest has.
    pub(super) guest_pages: u64,
    /// Whether the balloon offers statistics.
    pub(super) has_statistics: bool,
    /// Pages that the balloon should hold.
    pub(super) target: AtomicU32,
    /// Pages that it holds, by the driver's word.
    pub(super) actual: AtomicU32,
    /// Bytes discarded since the start.
    pub(super) discarded: AtomicU64,
    /// New statistics are wanted.
    pub(super) statistics_wanted: AtomicBool,
    statistics: Mutex<Received>,
    arrived: Condvar,
}

/// The last statistics, and how many came before them.
#[derive(Clone, Copy, Default)]
struct Received {
    count: u64,
    latest: Option<BalloonStatistics>,
}

impl Shared {
    pub(super) fn new(wake: EventFd, guest_pages: u64, has_statistics: bool, target: u32) -> Self {
        Self {
            wake,
            guest_pages,
            has_statistics,
            target: AtomicU32::new(target),
            actual: AtomicU32::new(0),
            discarded: AtomicU64::new(0),
            statistics_wanted: AtomicBool::new(false),
            statistics: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    /// The driver sent statistics.
    pub(super) fn put_statistics(&self, statistics: BalloonStatistics) {
        let mut received = self.received();
        received.count += 1;
        received.latest = Some(statistics);
        self.arrived.notify_all();
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        // The two fields are only ever set together.
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BalloonHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Asks the guest to give up `pages` of 4096 bytes in all; fewer than before gives some of them back. The
    /// driver gets there in its own time, or not at all: [`BalloonHandle::actual`] tells how far it is.
    ///
    /// # Errors
    /// [`BalloonError::TargetTooLarge`] for all of the guest's memory or more, and then nothing changes.
    pub fn set_target(&self, pages: u32) -> Result<(), BalloonError> {
        if u64::from(pages) >= self.0.guest_pages {
            return Err(BalloonError::TargetTooLarge {
                target: pages,
                guest: self.0.guest_pages,
            });
        }
        self.0.target.store(pages, Ordering::Release);
        self.wake()
    }

    /// Pages that the balloon should hold.
    pub fn target(&self) -> u32 {
        self.0.target.load(Ordering::Acquire)
    }

    /// Pages that it holds, by the driver's word.
    pub fn actual(&self) -> u32 {
        self.0.actual.load(Ordering::Acquire)
    }

    /// Bytes discarded since the start, ballooned and reported ones; the guest may have touched some of them again.
    pub fn discarded_bytes(&self) -> u64 {
        self.0.discarded.load(Ordering::Relaxed)
    }

    /// The statistics that the driver sent last, if any.
    pub fn statistics(&self) -> Option<BalloonStatistics> {
        self.0.received().latest
    }

    /// Asks the driver for new statistics and does not wait for them.
    ///
    /// # Errors
    /// [`BalloonError::NoStatistics`] if the balloon was made without.
    pub fn request_statistics(&self) -> Result<(), BalloonError> {
        if !self.0.has_statistics {
            return Err(BalloonError::NoStatistics);
        }
        self.0.statistics_wanted.store(true, Ordering::Release);
        self.wake()
    }

    /// Asks the driver for new statistics and waits for them.
    ///
    /// # Errors
    /// [`BalloonError::NoStatistics`] if the balloon was made without, [`BalloonError::StatisticsTimeout`] if the driver
    /// does not answer.
    pub fn refresh_statistics(&self, timeout: Duration) -> Result<BalloonStatistics, BalloonError> {
        let received = self.0.received();
        let old = received.count;
        // Asked for under the lock: the answer cannot come before this thread waits for it.
        self.request_statistics()?;
        let (received, _) = self
            .0
            .arrived
            .wait_timeout_while(received, timeout, |received| received.count == old)
            .unwrap_or_else(PoisonError::into_inner);
        match received.latest {
            Some(statistics) if received.count != old => Ok(statistics),
            _ => Err(BalloonError::StatisticsTimeout),
        }
    }

    fn wake(&self) -> Result<(), BalloonError> {
        self.0.wake.write(1).map_err(BalloonError::Wake)
    }
}
