//! A sandbox in a worker, behind the trait.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sandbox_core::gate::Gate;
use sandbox_core::readiness::{Readiness, Signs};
use sandbox_core::sandbox::PendingTeardown;
use sandbox_core::spec::{SandboxSpec, WeakJail};
use sandbox_core::{
    Capability, ConsoleLog, Error, ErrorKind, Exit, Lifecycle, Manifest, Phase, Result, Sandbox, SnapshotOptions,
    State, Stats, Teardown, Timeline, Verb, Weakness,
};

use super::jail::cgroup::Cgroup;
use super::link::{Broker, Link, WorkerEvents};
use super::protocol::channel::Channel;
use super::protocol::{Answer, Request, Stamp};
use super::{Hired, Workers, launch, nonsense};
use crate::assemble::{Opened, Prepared};
use crate::devices::virtio::vsock::HostSockets;
use crate::sandbox::Outlets;
use crate::sandbox::shared::Name;

/// How long the worker's word of the first entry may take that must be on its way already.
const STAMP_PATIENCE: Duration = Duration::from_secs(1);
/// Phases that a worker may stamp; the others are the embedder's.
const WORKERS_PHASES: [Phase; 10] = [
    Phase::VmCreated,
    Phase::MemoryMapped,
    Phase::KernelLoaded,
    Phase::DevicesReady,
    Phase::VcpusReady,
    Phase::FirstEntry,
    Phase::FirstExit,
    Phase::Ready,
    Phase::Ended,
    Phase::ExitPublished,
];

/// What every micro-VM in a worker can do or be held to.
const CAPABILITIES: [Capability; 7] = [
    Capability::Pause,
    Capability::ConsoleInput,
    Capability::LimitMemory,
    Capability::LimitDisk,
    Capability::LimitNetwork,
    Capability::LimitDeadline,
    Capability::LimitConsole,
];

/// A micro-VM in a worker.
pub struct WorkerSandbox {
    name: Name,
    proxy: Arc<Proxy>,
    readiness: Readiness,
    weaknesses: Vec<Weakness>,
    has_cpu_quota: bool,
    /// Keeps the steward's thread alive.
    workers: Arc<Workers>,
}

/// What a worker is to make.
pub struct WorkerOrder<'a> {
    /// The sandbox's name.
    pub name: Name,
    /// Its spec.
    pub spec: &'a SandboxSpec,
    /// The spec's resources, opened.
    pub prepared: Prepared<'a>,
    /// Where what becomes known of it goes.
    pub outlets: Outlets,
}

/// What a sandbox's handle and the steward share.
struct Proxy {
    link: Arc<Link>,
    outlets: Outlets,
    /// `CLOCK_MONOTONIC` at the timeline's origin, in nanoseconds.
    origin: u64,
    /// Held for as long as a call takes, so that verbs do not overtake each other.
    calls: Mutex<()>,
    /// Held for a moment: the steward takes it too.
    lifecycle: Mutex<Lifecycle>,
    exit: Gate<Exit>,
    gone: Gate<()>,
    /// The worker's stamp of the first entry has come.
    entered: Gate<()>,
    cgroup: Mutex<Option<Cgroup>>,
    workers: Weak<Workers>,
}

impl WorkerSandbox {
    /// Has a worker make what was prepared for `spec`.
    ///
    /// # Errors
    /// No worker to be had, a jail that is too weak for the spec, or what the worker's own making failed with. Nothing
    /// is left behind then.
    pub fn create(workers: &Arc<Workers>, order: WorkerOrder<'_>, cpu_timeline: bool) -> Result<Self> {
        let WorkerOrder {
            name,
            spec,
            prepared,
            outlets,
        } = order;
        let Prepared { opened, readiness, .. } = prepared;
        let cgroup = Cgroup::for_spec(spec, workers.options().cgroup.as_deref())?;
        let hired = workers.take()?;
        let link = Arc::clone(&hired.link);
        let proxy = Arc::new(Proxy {
            origin: monotonic_of(outlets.recorder.timeline().origin()),
            link: Arc::clone(&link),
            outlets,
            calls: Mutex::new(()),
            lifecycle: Mutex::new(Lifecycle::created()),
            exit: Gate::default(),
            gone: Gate::default(),
            entered: Gate::default(),
            cgroup: Mutex::new(None),
            workers: Arc::downgrade(workers),
        });
        let mut sandbox = Self {
            name,
            readiness,
            weaknesses: Vec::new(),
            has_cpu_quota: spec.limits.cpu_quota.is_some(),
            workers: Arc::clone(workers),
            proxy,
        };
        let listener: Weak<Proxy> = Arc::downgrade(&sandbox.proxy);
        link.tell(listener);
        *sandbox.proxy.cgroup.lock().unwrap_or_else(PoisonError::into_inner) = cgroup;
        match sandbox.launch(hired, spec, opened, cpu_timeline) {
            Ok(()) => {
                sandbox.proxy.outlets.recorder.record(Phase::Created);
                Ok(sandbox)
            }
            Err(error) => {
                // Whoever is told finds nothing left behind.
                sandbox.proxy.teardown();
                sandbox.proxy.gone.wait(Some(workers.options().patience));
                Err(error)
            }
        }
    }

