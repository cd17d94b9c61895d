//! Real time and processor time, read together.

use std::io;
use std::mem::MaybeUninit;
use std::process::Child;

/// A span of time, both in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    /// Real time.
    pub(crate) real: u64,
    /// Processor time.
    pub(crate) cpu: u64,
}

/// Real time, and processor time of all threads of this process and of its children that have ended, in nanoseconds.
pub(crate) fn now() -> Span {
    Span {
        real: read(libc::CLOCK_MONOTONIC),
        cpu: read(libc::CLOCK_PROCESS_CPUTIME_ID) + children(),
    }
}

fn children() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the result is written to a variable of this function, which was zeroed before.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    used(&usage)
}

fn used(usage: &libc::rusage) -> u64 {
    let nanoseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime)
}

impl Span {
    /// From `earlier` to this.
    pub(crate) fn since(self, earlier: Span) -> Span {
        Span {
            real: self.real - earlier.real,
            cpu: self.cpu - earlier.cpu,
        }
    }
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the result is written to a variable of this function.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Waits for a child's end; its processor time, its own children's included, in nanoseconds.
pub(crate) fn reap(child: Child) -> io::Result<u64> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let mut status = 0;
    loop {
        // SAFETY: both results are written to variables of this function. The child is ours and not yet waited for,
        // and `Child` neither waits nor kills when it is dropped.
        let result = unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, usage.as_mut_ptr()) };
        match (result, io::Error::last_os_error()) {
            (-1, error) if error.kind() == io::ErrorKind::Interrupted => {}
            (-1, error) => return Err(error),
            _ => break,
        }
    }
    // SAFETY: zeroed above, and filled by the call that succeeded.
    let usage = unsafe { usage.assume_init() };
    Ok(used(&usage))
}
