//! The library's dealings with the process that it lives in: forks, panics, signals.

use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set in a process that was forked off the one that used the library: its threads are not there, and locks that they
/// held are held for ever.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Whether this process was forked off the one that used the library.
pub fn is_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Signals that a thread raises by its own fault; they are left alone, so that crash handlers see them.
const FAULTS: [libc::c_int; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGABRT,
];

extern "C" fn in_child() {
    FORKED.store(true, Ordering::Relaxed);
}

/// What has to be done once, before anything else.
pub fn prepare() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        // SAFETY: the handler only stores to an atomic variable, which may be done in a child of a process with
        // threads. The library is linked so that it is never unmapped.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        // This copy of Rust's runtime is the library's own: panics elsewhere in the process are not affected.
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    });
}

/// Keeps signals away from the calling thread, so that threads that begin meanwhile inherit that: signals sent to the
/// process are for its own threads. Given back when dropped.
pub struct SignalsHeld(libc::sigset_t);

impl SignalsHeld {
    pub fn new() -> Self {
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: both sets are initialised before they are read and live for the calls, which cannot fail: their
        // arguments are valid.
        unsafe {
            let mut held = MaybeUninit::<libc::sigset_t>::zeroed();
            libc::sigfillset(held.as_mut_ptr());
            for fault in FAULTS {
                libc::sigdelset(held.as_mut_ptr(), fault);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, held.as_ptr(), before.as_mut_ptr());
            Self(before.assume_init())
        }
    }
}

impl Drop for SignalsHeld {
    fn drop(&mut self) {
        // SAFETY: the set was filled in by the kernel.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}