    /// Hands the sandbox over and waits until the worker has made it.
    fn launch(&mut self, hired: Hired, spec: &SandboxSpec, mut opened: Opened, cpu_timeline: bool) -> Result<()> {
        let link = &hired.link;
        if let Some(cgroup) = &*self.proxy.cgroup.lock().unwrap_or_else(PoisonError::into_inner) {
            cgroup.take_in(link.pid())?;
        }
        let broker = opened.devices.vsock.is_some().then(Channel::pair).transpose();
        let broker = broker.map_err(|error| {
            let context = "the host has no descriptor left for the socket device";
            Error::new(ErrorKind::HostExhausted, context).with_source(error)
        })?;
        let (near, far) = broker.unzip();
        let (mut message, fds) = launch::hand_over(self.name.as_str(), spec, &opened, far.as_ref());
        message.cpu_timeline = cpu_timeline;
        message.cpu_from_birth = hired.fresh;
        let launched = link.post(Request::Launch(Box::new(message)), &fds)?;
        if let (Some(channel), Some(HostSockets { connector, .. })) = (near, opened.devices.vsock.take()) {
            link.set_broker(Broker { channel, connector });
            self.workers.watch_broker(link);
        }
        // The worker has its own descriptors of them: what the guest uses must not live on here.
        drop((opened, far));
        self.weaknesses = hired.weaknesses()?;
        self.refuse_if_too_weak(spec)?;
        match link.answer(launched, "make its machine")? {
            Answer::Done => Ok(()),
            _ => Err(nonsense(link)),
        }
    }

    fn refuse_if_too_weak(&self, spec: &SandboxSpec) -> Result<()> {
        if self.weaknesses.is_empty() {
            return Ok(());
        }
        let lacking: Vec<String> = self.weaknesses.iter().map(ToString::to_string).collect();
        let context = format!(
            "the jail of a worker on this host is weak: it has {}",
            lacking.join(", ")
        );
        match spec.weak_jail {
            WeakJail::Refuse => Err(Error::unsupported("weak_jail", context)),
            WeakJail::Report => {
                tracing::warn!(id = self.name.as_str(), "{context}");
                Ok(())
            }
        }
    }

    fn is_alive(&self) -> bool {
        matches!(self.state(), State::Running | State::Paused)
    }

    fn wrong_state(&self, verb: &str) -> Error {
        let context = format!("cannot {verb} a sandbox that is {}", self.state());
        Error::new(ErrorKind::WrongState, context)
    }
}

impl Proxy {
    /// Does `verb` by asking for `request`. The state changes when the worker has answered.
    fn change(&self, verb: Verb, request: Request) -> Result<()> {
        let _one_at_a_time = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        self.lifecycle().check(verb)?;
        self.ask_done(request, &verb.to_string())?;
        // It may have ended meanwhile; then the end is the state.
        self.lifecycle().apply(verb).map(drop)
    }

