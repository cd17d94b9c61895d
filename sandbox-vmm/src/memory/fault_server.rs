//! The thread that serves the page faults of one guest's memory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::userfault::Userfault;

const STACK_SIZE: usize = 128 << 10;

/// By what right page faults of a guest are served.
pub enum FaultRights {
    /// Nobody serves them.
    None,
    /// This process' own.
    Own,
    /// A device that this process was handed, by a thread that confines itself first.
    Handed {
        /// Makes descriptors for page faults.
        device: File,
        /// What the thread does first.
        confine: Box<dyn FnOnce() + Send>,
    },
}

/// What is called when pages cannot be served any more.
pub type OnFailure = Box<dyn Fn(String) + Send + Sync>;

/// What the thread does.
pub trait FaultService: Send + 'static {
    /// Serves faults until `stop` is readable, or none can come any more.
    ///
    /// # Errors
    /// Pages cannot be served any more; the faults are given up then.
    fn serve(&mut self, stop: &EventFd) -> io::Result<()>;

    /// Where the faults come from.
    fn userfault(&self) -> &Userfault;

    /// What cannot be done when `serve` fails.
    fn failed(&self) -> &'static str;
}

/// The thread, until this is dropped.
///
/// It needs no lock that others hold and no device: whoever waits for a page, a vCPU or a device, is served. When it
/// cannot serve any more, the sandbox fails, and nobody hangs.
pub struct FaultServer {
    thread: Option<JoinHandle<()>>,
    stop: Arc<EventFd>,
    failure: Arc<Failure>,
}

#[derive(Default)]
struct Failure {
    report: OnceLock<OnFailure>,
    /// What happened before there was anybody to tell.
    untold: Mutex<Option<String>>,
}

impl Failure {
    fn happened(&self, what: String) {
        match self.report.get() {
            Some(report) => report(what),
            None => *self.untold.lock().unwrap_or_else(PoisonError::into_inner) = Some(what),
        }
    }
}

impl FaultServer {
    /// Starts the thread, which does `first` before anything else.
    ///
    /// # Errors
    /// The host has no thread or descriptor left.
    pub fn start(mut service: impl FaultService, first: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
        let failure = Arc::<Failure>::default();
        let (stopped, failed) = (Arc::clone(&stop), Arc::clone(&failure));
        let thread = thread::Builder::new()
            .name("sandbox-pager".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || {
                first();
                if let Err(error) = service.serve(&stopped) {
                    failed.happened(format!("{} ({error})", service.failed()));
                    service.userfault().give_up();
                }
            })?;
        Ok(Self {
            thread: Some(thread),
            stop,
            failure,
        })
    }

    /// Has `report` called when pages cannot be served any more, at once if that is so already.
    pub fn on_failure(&self, report: OnFailure) {
        if self.failure.report.set(report).is_ok()
            && let Some(what) = self
                .failure
                .untold
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        {
            self.failure.happened(what);
        }
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        // An eventfd that is full is readable all the same.
        let _ = self.stop.write(1);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the pager panicked");
        }
    }
}

/// What a thread was woken by.
pub enum Woken {
    /// It is to end.
    Stop,
    /// A page may be asked for.
    Fault,
    /// The time has passed.
    Nothing,
}

/// Waits for an order to stop or a fault, up to `patience` milliseconds; for ever if that is negative.
pub fn wait(stop: &EventFd, userfault: &Userfault, patience: i32) -> io::Result<Woken> {
    let descriptor = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut descriptors = [descriptor(stop.as_raw_fd()), descriptor(userfault.fd())];
    loop {
        // SAFETY: the array is as long as is said, and lives for the call.
        let count = unsafe { libc::poll(descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t, patience) };
        match io::Error::last_os_error() {
            error if count < 0 && error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ if count > 0 && descriptors[0].revents != 0 => return Ok(Woken::Stop),
            _ if count > 0 => return Ok(Woken::Fault),
            _ if count < 0 => {}
            _ => return Ok(Woken::Nothing),
        }
    }
}
