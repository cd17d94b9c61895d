//! A sandbox in a worker, behind the trait.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sandbox_core::readiness::{Readiness, Signs};
use sandbox_core::{
    Capability, ConsoleLog, Error, ErrorKind, Exit, Fork, Manifest, Renewed, Result, Sandbox, SnapshotOptions, State,
    Stats, Teardown, Timeline, Uniqueness, Verb, Weakness,
};

use super::protocol::{Answer, Request};
use super::proxy::Proxy;
use super::{Workers, nonsense};
use crate::memory::image::MemoryImage;
use crate::sandbox;
use crate::sandbox::shared::{Name, Shared};
use crate::snapshot::saved::Origin;

/// How long the worker's word of the first entry may take that must be on its way already.
const STAMP_PATIENCE: Duration = Duration::from_secs(1);

/// What the sandboxes in workers of one backend share.
#[derive(Clone)]
pub struct Home {
    /// With those in the embedder's process.
    pub shared: Arc<Shared>,
    /// Where workers come from. Keeps the steward's thread alive.
    pub workers: Arc<Workers>,
}

/// A micro-VM in a worker.
pub struct WorkerSandbox {
    pub(super) home: Home,
    pub(super) name: Name,
    pub(super) proxy: Arc<Proxy>,
    pub(super) readiness: Readiness,
    pub(super) weaknesses: Vec<Weakness>,
    /// What its machine was made by.
    pub(super) origin: Origin,
    /// Whether its guest is a Solo5 one.
    pub(super) hypercalls_only: bool,
    /// What the guest was told of its own; `None` if it is no clone.
    pub(super) told: Option<Uniqueness>,
    /// Sizes of its private disks in bytes.
    pub(super) private_disks: Vec<u64>,
    /// The image that the worker's memory is laid over, as the worker has it: parts and files in the same order.
    pub(super) image: Mutex<Option<Arc<MemoryImage>>>,
}

impl WorkerSandbox {
    fn is_alive(&self) -> bool {
        matches!(self.state(), State::Running | State::Paused)
    }

    fn wrong_state(&self, verb: &str) -> Error {
        let context = format!("cannot {verb} a sandbox that is {}", self.state());
        Error::new(ErrorKind::WrongState, context)
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
        let mut capabilities = sandbox::capabilities(self.hypercalls_only);
        let limits = &self.origin.spec.limits;
        if limits.cpu_quota.is_some() {
            capabilities.insert(Capability::LimitCpuQuota);
        }
        if limits.pids.is_some() {
            capabilities.insert(Capability::LimitPids);
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

    fn snapshot(&self, directory: &Path, options: &SnapshotOptions) -> Result<Manifest> {
        self.write_snapshot(directory, options)
    }

    fn stats(&self) -> Result<Stats> {
        if self.state() == State::TornDown {
            return Err(self.wrong_state("read the counters of"));
        }
        let link = &self.proxy.link;
        match self.proxy.ask(Request::Stats, "read its counters")? {
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

    fn as_renewed(&self) -> Option<&dyn Renewed> {
        self.told.is_some().then_some(self as &dyn Renewed)
    }

    fn as_fork(&self) -> Option<&dyn Fork> {
        match self.hypercalls_only {
            true => None,
            false => Some(self),
        }
    }

    fn console_write(&self, bytes: &[u8]) -> Result<usize> {
        if !self.is_alive() {
            return Err(self.wrong_state("write to"));
        }
        // More than the guest's console has room for need not be sent.
        let piece = &bytes[..bytes.len().min(super::protocol::CONSOLE_PIECE)];
        match self.proxy.ask(Request::ConsoleInput(piece.to_vec()), "take input")? {
            Answer::Taken(taken) => Ok(usize::try_from(taken).unwrap_or(usize::MAX).min(piece.len())),
            _ => Err(nonsense(&self.proxy.link)),
        }
    }
}

impl Renewed for WorkerSandbox {
    fn uniqueness(&self) -> Uniqueness {
        sandbox::clone::by_now(self.told, &self.proxy.outlets.confirmation)
    }

    fn wait_confirmed(&self, timeout: Duration) -> Result<Uniqueness> {
        self.proxy.outlets.confirmation.wait(timeout)?;
        Ok(self.uniqueness())
    }
}

impl Drop for WorkerSandbox {
    fn drop(&mut self) {
        self.proxy.teardown();
        // One that was never started has not seen to it yet.
        self.home.workers.refill();
    }
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