    fn start(&self) -> Result<()> {
        self.outlets.recorder.record(Phase::StartCalled);
        let _one_at_a_time = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
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
            let _one_at_a_time = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            self.link.call(Request::AskToEnd, "stop")?
        };
        match asked {
            Answer::Asked(true) => Ok(self.exit.wait(Some(grace))),
            Answer::Asked(false) => Ok(None),
            _ => Err(nonsense(&self.link)),
        }
    }

    fn stop(&self, grace: Duration) -> Result<Exit> {
        // A worker that cannot be asked any more is ended as one whose guest cannot.
        if let Ok(Some(exit)) = self.ask_to_end(grace) {
            return Ok(exit);
        }
        let _one_at_a_time = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
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

    fn teardown(&self) {
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

    fn ask_done(&self, request: Request, what: &str) -> Result<()> {
        match self.link.call(request, what)? {
            Answer::Done => Ok(()),
            _ => Err(nonsense(&self.link)),
        }
    }

    /// Publishes how the guest ended, the first time, and wakes all who wait for anything of it.
    fn conclude(&self, exit: Exit) {
        let recorder = &self.outlets.recorder;
        self.exit.open_after(exit, || recorder.record(Phase::ExitPublished));
        self.outlets.ready.guest_ended();
        self.outlets.console.close();
    }

    fn lifecycle(&self) -> MutexGuard<'_, Lifecycle> {
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

impl Sandbox for WorkerSandbox {
    fn id(&self) -> &str {
        self.name.as_str()
    }

    fn state(&self) -> State {
        self.proxy.lifecycle().state()
    }

    fn capabilities(&self) -> BTreeSet<Capability> {
        let mut capabilities = BTreeSet::from(CAPABILITIES);
        if self.has_cpu_quota {
            capabilities.insert(Capability::LimitCpuQuota);
        }
        capabilities
    }

    fn weaknesses(&self) -> Vec<Weakness> {
        self.weaknesses.clone()
    }

    fn start(&self) -> Result<()> {
        self.proxy.start()
    }

    fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let outlets = &self.proxy.outlets;
        if outlets.ready.is_given() {
            return Ok(());
        }
        match self.state() {
            // A guest that ended as soon as it was started may have been ready; the check knows.
            State::Running | State::Paused | State::Stopped => {}
            State::Failed if self.proxy.exit.get().is_some() => {}
            _ => return Err(self.wrong_state("wait for")),
        }
        let signs = Signs {
            ready: &outlets.ready,
            console: &outlets.console,
            exit: &self.proxy.exit,
        };
        self.readiness.wait(&signs, timeout)?;
        // A check from outside can be quicker than the worker's own word that the guest was entered, without which the
        // timeline would tell of a guest that was ready before it ran. It is on its way.
        self.proxy.entered.wait(Some(STAMP_PATIENCE));
        Ok(())
    }

    fn pause(&self) -> Result<()> {
        self.proxy.change(Verb::Pause, Request::Pause)
    }

    fn resume(&self) -> Result<()> {
        self.proxy.change(Verb::Resume, Request::Resume)
    }

    fn snapshot(&self, _directory: &Path, _options: &SnapshotOptions) -> Result<Manifest> {
        match self.is_alive() {
            true => Err(Error::new(
                ErrorKind::Unsupported,
                "micro-VMs in worker processes cannot be snapshotted yet",
            )),
            false => Err(self.wrong_state("snapshot")),
        }
    }

    fn stats(&self) -> Result<Stats> {
        if self.state() == State::TornDown {
            return Err(self.wrong_state("read the counters of"));
        }
        let link = &self.proxy.link;
        match link.call(Request::Stats, "read its counters")? {
            Answer::Stats(mut stats) => {
                add_process_memory(&mut stats, link.pid());
                Ok(*stats)
            }
            _ => Err(nonsense(link)),
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<Exit> {
        let exit = self.proxy.exit.wait(timeout);
        exit.ok_or_else(|| Error::timeout("the guest's end"))
    }

    /// Asks and kills as in the embedder's own process.
    fn stop(&self, grace: Duration) -> Result<Exit> {
        self.proxy.stop(grace)
    }

    fn teardown(&self) -> Teardown {
        self.name.release();
        self.proxy.teardown();
        Teardown::new(self.proxy.clone())
    }

    fn timeline(&self) -> Timeline {
        self.proxy.outlets.recorder.timeline()
    }

    fn console(&self) -> Arc<ConsoleLog> {
        Arc::clone(&self.proxy.outlets.console)
    }

    fn console_write(&self, bytes: &[u8]) -> Result<usize> {
        if !self.is_alive() {
            return Err(self.wrong_state("write to"));
        }
        // More than the guest's console has room for need not be sent.
        let piece = &bytes[..bytes.len().min(super::protocol::CONSOLE_PIECE)];
        match self
            .proxy
            .link
            .call(Request::ConsoleInput(piece.to_vec()), "take input")?
        {
            Answer::Taken(taken) => Ok(usize::try_from(taken).unwrap_or(usize::MAX).min(piece.len())),
            _ => Err(nonsense(&self.proxy.link)),
        }
    }
}

impl Drop for WorkerSandbox {
    fn drop(&mut self) {
        self.proxy.teardown();
        // One that was never started has not seen to it yet.
        self.workers.refill();
    }
}

/// The moment as `CLOCK_MONOTONIC`, which is what an instant is on Linux but does not tell.
fn monotonic_of(moment: Instant) -> u64 {
    super::server::monotonic_nanoseconds().saturating_sub(moment.elapsed().as_nanos() as u64)
}

/// What the kernel knows of the worker's memory, where it tells.
fn add_process_memory(stats: &mut Stats, pid: libc::pid_t) {
    let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
        return;
    };
    let sum = |prefix: &str| -> u64 {
        let lines = rollup.lines().filter(|line| line.starts_with(prefix));
        let kibibytes = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        kibibytes.sum::<u64>() << 10
    };
    stats.memory.resident = Some(sum("Rss:"));
    stats.memory.proportional = Some(sum("Pss:"));
    stats.memory.private = Some(sum("Private_"));
}
