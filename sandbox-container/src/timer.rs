//! A deadline among the things that a backend waits for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::reactor::{Next, Source};

type Action = Box<dyn FnOnce() + Send>;

/// Does something once, after a time.
pub struct Timer {
    descriptor: OwnedFd,
    action: Mutex<Option<Action>>,
}

impl Timer {
    /// Begins to count.
    pub fn start(after: Duration, action: Action) -> io::Result<Self> {
        let descriptor = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec {
            it_interval: never,
            it_value: Timespec {
                tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(after.subsec_nanos()),
            },
        };
        timerfd_settime(&descriptor, TimerfdTimerFlags::empty(), &once)?;
        Ok(Self {
            descriptor,
            action: Mutex::new(Some(action)),
        })
    }
}

impl Source for Timer {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    fn ready(&self) -> Next {
        let action = self.action.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(action) = action {
            action();
        }
        Next::Remove
    }
}
