//! The verbs.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::console::ConsoleLog;
use crate::error::Result;
use crate::exit::Exit;
use crate::jail::Weakness;
use crate::lifecycle::State;
use crate::network::NetworkState;
use crate::snapshot::{Manifest, RestoreOptions, SnapshotOptions, Uniqueness};
use crate::spec::SandboxSpec;
use crate::stats::Stats;
use crate::timeline::Timeline;

/// A kind of wall: makes sandboxes, and says what this host lets it do.
pub trait Backend: Send + Sync {
    /// Short name, such as `kvm` or `runc`.
    fn name(&self) -> &'static str;

    /// What this host can do, and why not. May take milliseconds: it tries things out.
    fn probe(&self) -> Probe;

    /// Makes a sandbox in state [`State::Created`]: everything is opened, checked and set up, and no guest code runs.
    ///
    /// # Errors
    /// Anything wrong with the spec or the host. Nothing is left behind then.
    fn create(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>>;

    /// Makes a sandbox from a snapshot folder, in state [`State::Paused`], or running if the options say start.
    ///
    /// # Errors
    /// Anything wrong with the snapshot, the options or the host. Nothing is left behind then.
    fn restore(&self, snapshot: &Path, options: &RestoreOptions) -> Result<Restored>;
}

/// A restored or forked sandbox, and what makes it different from its siblings.
pub struct Restored {
    /// The sandbox.
    pub sandbox: Box<dyn Sandbox>,
    /// What it can rely on being its own.
    pub uniqueness: Uniqueness,
}

impl fmt::Debug for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Restored");
        debug.field("sandbox", &self.sandbox.id());
        debug.field("uniqueness", &self.uniqueness).finish()
    }
}

/// What only some sandboxes can do, or be held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u32)]
pub enum Capability {
    /// `pause` and `resume`.
    Pause = 0,
    /// `snapshot`, and `restore` of it.
    Snapshot = 1,
    /// A snapshot after which the sandbox goes on as if nothing had happened.
    SnapshotResume = 2,
    /// A restored sandbox can be held paused.
    RestorePaused = 3,
    /// [`Fork`].
    Fork = 4,
    /// [`Exec`].
    Exec = 5,
    /// Console input.
    ConsoleInput = 6,
    /// `limits.cpu_quota` holds.
    LimitCpuQuota = 7,
    /// The guest cannot use more memory than the spec says.
    LimitMemory = 8,
    /// `limits.pids` holds.
    LimitPids = 9,
    /// Rate limits of disks hold: those of a machine's disks, or a container's `limits.disk_read`.
    LimitDisk = 10,
    /// Rate limits of networks hold.
    LimitNetwork = 11,
    /// `limits.deadline_ms` holds.
    LimitDeadline = 12,
    /// `limits.console_bytes` holds.
    LimitConsole = 13,
}

impl Capability {
    /// All capabilities, in the order of their numbers.
    pub const ALL: [Capability; 14] = [
        Capability::Pause,
        Capability::Snapshot,
        Capability::SnapshotResume,
        Capability::RestorePaused,
        Capability::Fork,
        Capability::Exec,
        Capability::ConsoleInput,
        Capability::LimitCpuQuota,
        Capability::LimitMemory,
        Capability::LimitPids,
        Capability::LimitDisk,
        Capability::LimitNetwork,
        Capability::LimitDeadline,
        Capability::LimitConsole,
    ];

    /// Its number, append-only and below 64: its bit in the C interface.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Capability::Pause => "pause",
            Capability::Snapshot => "snapshot",
            Capability::SnapshotResume => "snapshot_resume",
            Capability::RestorePaused => "restore_paused",
            Capability::Fork => "fork",
            Capability::Exec => "exec",
            Capability::ConsoleInput => "console_input",
            Capability::LimitCpuQuota => "limit_cpu_quota",
            Capability::LimitMemory => "limit_memory",
            Capability::LimitPids => "limit_pids",
            Capability::LimitDisk => "limit_disk",
            Capability::LimitNetwork => "limit_network",
            Capability::LimitDeadline => "limit_deadline",
            Capability::LimitConsole => "limit_console",
        }
    }
}

/// What a backend found out about this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// Whether sandboxes can be made at all.
    pub usable: bool,
    /// Why not, or what is weaker than it could be; one sentence each.
    pub reasons: Vec<String>,
    /// What its sandboxes can do here.
    pub capabilities: BTreeSet<Capability>,
    /// Further facts, such as versions.
    pub facts: Vec<(String, String)>,
}

/// A sandbox. All methods may be called from any thread at any time; what the present [`State`] does not allow fails
/// with [`crate::ErrorKind::WrongState`] and changes nothing. Dropping it tears it down.
pub trait Sandbox: Send + Sync {
    /// Its name: the spec's `id`, or one of the backend's choice.
    fn id(&self) -> &str;

    /// Where it stands. Any state.
    fn state(&self) -> State;

    /// What this one can do.
    fn capabilities(&self) -> BTreeSet<Capability>;

    /// What the jail of its process lacks on this host; empty for one that has the whole jail, and for one that was
    /// asked to live without: in its embedder's process, or behind a wall that the backend does not build itself.
    fn weaknesses(&self) -> Vec<Weakness> {
        Vec::new()
    }

    /// Runs the guest: `Created` → `Starting` → `Running`. Returns when the guest's processors are on their way; a
    /// guest that ends at once may be `Stopped` already. A failure leaves `Failed`.
    fn start(&self) -> Result<()>;

    /// Waits for the spec's readiness check, at once true if it has none or has passed before. `Running` or `Paused`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::GuestEnded`] if the guest ended first, [`crate::ErrorKind::Timeout`] when `timeout` is over;
    /// neither changes the state.
    fn wait_ready(&self, timeout: Duration) -> Result<()>;

