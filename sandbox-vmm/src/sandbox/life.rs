//! The life of one sandbox: its state, its threads, its end.
//!
//! Each vCPU has a thread. Whoever ends the guest, a vCPU, the deadline or the embedder, names the cause and dismisses
//! the crew; the last vCPU thread to leave publishes the exit status. The boot vCPU's thread, the captain, then stays
//! until teardown is asked for and takes everything apart, so that teardown needs no thread of its own and its caller
//! does not wait for the kernel.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sandbox_core::pool::Refill;
use sandbox_core::sandbox::PendingTeardown;
use sandbox_core::timeline::Recorder;
use sandbox_core::{ConsoleLog, Error, ErrorKind, Exit, FaultReport, Lifecycle, Phase, Result, State, Verb};

use super::Outlets;
use super::confinement::{Confinement, Role};
use super::confirmation::Confirmation;
use super::ready::ReadySignal;
use crate::assemble::Revived;
use crate::devices::virtio::InterruptLine;
use crate::event_loop::{EventLoop, EventSources, OnDeadline};
use crate::gate::Gate;
use crate::machine::Machine;
use crate::machine::crew::Crew;
use crate::machine::kick::KickSignal;
use crate::machine::vcpu::{Vcpu, VcpuEvents};
use crate::snapshot::saved::Origin;

/// A vCPU thread's stack holds no large buffers: device handlers run on it.
const VCPU_STACK_SIZE: usize = 256 << 10;

/// A machine that is ready to be entered.
pub struct Assembly {
    /// The machine.
    pub machine: Machine,
    /// Its vCPUs, the boot vCPU first.
    pub vcpus: Vec<Vcpu>,
    /// Time from the start to the deadline.
    pub deadline: Option<Duration>,
    /// What it was made by.
    pub origin: Origin,
    /// What is left to be done for one that goes on where another stood.
    pub revived: Option<Revived>,
}

/// What a sandbox holds of its machine.
pub(super) enum Holding {
    /// Created or restored, not started.
    Assembled(Box<Assembly>),
    /// The threads run, or have run.
    Launched(Arc<Machine>),
    /// Given back.
    Nothing,
}

/// State shared by a sandbox's handle and its threads.
pub struct Life {
    pub(super) recorder: Arc<Recorder>,
    pub(super) console: Arc<ConsoleLog>,
    pub(super) exit: Gate<Exit>,
    pub(super) ready: ReadySignal,
    pub(super) confirmation: Arc<Confirmation>,
    pub(super) crew: Crew,
    pub(super) origin: Origin,
    signal: KickSignal,
    confinement: Arc<dyn Confinement>,
    lifecycle: Mutex<Lifecycle>,
    /// Why the guest is being ended; the first cause stays.
    cause: Mutex<Option<Exit>>,
    holding: Mutex<Holding>,
    captain: Mutex<Option<JoinHandle<()>>>,
    team: Mutex<Team>,
    /// Keeps the pool that the VM is of from making another before this one runs.
    refill: Mutex<Option<Refill>>,
    teardown_asked: Gate<()>,
    gone: Gate<()>,
}

impl Life {
    /// The life of a sandbox that was just created or restored.
    pub fn new(
        outlets: Outlets,
        mut assembly: Assembly,
        signal: KickSignal,
        confinement: Arc<dyn Confinement>,
    ) -> Arc<Self> {
        let refill = assembly.revived.as_mut().and_then(Revived::take_refill);
        let life = Arc::new(Self {
            recorder: outlets.recorder,
            console: outlets.console,
            exit: Gate::default(),
            ready: outlets.ready,
            confirmation: outlets.confirmation,
            crew: Crew::new(assembly.vcpus.len()),
            origin: assembly.origin.clone(),
            signal,
            confinement,
            lifecycle: Mutex::new(match assembly.revived.is_some() {
                true => Lifecycle::paused(),
                false => Lifecycle::created(),
            }),
            cause: Mutex::new(None),
            holding: Mutex::new(Holding::Assembled(Box::new(assembly))),
            captain: Mutex::new(None),
            team: Mutex::new(Team::default()),
            refill: Mutex::new(refill),
            teardown_asked: Gate::default(),
            gone: Gate::default(),
        });
        life.listen_to_pager();
        life
    }

