//! A container behind the trait.

mod counters;
mod ending;
mod exec;
mod life;
mod parts;
mod processes;
mod snapshot;
mod usage;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sandbox_core::readiness::{Readiness, Signs};
use sandbox_core::spec::GuestSpec;
use sandbox_core::{
    Capability, ConsoleLog, Error, ErrorKind, Exec, ExecSession, Exit, Manifest, NetworkState, Result, Sandbox,
    SandboxSpec, SnapshotOptions, State, Stats, Teardown, Timeline,
};

pub use life::{Console, Life};
pub use parts::{Launch, Parts};
pub use snapshot::{UNIQUENESS, with_last_words};

/// A container.
pub struct ContainerSandbox {
    id: String,
    spec: SandboxSpec,
    life: Arc<Life>,
    readiness: Readiness,
    capabilities: BTreeSet<Capability>,
}

impl ContainerSandbox {
    /// Puts the parts together.
    pub fn new(
        spec: SandboxSpec,
        id: String,
        life: Arc<Life>,
        readiness: Readiness,
        mut capabilities: BTreeSet<Capability>,
    ) -> Self {
        if !life.takes_input() {
            capabilities.remove(&Capability::ConsoleInput);
        }
        if unsaved(&spec).is_some() {
            capabilities.remove(&Capability::Snapshot);
            capabilities.remove(&Capability::SnapshotResume);
        }
        Self {
            spec,
            id,
            life,
            readiness,
            capabilities,
        }
    }

    fn in_state(&self, allowed: &[State], verb: &str) -> Result<()> {
        let state = self.state();
        match allowed.contains(&state) {
            true => Ok(()),
            false => {
                let context = format!("cannot {verb} a sandbox that is {state}");
                Err(Error::new(ErrorKind::WrongState, context))
            }
        }
    }
}

/// The field of what a container has that no runtime saves, and what would become of it.
fn unsaved(spec: &SandboxSpec) -> Option<(&'static str, &'static str)> {
    match &spec.guest {
        GuestSpec::Container(guest) if guest.writable_root => Some((
            "guest.container.writable_root",
            "what the container wrote to its root file system would be missing from the snapshot",
        )),
        _ if !spec.networks.is_empty() => Some((
            "networks",
            "what goes on from the snapshot would have the original's addresses in another network",
        )),
        _ => None,
    }
}

const ALIVE: [State; 2] = [State::Running, State::Paused];

impl Sandbox for ContainerSandbox {
    fn id(&self) -> &str {
        &self.id
    }

    fn state(&self) -> State {
        self.life.state()
    }

    fn capabilities(&self) -> BTreeSet<Capability> {
        self.capabilities.clone()
    }

    fn start(&self) -> Result<()> {
        self.life.start()
    }

    fn wait_ready(&self, timeout: Duration) -> Result<()> {
        if self.life.ready.is_given() {
            return Ok(());
        }
        // One that ended as soon as it was started may have been ready; the check knows.
        self.in_state(&[State::Running, State::Paused, State::Stopped], "wait for")?;
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
        self.in_state(&ALIVE, "snapshot")?;
        if !self.capabilities.contains(&Capability::Snapshot) && unsaved(&self.spec).is_none() {
            let context = "this runtime cannot save containers here; its probe says why";
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let can_go_on = self.capabilities.contains(&Capability::SnapshotResume);
        snapshot::take(&self.life, &self.spec, can_go_on, directory, options)
    }

    fn stats(&self) -> Result<Stats> {
        if self.state() == State::TornDown {
            let context = "cannot read the counters of a sandbox that is torn down";
            return Err(Error::new(ErrorKind::WrongState, context));
        }
        let networks = self.networks().iter().map(counters::of).collect();
        Ok(Stats {
            networks,
            ..usage::of(&self.life)
        })
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<Exit> {
        self.life.wait(timeout)
    }

    fn stop(&self, grace: Duration) -> Result<Exit> {
        self.life.stop(grace)
    }

    fn teardown(&self) -> Teardown {
        self.life.teardown();
        Teardown::new(self.life.clone())
    }

    fn networks(&self) -> Vec<NetworkState> {
        self.life.parts.network_states()
    }

    fn timeline(&self) -> Timeline {
        self.life.recorder.timeline()
    }

    fn console(&self) -> Arc<ConsoleLog> {
        Arc::clone(&self.life.console)
    }

    fn console_write(&self, bytes: &[u8]) -> Result<usize> {
        self.in_state(&ALIVE, "write to")?;
        if !self.capabilities.contains(&Capability::ConsoleInput) {
            let context = "the container's process was given no standard input; ask for one, or for a terminal";
            return Err(Error::unsupported("guest.container.process.stdin", context));
        }
        self.life.write(bytes)
    }

    fn as_exec(&self) -> Option<&dyn Exec> {
        Some(self)
    }
}

impl Exec for ContainerSandbox {
    fn exec(&self, arguments: &[String], environment: &[String]) -> Result<Box<dyn ExecSession>> {
        exec::start(&self.life, arguments, environment)
    }
}

impl Drop for ContainerSandbox {
    fn drop(&mut self) {
        self.life.teardown();
    }
}
