//! The life of one container: its state, its first process, its end.
//!
//! Two kinds of threads come here: callers, whose verbs run the runtime's commands one at a time, and the reactor's,
//! which says that the first process has ended and never waits. So `verbs` is held through a whole verb and `lifecycle`
//! only for a moment, the latter alone by the reactor.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sandbox_core::gate::Gate;
use sandbox_core::readiness::ReadySignal;
use sandbox_core::sandbox::PendingTeardown;
use sandbox_core::timeline::Recorder;
use sandbox_core::{ConsoleLog, Error, ErrorKind, Exit, Lifecycle, Phase, Result, State, Verb};

use super::ending::{self, Cause, Facts};
use super::parts::Parts;
use crate::error::host;
use crate::reaper::Status;
use crate::runtime::{Command, Kind};
use crate::streams::{Input, Output};
use crate::timer::Timer;

/// How long a killed process may take to be gone before teardown goes on without it.
const DYING: Duration = Duration::from_secs(30);
const STACK_SIZE: usize = 256 << 10;

/// The streams of the first process.
pub struct Console {
    /// Where input goes.
    pub input: Input,
    /// Where output comes from.
    pub output: Arc<Output>,
}

/// State that a container's handle shares with the threads that serve it.
pub struct Life {
    /// What it is made of.
    pub parts: Parts,
    pub(super) recorder: Arc<Recorder>,
    pub(super) console: Arc<ConsoleLog>,
    pub(super) ready: ReadySignal,
    pub(super) exit: Gate<Exit>,
    /// Whether the first process is known to have ended, whatever is said of it.
    has_ended: AtomicBool,
    deadline: Option<Duration>,
    /// The first process, once there is one.
    pid: AtomicU32,
    streams: Mutex<Option<Console>>,
    lifecycle: Mutex<Lifecycle>,
    cause: Mutex<Option<Cause>>,
    verbs: Mutex<()>,
    /// Numbers in the reactor, which teardown takes out.
    sources: Mutex<Vec<u64>>,
    gone: Gate<()>,
}

