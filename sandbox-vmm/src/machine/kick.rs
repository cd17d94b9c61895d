//! Getting a vCPU thread out of `KVM_RUN`.
//!
//! A kick sets `immediate_exit` in the vCPU's `kvm_run` page and sends the thread a signal. The flag stays set until
//! the vCPU thread has looked at its orders, so a kick that comes at any point, before, in or behind `KVM_RUN`, is not
//! lost: with the flag set, `KVM_RUN` returns at once; without it, the thread has yet to look.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kvm_ioctls::VcpuFd;

use crate::devices::hvt::{Patience, Waited};

/// Errors of claiming the kick signal.
#[derive(Debug, thiserror::Error)]
pub enum KickError {
    /// The number is not that of a real-time signal.
    #[error("signal {signal} is no real-time signal; give one of {first} to {last}")]
    NotRealTime {
        /// The number asked for.
        signal: i32,
        /// The first that would do.
        first: i32,
        /// The last that would do.
        last: i32,
    },
    /// The process handles that signal itself.
    #[error("signal {0} has a handler already; choose another kick signal")]
    InUse(i32),
    /// Another number was claimed before; one process has one.
    #[error("signal {claimed} is this process's kick signal already, so {asked} cannot be")]
    AlreadyClaimed {
        /// The number in use.
        claimed: i32,
        /// The number asked for.
        asked: i32,
    },
    /// The kernel refused.
    #[error("cannot install the handler of signal {signal}")]
    Install {
        /// The signal.
        signal: i32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The signal that kicks vCPU threads of this process: its handler does nothing, and is the one change that the SDK
/// makes to the process's signal dispositions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KickSignal(i32);

static CLAIMED: OnceLock<i32> = OnceLock::new();

impl KickSignal {
    /// Installs the empty handler for `signal`, or for the one before the last real-time signal if none is given.
    ///
    /// # Errors
    /// [`KickError`]; nothing is changed then.
    pub fn claim(signal: Option<i32>) -> Result<Self, KickError> {
        static CLAIM: Mutex<()> = Mutex::new(());
        let _one_at_a_time = CLAIM.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
        if let Some(claimed) = CLAIMED.get() {
            return match signal {
                Some(asked) if asked != *claimed => Err(KickError::AlreadyClaimed {
                    claimed: *claimed,
                    asked,
                }),
                _ => Ok(Self(*claimed)),
            };
        }
        let signal = signal.unwrap_or(last - 1);
        if !(first..=last).contains(&signal) {
            return Err(KickError::NotRealTime { signal, first, last });
        }
        install(signal)?;
        Ok(Self(*CLAIMED.get_or_init(|| signal)))
    }

    /// Lets the calling thread receive the signal, whatever mask it inherited.
    pub fn unblock(self) -> io::Result<()> {
        // SAFETY: the set is initialised by sigemptyset before it is read, and lives for the calls.
        let result = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, self.0);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut())
        };
        match result {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

extern "C" fn ignore(_signal: libc::c_int) {}

fn install(signal: i32) -> Result<(), KickError> {
    let failed = || KickError::Install {
        signal,
        source: io::Error::last_os_error(),
    };
    // SAFETY: both structures are plain data that live for the calls; the handler does nothing, so it is
    // async-signal-safe. SA_ONSTACK because runtimes such as Go's have goroutine stacks too small for a handler.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &mut old) != 0 {
            return Err(failed());
        }
        if old.sa_sigaction != libc::SIG_DFL {
            return Err(KickError::InUse(signal));
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        if libc::sigaction(signal, &action, std::ptr::null_mut()) != 0 {
            return Err(failed());
        }
    }
    Ok(())
}

/// Where a vCPU thread can be kicked, while there is one.
#[derive(Debug, Default)]
pub struct Kicker(Mutex<Option<Target>>);

#[derive(Debug)]
struct Target {
    thread: libc::pthread_t,
    signal: KickSignal,
    immediate_exit: *const AtomicU8,
}

// SAFETY: the pointer is used only under the kicker's lock while the target is registered, and the registration is
// withdrawn under the same lock before the page it points into is unmapped.
unsafe impl Send for Target {}

/// A vCPU thread's registration; kicks reach it until this is dropped.
pub struct Kickable<'a> {
    kicker: &'a Kicker,
    immediate_exit: *const AtomicU8,
    signal: KickSignal,
}

