//! The worker home: a micro-VM in a small, jailed process of its own.
//!
//! ```text
//! embedder                                           worker
//! open(spec): files, taps, sockets, kernel
//! Workers::take ──clone + exec, in new namespaces──▶ run_if_worker
//!               ──Prepare, /dev/kvm───────────────▶ jail: root, user, capabilities, Landlock, limits
//! Link ─────────Launch, descriptors────────────────▶ assemble: the same code as in process
//! Proxy ────────Start──────────────────────────────▶ threads, a seccomp filter each, then guest code
//!      ◀────────phases, console, ready, exit────────
//! ```
//!
//! The embedder opens everything that a spec names; the worker opens nothing. What the worker says is believed as far
//! as it concerns its own sandbox, and every wait for it has a deadline. A worker that dies, hangs or talks nonsense is
//! a sandbox that failed, with the reason in its exit; the end of the embedder, whatever its kind, is the end of the
//! socket, and that is the end of the worker.

mod client;
mod clones;
mod confine;
mod jail;
mod launch;
mod link;
mod making;
#[cfg(feature = "malice")]
pub mod malice;
pub mod packets;
mod process;
mod program;
pub(crate) mod protocol;
mod proxy;
mod server;
mod steward;
mod workshop;

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sandbox_core::gate::Gate;
use sandbox_core::{Error, ErrorKind, Result, Weakness};

use crate::error::{kind_of, with_cause};
use crate::machine::host::{KvmFacts, KvmHost};
use crate::machine::shell::ShellKind;
pub use client::Home;
pub use clones::restore;
pub(crate) use jail::cgroup::least_threads;
pub use launch::Cargo;
use link::Link;
pub use making::{Order, begin};
use process::{Process, Spawned};
pub use program::beside_library;
use protocol::channel::Channel;
use protocol::{Answer, Filters, JailPlan, Preparation, Request};
pub use server::run_if_worker;
use steward::{Household, Steward};

/// The list of system calls that each kind of a worker's threads may make, as text.
pub fn seccomp_report() -> String {
    jail::seccomp::report()
}

/// How workers are made.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The worker's program. If left out: the one that the variable `SANDBOX_WORKER` names; this program, if it calls
    /// `run_if_worker`; `sandbox-worker` beside this library, beside this program, or in `PATH`.
    pub program: Option<PathBuf>,
    /// User and group that workers become where the embedder is root.
    pub user: (u32, u32),
    /// Filter the system calls of workers. Without, their weaknesses say so.
    pub seccomp: bool,
    /// Workers kept ready, each in its jail and with a VM like that of the last sandbox, so that a sandbox does not wait
    /// for one to be made.
    pub idle: usize,
    /// How long a worker may take for a call before it counts as lost.
    pub patience: Duration,
    /// The control group below which each worker gets its own, with the limits of its spec: a folder of the unified
    /// hierarchy, or the path below each controller's. The embedder's own if left out, and then only for a spec whose
    /// limits need one.
    pub cgroup: Option<PathBuf>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        const NOBODY: u32 = 65534;
        Self {
            program: None,
            user: (NOBODY, NOBODY),
            seccomp: true,
            idle: 0,
            patience: Duration::from_secs(30),
            cgroup: None,
        }
    }
}

/// Makes workers, and keeps some ready.
pub struct Workers {
    steward: Steward,
    program: Arc<File>,
    options: WorkerOptions,
    kvm: File,
    facts: KvmFacts,
    filters: Option<Filters>,
    idle: Mutex<VecDeque<Candidate>>,
    /// What the VM of the last sandbox is like: that of the next is likely to be alike.
    kind: Mutex<Option<ShellKind>>,
}

/// A worker that was asked to prepare itself.
struct Candidate {
    link: Arc<Link>,
    /// The call by which it was asked.
    prepared: u32,
}

/// A worker for one sandbox.
pub struct Hired {
    /// The worker.
    pub link: Arc<Link>,
    /// The call whose answer says what its jail lacks.
    prepared: u32,
    /// It was made for this sandbox, which pays for its beginning.
    pub fresh: bool,
}

impl Hired {
    /// What its jail lacks, when it is in it.
    pub fn weaknesses(&self) -> Result<Vec<Weakness>> {
        match self.link.answer(self.prepared, "prepare itself")? {
            Answer::Jailed(weaknesses) => Ok(weaknesses),
            _ => Err(nonsense(&self.link)),
        }
    }
}