    /// Holds the guest: `Running` → `Paused`. When it returns, no guest instruction executes until `resume`.
    fn pause(&self) -> Result<()>;

    /// Goes on: `Paused` → `Running`.
    fn resume(&self) -> Result<()>;

    /// Writes a snapshot into the new folder `directory`. `Running` or `Paused`; the options say what state follows.
    /// A failure leaves no folder and the sandbox as it was.
    fn snapshot(&self, directory: &Path, options: &SnapshotOptions) -> Result<Manifest>;

    /// Reads the counters. Any state but `TornDown`.
    fn stats(&self) -> Result<Stats>;

    /// Waits for the end, for ever without `timeout`. Any state: the exit status is kept for whoever asks, however late
    /// and however often. A sandbox torn down before its guest ended has [`Exit::Killed`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::Timeout`] when `timeout` is over.
    fn wait(&self, timeout: Option<Duration>) -> Result<Exit>;

    /// Ends the guest: asks it to where the guest can be asked and runs, waits up to `grace`, then kills it. One that
    /// cannot be asked is killed at once, as is every guest without `grace`. Leaves `Stopped`.
    /// `Created`, `Running`, `Paused`, or `Stopped` already (then it returns the exit that is known).
    fn stop(&self, grace: Duration) -> Result<Exit>;

    /// Gives everything back: from any state to `TornDown`. Kills the guest if it runs. Returns soon; what the kernel
    /// takes its time with goes on behind, and can be awaited: until then disks stay locked, and taps, addresses and
    /// sockets in use, also when the teardown was begun by a drop. A second call returns the same.
    fn teardown(&self) -> Teardown;

    /// The networks that the SDK made for it, with addresses and ports that the spec left open. Any state; what is told
    /// here is given back by teardown.
    fn networks(&self) -> Vec<NetworkState> {
        Vec::new()
    }

    /// When which phase was reached. Any state.
    fn timeline(&self) -> Timeline;

    /// What the guest wrote on its console. Any state.
    fn console(&self) -> Arc<ConsoleLog>;

    /// Sends input to the guest's console; needs [`Capability::ConsoleInput`]. `Running` or `Paused`. Returns how many
    /// bytes were taken: a guest that does not read has only room for so many.
    fn console_write(&self, bytes: &[u8]) -> Result<usize>;

    /// What a restored or forked sandbox has of its own; `None` for one that was created.
    fn as_renewed(&self) -> Option<&dyn Renewed> {
        None
    }

    /// The ability to clone in memory, where this sandbox has it.
    fn as_fork(&self) -> Option<&dyn Fork> {
        None
    }

    /// The ability to run further commands, where this sandbox has it.
    fn as_exec(&self) -> Option<&dyn Exec> {
        None
    }
}

impl fmt::Debug for dyn Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sandbox({}, {})", self.id(), self.state())
    }
}

/// A teardown under way.
#[derive(Clone)]
pub struct Teardown(Arc<dyn PendingTeardown>);

/// What a backend offers behind a [`Teardown`].
pub trait PendingTeardown: Send + Sync {
    /// Waits until everything is given back; false when `timeout` was over first.
    fn wait(&self, timeout: Duration) -> bool;
}

impl Teardown {
    /// Wraps a backend's own.
    pub fn new(pending: Arc<dyn PendingTeardown>) -> Self {
        Self(pending)
    }

    /// Waits until every thread is joined, every descriptor closed and all memory returned.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Timeout`] when `timeout` is over; the teardown goes on.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        match self.0.wait(timeout) {
            true => Ok(()),
            false => Err(crate::Error::timeout("the teardown")),
        }
    }
}

impl fmt::Debug for Teardown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Teardown")
    }
}

/// What a clone has of its own, beside its siblings.
pub trait Renewed: Send + Sync {
    /// What it can rely on by now: what its guest was told becomes [`crate::snapshot::Given::GuestConfirmed`] when the guest says
    /// so.
    fn uniqueness(&self) -> Uniqueness;

    /// Waits until the guest has confirmed what it was told. A guest that is paused confirms nothing, nor does one of a
    /// family that has no way to.
    ///
    /// # Errors
    /// [`crate::ErrorKind::GuestEnded`] if the guest ended first, [`crate::ErrorKind::Timeout`] when `timeout` is over.
    fn wait_confirmed(&self, timeout: Duration) -> Result<Uniqueness>;
}

/// Cloning in memory.
pub trait Fork: Send + Sync {
    /// Makes `count` clones of a running or paused sandbox, each with the options' overrides. The parent goes on as it
    /// was. Either all clones are made or none.
    fn fork(&self, count: u32, options: &RestoreOptions) -> Result<Vec<Restored>>;
}

/// Running further commands in a running sandbox.
pub trait Exec: Send + Sync {
    /// Starts `arguments` (the first names the program) with `environment` (`NAME=value`) inside.
    fn exec(&self, arguments: &[String], environment: &[String]) -> Result<Box<dyn ExecSession>>;
}

/// A command that was started by [`Exec`].
pub trait ExecSession: Send + Sync {
    /// Its output.
    fn output(&self) -> Arc<ConsoleLog>;

    /// Sends input; returns how many bytes were taken.
    fn write(&self, bytes: &[u8]) -> Result<usize>;

    /// Waits for its end.
    fn wait(&self, timeout: Option<Duration>) -> Result<Exit>;
}

#[cfg(test)]
mod tests {
    use super::Capability;

    #[test]
    fn capabilities_are_numbered_without_gaps() {
        for (index, capability) in Capability::ALL.into_iter().enumerate() {
            assert_eq!(capability.number() as usize, index, "{}", capability.name());
        }
    }
}