impl Life {
    /// The life of a container that is being made.
    pub fn new(
        parts: Parts,
        recorder: Arc<Recorder>,
        console: Arc<ConsoleLog>,
        deadline: Option<Duration>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ready: ReadySignal::new(Arc::clone(&recorder)),
            parts,
            recorder,
            console,
            exit: Gate::default(),
            has_ended: AtomicBool::new(false),
            deadline,
            pid: AtomicU32::new(0),
            streams: Mutex::default(),
            lifecycle: Mutex::new(Lifecycle::created()),
            cause: Mutex::default(),
            verbs: Mutex::default(),
            sources: Mutex::default(),
            gone: Gate::default(),
        })
    }

    /// Where its output goes.
    pub fn console(&self) -> Arc<ConsoleLog> {
        Arc::clone(&self.console)
    }

    pub(super) fn state(&self) -> State {
        self.lifecycle().state()
    }

    /// The first process and its streams are there.
    pub fn attach(self: &Arc<Self>, pid: u32, console: Console) -> Result<()> {
        let watched = self.parts.host.reactor.add(Arc::clone(&console.output) as _);
        let watched = watched.map_err(host("cannot wait for the container's output"))?;
        self.sources().push(watched);
        if let Some(log) = &self.parts.exit_log {
            let watched = self.parts.host.reactor.add(Arc::clone(log) as _);
            self.sources()
                .push(watched.map_err(host("cannot wait for the runtime's log"))?);
        }
        *self.streams() = Some(console);
        self.pid.store(pid, Ordering::Release);
        Ok(())
    }

    pub(super) fn start(self: &Arc<Self>) -> Result<()> {
        self.recorder.record(Phase::StartCalled);
        let _verb = self.verbs();
        self.lifecycle().apply(Verb::Start)?;
        self.recorder.record(Phase::FirstEntry);
        let begin = Instant::now();
        let started = self.parts.command(Command::Start, "start");
        // Counted from the call, armed when the runtime is done: before, there is nothing to end.
        if let Err(error) = started.and_then(|()| self.begin_deadline(begin)) {
            return Err(self.start_failed(error));
        }
        // A process that ended at once has brought the state further already.
        let _ = self.lifecycle().apply(Verb::Entered);
        Ok(())
    }

    /// The container goes on where its snapshot was taken: it runs already.
    pub fn entered(self: &Arc<Self>) -> Result<()> {
        self.recorder.record(Phase::FirstEntry);
        self.lifecycle().apply(Verb::Start)?;
        let _ = self.lifecycle().apply(Verb::Entered);
        self.begin_deadline(Instant::now())
    }

    fn start_failed(&self, error: Error) -> Error {
        if let Some(exit) = self.exit.get() {
            let context = format!("the container's process ended before it could be started: {exit}");
            return Error::new(ErrorKind::GuestEnded, context).with_source(error.report());
        }
        let _ = self.lifecycle().apply(Verb::Failed);
        self.end(Cause::Killed);
        error
    }

    fn begin_deadline(self: &Arc<Self>, begin: Instant) -> Result<()> {
        let Some(after) = self.deadline else {
            return Ok(());
        };
        // Weak: a sandbox that is gone needs no deadline, and must not be kept by it.
        let life = Arc::downgrade(self);
        let action = move || {
            if let Some(life) = life.upgrade() {
                life.end(Cause::Deadline);
            }
        };
        // A timer of no time at all would never go off.
        let left = after.saturating_sub(begin.elapsed()).max(Duration::from_nanos(1));
        let timer = Timer::start(left, Box::new(action)).map_err(host("cannot make a timer"))?;
        let watched = self.parts.host.reactor.add(Arc::new(timer));
        self.sources()
            .push(watched.map_err(host("cannot wait for the deadline"))?);
        Ok(())
    }

    pub(super) fn pause(&self) -> Result<()> {
        self.change(Verb::Pause, Command::Pause)
    }

    pub(super) fn resume(&self) -> Result<()> {
        self.change(Verb::Resume, Command::Resume)
    }

    fn change(&self, verb: Verb, command: Command<'_>) -> Result<()> {
        let _verb = self.verbs();
        self.lifecycle().check(verb)?;
        let word = verb.to_string();
        match self.parts.command(command, &word) {
            Ok(()) => self.lifecycle().apply(verb).map(drop),
            // What has ended meanwhile is in the wrong state, whatever the runtime calls it.
            Err(error) => self.lifecycle().check(verb).and(Err(error)),
        }
    }

    pub(super) fn stop(&self, grace: Duration) -> Result<Exit> {
        let state = {
            let mut lifecycle = self.lifecycle();
            let state = lifecycle.state();
            if !matches!(state, State::Stopped | State::Created) {
                // Checked, not applied: its end is an event.
                lifecycle.check(Verb::Ended)?;
            }
            if state == State::Created {
                lifecycle.apply(Verb::Ended)?;
            }
            state
        };
        if state == State::Running && !grace.is_zero() && self.ask() && self.exit.wait(Some(grace)).is_some() {
            return self.wait(None);
        }
        if state != State::Stopped {
            self.end(Cause::Killed);
        }
        self.wait(None)
    }

    /// Asks the first process to end; false if it cannot be asked.
    fn ask(&self) -> bool {
        if self.has_not_begun() {
            return false;
        }
        let signal = self.parts.stop_signal;
        self.cause().get_or_insert(Cause::Asked(signal));
        match self.parts.runtime.kind {
            // The processes that the host sees are gVisor's own.
            Kind::Runsc => self.parts.command(Command::Kill(signal), "signal").is_ok(),
            Kind::Runc | Kind::Crun => {
                self.parts.reaper.signal(self.pid(), signal, false);
                true
            }
        }
    }

    /// Whether the process is still runc's own, about to become the container's program. It would take the signal for
    /// one that it is to die of, by a code that looks like the program's. The program loses nothing: it has done nothing.
    fn has_not_begun(&self) -> bool {
        let name = || fs::read_to_string(format!("/proc/{}/comm", self.pid())).unwrap_or_default();
        self.parts.runtime.kind == Kind::Runc && name().starts_with("runc:[")
    }

    pub(super) fn wait(&self, timeout: Option<Duration>) -> Result<Exit> {
        self.exit
            .wait(timeout)
            .ok_or_else(|| Error::timeout("the container's end"))
    }

    /// Kills the container, and says why. Returns at once.
    pub(super) fn end(&self, why: Cause) {
        {
            let mut cause = self.cause();
            match *cause {
                Some(Cause::Killed | Cause::Deadline) => {}
                _ => *cause = Some(why),
            }
        }
        let pid = self.pid();
        if pid != 0 && self.exit.get().is_none() {
            self.parts.reaper.signal(pid, libc::SIGKILL, false);
        }
        if let Some(cgroup) = &self.parts.cgroup {
            cgroup.thaw();
        }
    }

    /// The runtime is about to end it, for this reason.
    pub(super) fn will_end(&self, why: Cause) {
        self.cause().get_or_insert(why);
    }

    /// The runtime has not ended it after all.
    pub(super) fn goes_on(&self) {
        let mut cause = self.cause();
        if *cause == Some(Cause::Saved) {
            *cause = None;
        }
    }

    /// The first process has ended. On the reactor's thread.
    pub fn ended(&self, status: Status) {
        self.recorder.record(Phase::Ended);
        // One that is lost with its reaper may be running still.
        self.has_ended.store(status != Status::Lost, Ordering::Release);
        if let Some(console) = &*self.streams() {
            console.output.drain();
            console.input.close();
        }
        let status = match (&self.parts.exit_log, status) {
            (Some(log), Status::Code(_)) => log.status(status),
            _ => status,
        };
        let usage = self.parts.cgroup.as_ref().map(|cgroup| cgroup.usage());
        let facts = Facts {
            status,
            cause: *self.cause(),
            was_out_of_memory: usage.and_then(|usage| usage.oom_kills).is_some_and(|kills| kills > 0),
        };
        self.conclude(ending::exit(&facts));
    }

    /// Publishes the exit status and wakes all who wait for anything of the container.
    fn conclude(&self, exit: Exit) {
        // After teardown, or a failure, the state stays.
        let _ = self.lifecycle().apply(Verb::Ended);
        self.recorder.record(Phase::ExitPublished);
        self.exit.open(exit);
        self.ready.guest_ended();
        self.console.close();
    }

    /// Asks for teardown; what is left to do happens on a thread of its own.
    pub(super) fn teardown(self: &Arc<Self>) {
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
        self.recorder.record(Phase::TeardownCalled);
        self.end(Cause::Killed);
        let life = Arc::clone(self);
        let thread = thread::Builder::new()
            .name("sandbox-teardown".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || life.take_apart());
        self.recorder.record(Phase::TeardownReturned);
        if thread.is_err() {
            // No thread to be had: the caller waits.
            self.take_apart();
        }
    }

    fn take_apart(&self) {
        // Not while a verb's command is on its way.
        let _verb = self.verbs();
        if self.pid() == 0 {
            self.conclude(Exit::Killed);
        } else if self.exit.wait(Some(DYING)).is_none() {
            tracing::warn!(id = %self.parts.id, "a killed container does not end");
            self.conclude(Exit::Killed);
        }
        for source in std::mem::take(&mut *self.sources()) {
            self.parts.host.reactor.remove(source);
        }
        *self.streams() = None;
        self.parts.give_back(self.has_ended.load(Ordering::Acquire));
        self.recorder.record(Phase::TornDown);
        self.gone.open(());
    }

    /// Writes to the first process's input.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize> {
        match &*self.streams() {
            Some(console) => console.input.write(bytes).map_err(host("the container takes no input")),
            None => Ok(0),
        }
    }

    pub(super) fn takes_input(&self) -> bool {
        self.streams().as_ref().is_some_and(|console| console.input.is_open())
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Acquire)
    }

    pub(super) fn lifecycle(&self) -> MutexGuard<'_, Lifecycle> {
        self.lifecycle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held through a verb that runs the runtime.
    pub(super) fn verbs(&self) -> MutexGuard<'_, ()> {
        self.verbs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cause(&self) -> MutexGuard<'_, Option<Cause>> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, Option<Console>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources(&self) -> MutexGuard<'_, Vec<u64>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingTeardown for Life {
    fn wait(&self, timeout: Duration) -> bool {
        self.gone.wait(Some(timeout)).is_some()
    }
}