    /// Ends the guest when its pages cannot be served any more. The pager takes no lock that somebody may hold who waits
    /// for a page.
    fn listen_to_pager(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        let report = move |what| {
            if let Some(life) = weak.upgrade() {
                life.end(host_fault(what));
            }
        };
        self.with_machine(|machine| {
            if let Some(pager) = &machine.pager {
                pager.on_failure(Box::new(report.clone()));
            }
            if let Some(loader) = &machine.loader {
                loader.on_failure(Box::new(report));
            }
        });
    }

    /// Nobody is in a hurry with this guest any more.
    pub(super) fn let_pool_refill(&self) {
        drop(self.refill.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Opens when the guest has ended.
    pub fn exit(&self) -> &Gate<Exit> {
        &self.exit
    }

    /// Whether the guest is ready.
    pub fn ready(&self) -> &ReadySignal {
        &self.ready
    }

    /// Whether a clone's guest has taken its identity.
    pub fn confirmation(&self) -> &Confirmation {
        &self.confirmation
    }

    pub(super) fn state(&self) -> State {
        self.lifecycle().state()
    }

    pub(super) fn start(self: &Arc<Self>) -> Result<()> {
        self.recorder.record(Phase::StartCalled);
        // Held until the threads are on their way, so that nobody sees, and no thread ends, a half-started sandbox.
        let mut lifecycle = self.lifecycle();
        lifecycle.apply(Verb::Start)?;
        lifecycle = self.launch_or_fail(lifecycle)?;
        lifecycle.apply(Verb::Entered).map(drop)
    }

    pub(super) fn pause(&self) -> Result<()> {
        let mut lifecycle = self.lifecycle();
        lifecycle.check(Verb::Pause)?;
        if !self.crew.hold() {
            let context = "cannot pause a sandbox whose guest is ending";
            return Err(Error::new(ErrorKind::WrongState, context));
        }
        lifecycle.apply(Verb::Pause).map(drop)
    }

    pub(super) fn resume(self: &Arc<Self>) -> Result<()> {
        let mut lifecycle = self.lifecycle();
        lifecycle.check(Verb::Resume)?;
        if self.was_never_launched() {
            self.recorder.record(Phase::StartCalled);
            lifecycle = self.launch_or_fail(lifecycle)?;
        } else {
            self.crew.release();
        }
        lifecycle.apply(Verb::Resume).map(drop)
    }

    /// Launches under the lifecycle's lock, which is given back; a failure ends the sandbox.
    fn launch_or_fail<'a>(
        self: &Arc<Self>,
        mut lifecycle: MutexGuard<'a, Lifecycle>,
    ) -> Result<MutexGuard<'a, Lifecycle>> {
        match self.launch() {
            Ok(()) => Ok(lifecycle),
            Err(error) => {
                lifecycle.apply(Verb::Failed)?;
                drop(lifecycle);
                self.conclude(Exit::Killed);
                let context = "cannot start the sandbox's threads; the host is short of threads or memory";
                Err(Error::new(ErrorKind::HostExhausted, context).with_source(error))
            }
        }
    }

