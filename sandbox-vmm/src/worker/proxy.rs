//! A sandbox in a worker: its calls, its state, and what becomes known of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use sandbox_core::gate::Gate;
use sandbox_core::sandbox::PendingTeardown;
use sandbox_core::{Error, ErrorKind, Exit, Lifecycle, Phase, Result, State, Verb};

use super::clones::ListInWorker;
use super::jail::cgroup::Cgroup;
use super::link::{Link, WorkerEvents};
use super::protocol::{Answer, Request, Stamp};
use super::{Workers, nonsense};
use crate::sandbox::Outlets;

/// Phases that a worker may stamp; the others are the embedder's.
const WORKERS_PHASES: [Phase; 11] = [
    Phase::VmCreated,
    Phase::MemoryMapped,
    Phase::KernelLoaded,
    Phase::StateRestored,
    Phase::DevicesReady,
    Phase::VcpusReady,
    Phase::FirstEntry,
    Phase::FirstExit,
    Phase::Ready,
    Phase::Ended,
    Phase::ExitPublished,
];

/// What a sandbox's handle and the steward share.
pub struct Proxy {
    pub(super) link: Arc<Link>,
    pub(super) outlets: Outlets,
    /// `CLOCK_MONOTONIC` at the timeline's origin, in nanoseconds.
    origin: u64,
    /// Held for as long as a call takes, so that verbs do not overtake each other.
    calls: Mutex<()>,
    /// Held for a moment: the steward takes it too.
    lifecycle: Mutex<Lifecycle>,
    pub(super) exit: Gate<Exit>,
    pub(super) gone: Gate<()>,
    /// The worker's stamp of the first entry has come.
    pub(super) entered: Gate<()>,
    cgroup: Mutex<Option<Cgroup>>,
    /// Where the list of the pages that the guest asks for goes, if it is recorded.
    lists: Mutex<Option<ListInWorker>>,
    workers: Weak<Workers>,
}

/// The right to make calls: nobody else makes one as long as this lives.
pub type Turn<'a> = MutexGuard<'a, ()>;

impl Proxy {
    /// The embedder's side of a sandbox in the worker behind `link`, which is to be made in this control group.
    pub fn new(
        link: &Arc<Link>,
        outlets: Outlets,
        lifecycle: Lifecycle,
        cgroup: Option<Cgroup>,
        workers: &Arc<Workers>,
    ) -> Arc<Self> {
        let proxy = Arc::new(Self {
            origin: monotonic_of(outlets.recorder.timeline().origin()),
            link: Arc::clone(link),
            outlets,
            calls: Mutex::new(()),
            lifecycle: Mutex::new(lifecycle),
            exit: Gate::default(),
            gone: Gate::default(),
            entered: Gate::default(),
            cgroup: Mutex::new(cgroup),
            lists: Mutex::new(None),
            workers: Arc::downgrade(workers),
        });
        let listener: Weak<Self> = Arc::downgrade(&proxy);
        link.tell(listener);
        proxy
    }

    /// Has the list kept that the worker leaves when it is complete.
    pub fn expect_list(&self, list: ListInWorker) {
        *self.lists.lock().unwrap_or_else(PoisonError::into_inner) = Some(list);
    }