impl Workers {
    /// Finds the program and starts the steward's thread; makes the idle workers on it.
    ///
    /// # Errors
    /// No program, or a host without threads or descriptors left.
    pub fn new(host: &KvmHost, options: &WorkerOptions) -> Result<Arc<Self>> {
        let exhausted = |error: std::io::Error| {
            Error::new(kind_of(&error), "cannot set up what worker processes need").with_source(error)
        };
        let filters = match options.seccomp {
            true => Some(jail::seccomp::compile().map_err(|error| with_cause(ErrorKind::HostFailure, error))?),
            false => None,
        };
        // SAFETY: the host keeps its descriptor open for as long as it lives, which is longer than this call.
        let kvm = unsafe { BorrowedFd::borrow_raw(host.as_raw_fd()) };
        let workers = Arc::new(Self {
            program: Arc::new(program::open(options.program.as_deref())?),
            steward: Steward::start().map_err(exhausted)?,
            options: options.clone(),
            kvm: File::from(kvm.try_clone_to_owned().map_err(exhausted)?),
            facts: host.facts(),
            filters,
            idle: Mutex::default(),
            kind: Mutex::new(None),
        });
        workers.refill();
        Ok(workers)
    }

    /// How they are made.
    pub fn options(&self) -> &WorkerOptions {
        &self.options
    }

    /// A worker for a sandbox: one that is ready, or else a new one.
    pub fn take(self: &Arc<Self>) -> Result<Hired> {
        while let Some(candidate) = self.take_idle() {
            if candidate.link.is_alive() {
                return Ok(Hired {
                    link: candidate.link,
                    prepared: candidate.prepared,
                    fresh: false,
                });
            }
        }
        let hired = Arc::new(Gate::default());
        let (workers, told) = (Arc::clone(self), Arc::clone(&hired));
        self.steward.ask(move |household| {
            let made = workers.make(household, None).map_err(Mutex::new);
            told.open(Arc::new(Mutex::new(Some(made))));
        });
        let made = hired.wait(Some(self.options.patience));
        let made = made.and_then(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).take());
        match made {
            Some(Ok(candidate)) => Ok(Hired {
                link: candidate.link,
                prepared: candidate.prepared,
                fresh: true,
            }),
            Some(Err(error)) => Err(error.into_inner().unwrap_or_else(PoisonError::into_inner)),
            None => Err(Error::timeout("a worker process to be started")),
        }
    }

    /// Has the guest's connections to the host served.
    pub fn watch_broker(&self, link: &Arc<Link>) {
        let link = Arc::clone(link);
        self.steward.ask(move |household| household.watch_broker(&link));
    }

    fn take_idle(&self) -> Option<Candidate> {
        self.lock_idle().pop_front()
    }

    /// Has the idle workers made up to their number, on the steward's thread and one at a time, so that it attends to
    /// the others in between. For who has taken one and does not wait for it any more: it would wait for this as well.
    pub fn refill(self: &Arc<Self>) {
        if self.options.idle > 0 {
            let workers = Arc::downgrade(self);
            self.steward.ask(move |household| refill_one(&workers, household));
        }
    }

    /// Has the idle workers that are made from now on have VMs of this kind.
    pub fn expect(&self, kind: ShellKind) {
        *self.kind.lock().unwrap_or_else(PoisonError::into_inner) = Some(kind);
    }

    fn make(&self, household: &mut Household, shell: Option<ShellKind>) -> Result<Candidate> {
        let failed =
            |error: std::io::Error| Error::new(kind_of(&error), "cannot start a worker process").with_source(error);
        let (near, far) = Channel::pair().map_err(failed)?;
        let Spawned { process, in_namespaces } = Process::spawn(&self.program, far.into()).map_err(failed)?;
        let link = Link::new(near, process, self.options.patience);
        household.adopt(Arc::clone(&link)).map_err(failed)?;
        // SAFETY: the call has no preconditions.
        let is_root = unsafe { libc::geteuid() } == 0;
        let preparation = Preparation {
            kvm: self.facts.clone(),
            jail: JailPlan {
                born_in_namespaces: in_namespaces,
                user: is_root.then_some(self.options.user),
                filters: self.filters.clone(),
            },
            shell,
        };
        let request = Request::Prepare(Box::new(preparation));
        // One that cannot take it has died on its way; whoever asks it for its answer hears of what.
        let (prepared, _) = link.try_post(request, &[self.kvm.as_fd()]);
        Ok(Candidate { link, prepared })
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, VecDeque<Candidate>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.lock_idle().drain(..).for_each(|candidate| candidate.link.kill());
    }
}

fn refill_one(workers: &Weak<Workers>, household: &mut Household) {
    let Some(workers) = workers.upgrade() else { return };
    if workers.lock_idle().len() >= workers.options.idle {
        return;
    }
    let kind = *workers.kind.lock().unwrap_or_else(PoisonError::into_inner);
    match workers.make(household, kind) {
        Ok(candidate) => {
            workers.lock_idle().push_back(candidate);
            workers.refill();
        }
        // The next sandbox makes its own, and says why it cannot.
        Err(error) => tracing::warn!(error = error.report(), "no idle worker made"),
    }
}

/// A worker that gave the answer to another question is none.
fn nonsense(link: &Link) -> Error {
    link.condemn("answered nonsense: something that was not asked");
    Error::new(
        ErrorKind::WorkerLost,
        "the worker process answered something that was not asked",
    )
}
