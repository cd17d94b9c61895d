//! Processor time.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

/// Whose processor time is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessorClock {
    /// All threads of this process and its children that have ended and were waited for.
    Process,
    /// Everything that runs on this host, kernel threads included: for hosts on which nothing else runs.
    Host,
}

impl ProcessorClock {
    /// Processor time up to now, in user space and in the kernel.
    pub fn now(self) -> io::Result<Duration> {
        match self {
            Self::Process => Ok(usage(libc::RUSAGE_SELF)? + usage(libc::RUSAGE_CHILDREN)?),
            Self::Host => {
                let text = fs::read_to_string("/proc/schedstat")?;
                let time = run_time(&text).ok_or_else(|| io::Error::other("/proc/schedstat tells no time"))?;
                Ok(Duration::from_nanos(time))
            }
        }
    }
}

/// The time, in nanoseconds, that all processors have run tasks: the seventh number of each of their lines.
fn run_time(text: &str) -> Option<u64> {
    let processors = text.lines().filter(|line| line.starts_with("cpu"));
    let times: Option<Vec<u64>> = processors
        .map(|line| line.split_whitespace().nth(7)?.parse().ok())
        .collect();
    times.filter(|times| !times.is_empty()).map(|times| times.iter().sum())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_all_processors_are_added() {
        let text = "version 15\ntimestamp 1\ncpu0 0 0 0 0 0 0 70 8 9\ndomain0 1\ncpu1 0 0 0 0 0 0 5 8 9\n";
        assert_eq!(run_time(text), Some(75));
        assert_eq!(run_time("version 15\n"), None);
    }
}
