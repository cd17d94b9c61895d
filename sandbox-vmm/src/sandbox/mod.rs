//! A sandbox behind the trait.

mod capture;
pub mod clone;
pub mod confinement;
pub mod confirmation;
pub mod life;
mod remote;
pub mod shared;
pub mod snapshot;
mod usage;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sandbox_core::timeline::Recorder;
use sandbox_core::{
    Capability, ConsoleLog, Error, ErrorKind, Exit, Fork, Manifest, Renewed, Result, Sandbox, SnapshotOptions, State,
    Stats, Teardown, Timeline, Uniqueness,
};

use confirmation::Confirmation;
use life::Life;
pub use ready::ReadySignal;
use ready::{Readiness, Signs};
pub use sandbox_core::readiness as ready;
use shared::{Name, Shared};
pub use usage::Counters;

/// Where what becomes known of a sandbox goes.
pub struct Outlets {
    /// When what was reached.
    pub recorder: Arc<Recorder>,
    /// Whether the guest is ready; stamps the same recorder.
    pub ready: ReadySignal,
    /// What the guest writes.
    pub console: Arc<ConsoleLog>,
    /// Whether a clone's guest has taken its identity.
    pub confirmation: Arc<Confirmation>,
}

impl Outlets {
    /// Outlets that stamp `recorder`, around a console.
    pub fn new(recorder: Arc<Recorder>, console: ConsoleLog) -> Self {
        Self {
            ready: ReadySignal::new(Arc::clone(&recorder)),
            recorder,
            console: Arc::new(console),
            confirmation: Arc::default(),
        }
    }
}

/// A micro-VM that lives in this process.
pub struct KvmSandbox {
    shared: Arc<Shared>,
    name: Name,
    life: Arc<Life>,
    readiness: Readiness,
    counters: Counters,
    /// What the guest was told of its own; `None` if it is no clone.
    told: Option<Uniqueness>,
}

/// What every micro-VM can do or be held to.
pub const CAPABILITIES: [Capability; 11] = [
    Capability::Pause,
    Capability::Snapshot,
    Capability::SnapshotResume,
    Capability::RestorePaused,
    Capability::Fork,
    Capability::ConsoleInput,
    Capability::LimitMemory,
    Capability::LimitDisk,
    Capability::LimitNetwork,
    Capability::LimitDeadline,
    Capability::LimitConsole,
];

/// What of it a Solo5 guest lacks: its disks, cards and console are not devices.
const NOT_BY_HYPERCALLS: [Capability; 7] = [
    Capability::Snapshot,
    Capability::SnapshotResume,
    Capability::RestorePaused,
    Capability::Fork,
    Capability::ConsoleInput,
    Capability::LimitDisk,
    Capability::LimitNetwork,
];

/// What a micro-VM can do or be held to, one of Solo5's or another one.
pub fn capabilities(hypercalls_only: bool) -> BTreeSet<Capability> {
    let mut capabilities = BTreeSet::from(CAPABILITIES);
    if hypercalls_only {
        capabilities.retain(|capability| !NOT_BY_HYPERCALLS.contains(capability));
    }
    capabilities
}

impl KvmSandbox {
    /// Whether its guest is a Solo5 one.
    fn has_hypercalls_only(&self) -> bool {
        self.life.with_machine(|machine| machine.hvt.is_some()).unwrap_or(false)
    }

    /// Puts the parts together.
    pub fn new(shared: Arc<Shared>, name: Name, life: Arc<Life>, readiness: Readiness, counters: Counters) -> Self {
        Self {
            shared,
            name,
            life,
            readiness,
            counters,
            told: None,
        }
    }

    /// Makes it known as a clone whose guest is told this. `generation` is that of the identity which it may confirm.
    pub fn with_identity(mut self, told: Uniqueness, generation: u32) -> Self {
        self.life.confirmation.expect(generation);
        self.told = Some(told);
        self
    }

    fn is_alive(&self) -> bool {
        matches!(self.state(), State::Running | State::Paused)
    }

    fn wrong_state(&self, verb: &str) -> Error {
        let context = format!("cannot {verb} a sandbox that is {}", self.state());
        Error::new(ErrorKind::WrongState, context)
    }
}

impl Sandbox for KvmSandbox {
    fn id(&self) -> &str {
        self.name.as_str()
    }

    fn state(&self) -> State {
        self.life.state()
    }

    fn capabilities(&self) -> BTreeSet<Capability> {
        capabilities(self.has_hypercalls_only())
    }

    fn start(&self) -> Result<()> {
        self.life.start()
    }

    fn wait_ready(&self, timeout: Duration) -> Result<()> {
        if self.life.ready.is_given() {
            return Ok(());
        }
        match self.state() {
            // A guest that ended as soon as it was started may have been ready; the check knows.
            State::Running | State::Paused | State::Stopped => {}
            _ => return Err(self.wrong_state("wait for")),
        }
        let signs = Signs {
            ready: &self.life.ready,
            console: &self.life.console,
            exit: &self.life.exit,
        };
        self.readiness.wait(&signs, timeout)
    }

    fn pause(&self) -> Result<()> {
        self.life.pause()
    }

    fn resume(&self) -> Result<()> {
        self.life.resume()
    }

    fn snapshot(&self, directory: &Path, options: &SnapshotOptions) -> Result<Manifest> {
        self.write_snapshot(directory, options)
    }

    fn stats(&self) -> Result<Stats> {
        let stats = self
            .life
            .with_machine(|machine| self.counters.read(machine, &self.life.crew));
        stats.ok_or_else(|| self.wrong_state("read the counters of"))?
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<Exit> {
        self.life.wait(timeout)
    }

    /// Kills at once: none of the dialects here has a way to ask its guest, so `grace` buys nothing.
    /// A Linux guest is asked by its ACPI power button, if it runs; whether it listens is its own affair. Others, and
    /// guests that are paused, cannot be asked and are killed at once.
    fn stop(&self, grace: Duration) -> Result<Exit> {
        self.life.stop(grace)
    }

    fn teardown(&self) -> Teardown {
        self.name.release();
        self.life.teardown();
        Teardown::new(self.life.clone())
    }

    fn timeline(&self) -> Timeline {
        self.life.recorder.timeline()
    }

    fn console(&self) -> Arc<ConsoleLog> {
        Arc::clone(&self.life.console)
    }

    fn as_renewed(&self) -> Option<&dyn Renewed> {
        self.told.is_some().then_some(self as &dyn Renewed)
    }

    fn as_fork(&self) -> Option<&dyn Fork> {
        match self.has_hypercalls_only() {
            true => None,
            false => Some(self),
        }
    }

    fn console_write(&self, bytes: &[u8]) -> Result<usize> {
        match self.is_alive() {
            true if self.has_hypercalls_only() => {
                let context = "a Solo5 guest has no console input";
                Err(Error::unsupported("guest.unikernel.family", context))
            }
            true => {
                let taken = self.life.with_machine(|machine| machine.ports.serial().input(bytes));
                taken.ok_or_else(|| self.wrong_state("write to"))
            }
            false => Err(self.wrong_state("write to")),
        }
    }
}

impl Renewed for KvmSandbox {
    fn uniqueness(&self) -> Uniqueness {
        clone::by_now(self.told, &self.life.confirmation)
    }

    fn wait_confirmed(&self, timeout: Duration) -> Result<Uniqueness> {
        self.life.confirmation.wait(timeout)?;
        Ok(self.uniqueness())
    }
}

impl Drop for KvmSandbox {
    fn drop(&mut self) {
        self.life.teardown();
    }
}