    /// Puts the worker under the limits of its control group, if it has one.
    pub fn limit(&self) -> Result<()> {
        let cgroup = self.cgroup.lock().unwrap_or_else(PoisonError::into_inner);
        cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.take_in(self.link.pid()))
    }

    /// Waits for the turn to make calls.
    pub fn turn(&self) -> Turn<'_> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `verb` by asking for `request`. The state changes when the worker has answered.
    pub fn change(&self, verb: Verb, request: Request) -> Result<()> {
        let _turn = self.turn();
        self.lifecycle().check(verb)?;
        if verb == Verb::Resume && self.entered.get().is_none() {
            // A clone's first time.
            self.outlets.recorder.record(Phase::StartCalled);
        }
        self.ask_done(request, &verb.to_string())?;
        // It may have ended meanwhile; then the end is the state.
        self.lifecycle().apply(verb).map(drop)
    }

    pub fn start(&self) -> Result<()> {
        self.outlets.recorder.record(Phase::StartCalled);
        let _turn = self.turn();
        self.lifecycle().apply(Verb::Start)?;
        match self.ask_done(Request::Start, "start") {
            Ok(()) => {
                // A guest that ended at once has its end as the state.
                let _ = self.lifecycle().apply(Verb::Entered);
                Ok(())
            }
            // The steward says how the worker ended.
            Err(error) if error.kind() == ErrorKind::WorkerLost => Err(error),
            Err(error) => {
                let _ = self.lifecycle().apply(Verb::Failed);
                self.conclude(Exit::Killed);
                Err(error)
            }
        }
    }

    /// Asks the guest to end and waits up to `grace` for it. `None` if it cannot be asked, or does not end.
    fn ask_to_end(&self, grace: Duration) -> Result<Option<Exit>> {
        if grace.is_zero() || self.lifecycle().state() != State::Running {
            return Ok(None);
        }
        let asked = {
            let _turn = self.turn();
            self.ask(Request::AskToEnd, "stop")?
        };
        match asked {
            Answer::Asked(true) => Ok(self.exit.wait(Some(grace))),
            Answer::Asked(false) => Ok(None),
            _ => Err(nonsense(&self.link)),
        }
    }

    /// Asks the guest to end, where it can be asked, and ends it.
    pub fn stop(&self, grace: Duration) -> Result<Exit> {
        // A worker that cannot be asked any more is ended as one whose guest cannot.
        if let Ok(Some(exit)) = self.ask_to_end(grace) {
            return Ok(exit);
        }
        let turn = self.turn();
        self.end(&turn)
    }

    /// Ends the guest.
    pub fn end(&self, _turn: &Turn<'_>) -> Result<Exit> {
        let state = self.lifecycle().state();
        match state {
            State::Stopped => {}
            State::Created => {
                self.lifecycle().apply(Verb::Ended)?;
                self.conclude(Exit::Killed);
            }
            _ => {
                // Just ended, by itself or with its worker: then that end is the answer.
                if let Err(error) = self.lifecycle().check(Verb::Ended)
                    && self.exit.get().is_none()
                {
                    return Err(error);
                }
                if state == State::TornDown || state == State::Failed {
                    self.lifecycle().check(Verb::Ended)?;
                }
                if self.exit.get().is_none() {
                    self.ask_done(Request::Stop, "stop")?;
                }
            }
        }
        let exit = self.exit.wait(Some(self.link.patience()));
        exit.ok_or_else(|| {
            self.link.condemn("did not end its guest in time");
            Error::new(
                ErrorKind::WorkerLost,
                "the worker process did not end its guest in time and was killed",
            )
        })
    }

    pub fn teardown(&self) {
        let first = {
            let mut lifecycle = self.lifecycle();
            let first = lifecycle.state() != State::TornDown;
            // Teardown is allowed in every state.
            let _ = lifecycle.apply(Verb::Teardown);
            first
        };
        if !first {
            return;
        }
        self.outlets.recorder.record(Phase::TeardownCalled);
        // The end of a process is how the kernel takes everything back at once.
        self.link.kill();
        self.conclude(Exit::Killed);
        self.outlets.recorder.record(Phase::TeardownReturned);
    }

    /// Asks for something and waits for the answer. A worker that is gone because somebody tore the sandbox down
    /// meanwhile is not lost.
    pub fn ask(&self, request: Request, what: &str) -> Result<Answer> {
        self.link.call(request, what).map_err(|error| {
            let state = self.lifecycle().state();
            match error.kind() == ErrorKind::WorkerLost && state == State::TornDown {
                true => Error::new(
                    ErrorKind::WrongState,
                    format!("the sandbox was torn down when asked to {what}"),
                ),
                false => error,
            }
        })
    }

    pub fn ask_done(&self, request: Request, what: &str) -> Result<()> {
        match self.ask(request, what)? {
            Answer::Done => Ok(()),
            _ => Err(nonsense(&self.link)),
        }
    }

    /// Publishes how the guest ended, the first time, and wakes all who wait for anything of it.
    fn conclude(&self, exit: Exit) {
        let recorder = &self.outlets.recorder;
        self.exit.open_after(exit, || recorder.record(Phase::ExitPublished));
        self.outlets.ready.guest_ended();
        self.outlets.confirmation.guest_ended();
        self.outlets.console.close();
    }

    pub fn lifecycle(&self) -> MutexGuard<'_, Lifecycle> {
        self.lifecycle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkerEvents for Proxy {
    fn reached(&self, stamps: &[Stamp]) {
        let now = monotonic_of(Instant::now());
        for stamp in stamps.iter().filter(|stamp| WORKERS_PHASES.contains(&stamp.phase)) {
            let real = stamp.monotonic.min(now).saturating_sub(self.origin);
            self.outlets.recorder.record_at(stamp.phase, real, stamp.cpu);
        }
        if stamps.iter().any(|stamp| stamp.phase == Phase::FirstEntry) {
            self.entered.open(());
            // An idle worker was taken; one is made for the next sandbox when this one does not wait for it any more.
            if let Some(workers) = self.workers.upgrade() {
                workers.refill();
            }
        }
    }

    fn console(&self, start: u64, bytes: &[u8]) {
        self.outlets.console.append_at(start, bytes);
    }

    fn ready(&self) {
        self.outlets.ready.give();
    }

    fn recorded(&self) {
        let Some(kept) = self.lists.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        // The disk takes its time, and this thread has none.
        let spawned = thread::Builder::new()
            .name("sandbox-list".to_owned())
            .spawn(move || kept.keep());
        if let Err(error) = spawned {
            tracing::debug!(%error, "the working set is not kept");
        }
    }

    fn confirmed(&self, generation: u32) {
        self.outlets.confirmation.confirm(generation);
    }

    fn exited(&self, exit: Exit) {
        // After teardown the state stays.
        let _ = self.lifecycle().apply(Verb::Ended);
        self.conclude(exit);
    }

    fn gone(&self, words: &str) {
        let lost = {
            let mut lifecycle = self.lifecycle();
            let alive = matches!(
                lifecycle.state(),
                State::Created | State::Starting | State::Running | State::Paused
            );
            if alive {
                let _ = lifecycle.apply(Verb::Failed);
            }
            alive
        };
        let cgroup = self.cgroup.lock().unwrap_or_else(PoisonError::into_inner).take();
        if lost {
            self.conclude(match cgroup.as_ref().is_some_and(Cgroup::was_out_of_memory) {
                true => Exit::OutOfMemory,
                false => Exit::LostWorker(words.to_owned()),
            });
        }
        drop(cgroup);
        self.outlets.recorder.record(Phase::TornDown);
        self.gone.open(());
    }
}

impl PendingTeardown for Proxy {
    fn wait(&self, timeout: Duration) -> bool {
        self.gone.wait(Some(timeout)).is_some()
    }
}

/// The moment as `CLOCK_MONOTONIC`, which is what an instant is on Linux but does not tell.
fn monotonic_of(moment: Instant) -> u64 {
    super::server::monotonic_nanoseconds().saturating_sub(moment.elapsed().as_nanos() as u64)
}
