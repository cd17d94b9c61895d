//! Waiting for frames, or for a time: the one hypercall that takes long.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::argument::Argument;
use super::{Next, Outcome, Outside};
use crate::memory::GuestMemory;

/// Longest time that is waited in one go. A longer one that a guest asks for is as good as for ever.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How a wait came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// A descriptor is readable.
    Ready,
    /// The time is over.
    TimedOut,
    /// The thread was kicked, before or while it waited.
    Kicked,
}

/// A thread that can be told to stop waiting.
pub trait Patience {
    /// Waits until one of `descriptors` is ready, the time is over, or the thread is kicked. A kick is not lost, wherever
    /// it meets the thread.
    ///
    /// # Errors
    /// What the kernel says.
    fn poll(&self, descriptors: &mut [libc::pollfd], timeout: Duration) -> io::Result<Waited>;
}

/// A poll that is under way.
pub(super) struct Pending {
    argument: u32,
    until: Instant,
}

impl Pending {
    /// A poll of `timeout` nanoseconds from now, whose argument stands at `argument`.
    pub(super) fn new(argument: u32, timeout: u64) -> Self {
        Self {
            argument,
            until: Instant::now() + Duration::from_nanos(timeout).min(LONGEST),
        }
    }

    /// Waits for one of the cards, and gives the set of handles that are readable; `None` if kicked.
    pub(super) fn wait(&self, cards: &[(usize, BorrowedFd<'_>)], patience: &dyn Patience) -> io::Result<Option<u64>> {
        let descriptor = |(_, fd): &(usize, BorrowedFd<'_>)| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut descriptors: Vec<_> = cards.iter().map(descriptor).collect();
        let left = self.until.saturating_duration_since(Instant::now());
        match patience.poll(&mut descriptors, left)? {
            Waited::Kicked => Ok(None),
            Waited::TimedOut => Ok(Some(0)),
            Waited::Ready => {
                let readable = descriptors
                    .iter()
                    .zip(cards)
                    .filter(|(descriptor, _)| descriptor.revents != 0);
                Ok(Some(readable.fold(0, |set, (_, (handle, _))| set | 1 << handle)))
            }
        }
    }

    /// Tells the guest.
    pub(super) fn finish(&self, memory: &GuestMemory, readable: u64) -> Next {
        let argument = Argument::new(memory, self.argument);
        let told = argument
            .write(8, readable)
            .and_then(|()| argument.write_outcome(16, Outcome::Done));
        match told {
            Ok(()) => Next::Enter,
            Err(Outside) => Next::Fault("hypercall 3 with an argument outside of its memory".to_owned()),
        }
    }
}