impl Kicker {
    /// Registers the calling thread, which runs `vcpu`.
    ///
    /// # Safety
    /// The returned value must be dropped, on this thread, before `vcpu` is.
    pub unsafe fn register(&self, vcpu: &mut VcpuFd, signal: KickSignal) -> Kickable<'_> {
        let immediate_exit = (&raw mut vcpu.get_kvm_run().immediate_exit)
            .cast::<AtomicU8>()
            .cast_const();
        // SAFETY: pthread_self has no preconditions.
        let thread = unsafe { libc::pthread_self() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Target {
            thread,
            signal,
            immediate_exit,
        });
        Kickable {
            kicker: self,
            immediate_exit,
            signal,
        }
    }

    /// Makes the registered thread, if there is one, leave `KVM_RUN` and look at its orders.
    pub fn kick(&self) {
        if let Some(target) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // SAFETY: while registered, the page is mapped; the kernel and we both access this byte only whole.
            unsafe { &*target.immediate_exit }.store(1, Ordering::Release);
            // SAFETY: while registered, the thread lives.
            unsafe { libc::pthread_kill(target.thread, target.signal.0) };
        }
    }

    /// Processor time of the registered thread, in nanoseconds; `None` if there is none.
    pub fn thread_cpu_nanoseconds(&self) -> Option<u64> {
        let registered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = registered.as_ref()?.thread;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: while registered, the thread lives; both results are written to variables of this function.
        let read = unsafe {
            let mut clock = 0;
            libc::pthread_getcpuclockid(thread, &mut clock) == 0 && libc::clock_gettime(clock, &mut time) == 0
        };
        read.then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

impl Kickable<'_> {
    /// Takes a kick back, before the thread looks at its orders: kicks from now on are seen in the next `KVM_RUN`.
    pub fn rearm(&self) {
        // SAFETY: this value is dropped before the page is unmapped (see `register`).
        unsafe { &*self.immediate_exit }.store(0, Ordering::Release);
    }
}

/// A vCPU thread that waits for something else than its guest. The signal is held back while the flag is looked at, and
/// let through by the same system call that waits, so that no kick falls between the two.
impl Patience for Kickable<'_> {
    fn poll(&self, descriptors: &mut [libc::pollfd], timeout: Duration) -> io::Result<Waited> {
        let time = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: sigemptyset initialises the set before it is read; both sets live for the calls. The flag's page is
        // mapped while this value lives (see `register`). The descriptors' length is their own.
        let (ready, error) = unsafe {
            let mut held_back: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut held_back);
            libc::sigaddset(&mut held_back, self.signal.0);
            libc::pthread_sigmask(libc::SIG_BLOCK, &held_back, &mut before);
            let result = match (*self.immediate_exit).load(Ordering::Acquire) {
                0 => {
                    let count = descriptors.len() as libc::nfds_t;
                    let ready = libc::ppoll(descriptors.as_mut_ptr(), count, &time, &before);
                    (ready, io::Error::last_os_error())
                }
                _ => (-1, io::Error::from_raw_os_error(libc::EINTR)),
            };
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
            result
        };
        match ready {
            0 => Ok(Waited::TimedOut),
            1.. => Ok(Waited::Ready),
            _ if error.kind() == io::ErrorKind::Interrupted => Ok(Waited::Kicked),
            _ => Err(error),
        }
    }
}

impl Drop for Kickable<'_> {
    fn drop(&mut self) {
        *self.kicker.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_signals_are_refused() {
        // Claimed or not, SIGTERM can never be the kick signal.
        assert!(KickSignal::claim(Some(libc::SIGTERM)).is_err());
    }

    #[test]
    fn one_process_has_one_kick_signal() {
        let claimed = KickSignal::claim(None).unwrap();
        assert_eq!(KickSignal::claim(None).unwrap(), claimed);
        assert!(matches!(
            KickSignal::claim(Some(claimed.0 - 1)),
            Err(KickError::AlreadyClaimed { .. })
        ));
    }

    #[test]
    fn kicking_nobody_is_nothing() {
        Kicker::default().kick();
    }
}
