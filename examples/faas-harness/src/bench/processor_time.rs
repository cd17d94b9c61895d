//! Processor time of this process.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

/// Processor time, in user space and in the kernel, of all threads of this process and of its children that have ended
/// and were waited for.
pub fn processor_time() -> io::Result<Duration> {
    Ok(usage(libc::RUSAGE_SELF)? + usage(libc::RUSAGE_CHILDREN)?)
}

fn usage(who: libc::c_int) -> io::Result<Duration> {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the pointer is to memory of the right size, which the call fills in.
    if unsafe { libc::getrusage(who, usage.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the structure is filled in.
    let usage = unsafe { usage.assume_init() };
    Ok(duration(usage.ru_utime) + duration(usage.ru_stime))
}

fn duration(time: libc::timeval) -> Duration {
    // The kernel's times are never negative, and their microseconds are below a million.
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}
