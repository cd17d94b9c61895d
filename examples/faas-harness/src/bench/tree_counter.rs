//! Counts of this process and of everything that it starts, by the kernel's performance events (perf_event_open(2)).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::FromRawFd;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nanoseconds of processor time. Every kernel counts them.
    TaskClock,
    /// Instructions, by the processor's own counter, which not every host has; those of guests count too.
    Instructions,
}

impl Event {
    /// `type` and `config` of its attributes.
    fn numbers(self) -> (u32, u64) {
        const PERF_TYPE_HARDWARE: u32 = 0;
        const PERF_TYPE_SOFTWARE: u32 = 1;
        const PERF_COUNT_HW_INSTRUCTIONS: u64 = 1;
        const PERF_COUNT_SW_TASK_CLOCK: u64 = 1;
        match self {
            Self::TaskClock => (PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK),
            Self::Instructions => (PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS),
        }
    }
}

/// A counter of the thread that opens it, and of all threads and processes that it starts afterwards, and these in turn,
/// also when they have ended or have another parent by now.
#[derive(Debug)]
pub struct TreeCounter {
    event: File,
}

/// `struct perf_event_attr` as it was first published, which every kernel takes.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
}

/// The descriptor is not passed on to other programs.
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
/// Of `Attributes::flags`: threads and processes to come are counted too.
const INHERIT: u64 = 1 << 1;

impl TreeCounter {
    /// Counts from now on.
    ///
    /// # Errors
    /// The host has no such counter, or does not let this user have it; the message says which.
    pub fn open(event: Event) -> io::Result<Self> {
        let (kind, config) = event.numbers();
        let attributes = Attributes {
            kind,
            config,
            size: size_of::<Attributes>() as u32,
            flags: INHERIT,
            ..Attributes::default()
        };
        let (this_thread, any_processor, no_group): (libc::pid_t, libc::c_int, libc::c_int) = (0, -1, -1);
        // SAFETY: the kernel reads as many bytes of the structure as its own field says, which are all of it.
        let descriptor = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                this_thread,
                any_processor,
                no_group,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so that this is a new descriptor, which nobody else has.
        let event = unsafe { File::from_raw_fd(descriptor as libc::c_int) };
        Ok(Self { event })
    }

    /// The count up to now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn now(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        (&self.event).read_exact(&mut count)?;
        Ok(u64::from_ne_bytes(count))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use super::*;

    /// Spends some of the processor's time.
    fn work() -> u64 {
        (0..5_000_000_u64).fold(1, |sum, number| std::hint::black_box(sum ^ number).rotate_left(5))
    }

    #[test]
    fn threads_and_processes_that_have_ended_are_counted() {
        let Ok(counter) = TreeCounter::open(Event::TaskClock) else {
            return sandbox_testing::skip("needs the right to use performance events");
        };
        let before = counter.now().unwrap();
        thread::spawn(work).join().unwrap();
        let with_thread = counter.now().unwrap();
        let loops = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
        assert!(Command::new("sh").args(["-c", loops]).status().unwrap().success());
        let with_process = counter.now().unwrap();
        const MILLISECOND: u64 = 1_000_000;
        assert!(with_thread > before + MILLISECOND, "{before} {with_thread}");
        assert!(with_process > with_thread + MILLISECOND, "{with_thread} {with_process}");
    }
}