    /// Asks the guest to end by its power button. False if it has none, or does not run.
    pub fn press_power_button(&self) -> bool {
        let press = |machine: &Machine| machine.power_button.as_ref().map(InterruptLine::pulse);
        let running = self.lifecycle().state() == State::Running;
        match running.then(|| self.with_machine(press)).flatten().flatten() {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                tracing::warn!(%error, "power button");
                false
            }
            None => false,
        }
    }

    /// Ends the guest: asks it and waits up to `grace` where it can be asked, then kills it.
    pub(super) fn stop(&self, grace: Duration) -> Result<Exit> {
        if !grace.is_zero()
            && self.press_power_button()
            && let Some(exit) = self.exit.wait(Some(grace))
        {
            return Ok(exit);
        }
        let mut lifecycle = self.lifecycle();
        match lifecycle.state() {
            State::Stopped => {}
            State::Created | State::Paused if self.was_never_launched() => {
                lifecycle.apply(Verb::Ended)?;
                self.conclude(Exit::Killed);
            }
            _ => {
                lifecycle.check(Verb::Ended)?;
                self.end(Exit::Killed);
            }
        }
        drop(lifecycle);
        self.wait(None)
    }

    pub(super) fn wait(&self, timeout: Option<Duration>) -> Result<Exit> {
        self.exit.wait(timeout).ok_or_else(|| Error::timeout("the guest's end"))
    }

    /// Asks for teardown; what is left to do happens on the captain's thread.
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
        self.let_pool_refill();
        self.end(Exit::Killed);
        let never_launched = {
            let mut holding = self.holding();
            match &*holding {
                Holding::Launched(_) => None,
                _ => Some(std::mem::replace(&mut *holding, Holding::Nothing)),
            }
        };
        match never_launched {
            None => drop(self.teardown_asked.open(())),
            Some(assembly) => self.discard(assembly),
        }
        self.recorder.record(Phase::TeardownReturned);
    }

    /// Runs `use_it` on the machine, unless it is given back already. Keeps teardown waiting meanwhile.
    pub(super) fn with_machine<T>(&self, use_it: impl FnOnce(&Machine) -> T) -> Option<T> {
        match &*self.holding() {
            Holding::Assembled(assembly) => Some(use_it(&assembly.machine)),
            Holding::Launched(machine) => Some(use_it(machine)),
            Holding::Nothing => None,
        }
    }

    fn was_never_launched(&self) -> bool {
        matches!(&*self.holding(), Holding::Assembled(_))
    }

    /// The sandbox broke, and its guest cannot go on.
    pub(super) fn break_down(&self, lifecycle: &mut Lifecycle, what: String) {
        // Allowed in every state but after teardown, when nothing is left to break.
        let _ = lifecycle.apply(Verb::Failed);
        match self.was_never_launched() {
            true => self.conclude(host_fault(what)),
            false => self.end(host_fault(what)),
        }
    }

    /// Names the cause of the end, if there is none yet, and makes the vCPU threads leave.
    fn end(&self, cause: Exit) {
        self.cause
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(cause);
        self.crew.dismiss();
    }

    /// All vCPU threads have left guest code for good.
    fn publish_end(&self) {
        self.recorder.record(Phase::Ended);
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
        // After teardown the state stays; the exit status is published all the same.
        let _ = self.lifecycle().apply(Verb::Ended);
        self.conclude(cause.unwrap_or(Exit::Killed));
    }

    /// Publishes the exit status and wakes all who wait for anything of the guest.
    fn conclude(&self, exit: Exit) {
        self.recorder.record(Phase::ExitPublished);
        self.exit.open(exit);
        self.ready.guest_ended();
        self.confirmation.guest_ended();
        self.console.close();
    }

    fn launch(self: &Arc<Self>) -> io::Result<()> {
        let mut holding = self.holding();
        let Holding::Assembled(assembly) = std::mem::replace(&mut *holding, Holding::Nothing) else {
            return Err(io::Error::other("there is no machine"));
        };
        let Assembly {
            machine,
            vcpus,
            deadline,
            revived,
            ..
        } = *assembly;
        if let Some(revived) = revived {
            revived.wake(&machine).map_err(io::Error::other)?;
        }
        let confinement = Arc::clone(&self.confinement);
        let sources = self.event_sources(&machine, deadline);
        self.team().event_loop = EventLoop::spawn(sources, move || confinement.enter(Role::Events))?;
        let machine = Arc::new(machine);
        *holding = Holding::Launched(Arc::clone(&machine));
        drop(holding);
        let launched = self.spawn_vcpus(vcpus, machine);
        // In either case: those threads that are there wait for it.
        let threads = self.team().threads() + usize::from(launched.is_ok());
        self.confinement.seal(threads);
        if launched.is_err() {
            self.crew.dismiss();
            self.disband_team();
            *self.holding() = Holding::Nothing;
        }
        launched
    }

    fn event_sources(self: &Arc<Self>, machine: &Machine, deadline: Option<Duration>) -> EventSources {
        let devices = machine.devices.iter().map(|device| {
            let events = device.lock().host_events();
            (Arc::clone(device), events)
        });
        EventSources {
            devices: devices.collect(),
            deadline: deadline.map(|after| {
                let life = Arc::clone(self);
                let action: OnDeadline = Box::new(move || life.end(Exit::Deadline));
                (after, action)
            }),
        }
    }

    /// Starts all vCPU threads, the captain last: it counts on the others being known.
    fn spawn_vcpus(self: &Arc<Self>, vcpus: Vec<Vcpu>, machine: Arc<Machine>) -> io::Result<()> {
        let mut vcpus = vcpus.into_iter();
        let boot = vcpus.next().ok_or_else(|| io::Error::other("there is no boot vCPU"))?;
        for vcpu in vcpus {
            let (life, machine) = (Arc::clone(self), Arc::clone(&machine));
            let helper = spawn(move || life.serve(vcpu, &machine))?;
            self.team().helpers.push(helper);
        }
        let life = Arc::clone(self);
        let captain = spawn(move || {
            life.serve(boot, &machine);
            life.finish(machine);
        })?;
        *self.captain.lock().unwrap_or_else(PoisonError::into_inner) = Some(captain);
        Ok(())
    }

    /// A vCPU thread's work. It departs however its guest code ends, by a panic in a device's handler as well: the
    /// embedder lives on, and whoever waits for this sandbox hears of it.
    fn serve(&self, mut vcpu: Vcpu, machine: &Machine) {
        self.confinement.enter(Role::Vcpu);
        let run = catch_unwind(AssertUnwindSafe(|| vcpu.run(machine, &self.crew, self, self.signal)));
        match run {
            Ok(Ok(Some(exit))) => self.end(exit),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => self.end(host_fault(format!("the vCPU thread could not be set up ({error})"))),
            Err(_) => self.end(host_fault("a device's handler panicked".to_owned())),
        }
        if self.crew.depart() {
            self.publish_end();
        }
    }

    /// The captain's last work: waits for teardown to be asked for, then gives everything back.
    fn finish(&self, machine: Arc<Machine>) {
        self.disband_team();
        self.teardown_asked.wait(None);
        *self.holding() = Holding::Nothing;
        drop(machine);
        self.recorder.record(Phase::TornDown);
        self.gone.open(());
    }

    /// Waits for the end of all threads beside the captain.
    fn disband_team(&self) {
        let team = std::mem::take(&mut *self.team());
        for helper in team.helpers {
            if helper.join().is_err() {
                tracing::error!("a vCPU thread panicked");
            }
        }
        if let Some(event_loop) = team.event_loop {
            event_loop.stop();
        }
    }

    /// Gives back what was never launched, on a thread of its own because the kernel takes its time.
    fn discard(self: &Arc<Self>, holding: Holding) {
        self.conclude(Exit::Killed);
        let life = Arc::clone(self);
        let slot = Arc::new(Mutex::new(Some(holding)));
        let contents = Arc::clone(&slot);
        let discard = move || {
            drop(contents.lock().unwrap_or_else(PoisonError::into_inner).take());
            life.recorder.record(Phase::TornDown);
            life.gone.open(());
        };
        match spawn(discard) {
            Ok(thread) => *self.captain.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread),
            Err(_) => {
                // No thread to be had: the caller waits for the kernel.
                drop(slot.lock().unwrap_or_else(PoisonError::into_inner).take());
                self.recorder.record(Phase::TornDown);
                self.gone.open(());
            }
        }
    }

    pub(super) fn lifecycle(&self) -> MutexGuard<'_, Lifecycle> {
        self.lifecycle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn team(&self) -> MutexGuard<'_, Team> {
        self.team.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn holding(&self) -> MutexGuard<'_, Holding> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VcpuEvents for Life {
    fn first_entry(&self) {
        self.recorder.record(Phase::FirstEntry);
        self.let_pool_refill();
    }

    fn first_exit(&self) {
        self.recorder.record(Phase::FirstExit);
    }

    fn guest_ready(&self) {
        self.ready.give();
    }

    fn identity_confirmed(&self, generation: u32) {
        self.confirmation.confirm(generation);
    }
}

impl PendingTeardown for Life {
    fn wait(&self, timeout: Duration) -> bool {
        if self.gone.wait(Some(timeout)).is_none() {
            return false;
        }
        let captain = self.captain.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(captain) = captain
            && captain.join().is_err()
        {
            tracing::error!("a vCPU thread panicked");
        }
        true
    }
}

/// The threads beside the captain.
#[derive(Default)]
struct Team {
    event_loop: Option<EventLoop>,
    helpers: Vec<JoinHandle<()>>,
}

impl Team {
    fn threads(&self) -> usize {
        self.helpers.len() + usize::from(self.event_loop.is_some())
    }
}

fn host_fault(what: String) -> Exit {
    Exit::GuestFault(Box::new(FaultReport {
        what,
        ..FaultReport::default()
    }))
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("sandbox-vcpu".to_owned())
        .stack_size(VCPU_STACK_SIZE)
        .spawn(work)
}
