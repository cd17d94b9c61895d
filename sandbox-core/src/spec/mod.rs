//! What a sandbox is described by: one document, the same for every backend.
//!
//! Parsing is strict: an unknown field, a wrong type or a value that cannot be is an error that names the field. What
//! is well-formed but cannot be had on a host is the backend's to refuse, as unsupported: no field ever quietly means
//! less than it says.

mod device;
mod guest;
mod network;
mod ready;
mod validate;

use serde::{Deserialize, Serialize};

pub use device::{BalloonSpec, DiskSpec, NetworkSpec, TapSpec, VsockSpec};
pub use guest::{
    BootProtocol, ContainerGuest, GuestSpec, LinuxGuest, MountSpec, ProcessSpec, UnikernelFamily, UnikernelGuest,
};
pub use network::{BridgeSpec, CniSpec, PortProtocol, PortSpec};
pub use ready::ReadyCheck;

use crate::document;
use crate::error::Result;
use crate::limits::Limits;

/// Largest number of virtual processors.
pub const MAX_VCPUS: u32 = 32;
/// Memory unless the spec says otherwise, in bytes.
pub const DEFAULT_MEMORY: u64 = 128 << 20;
/// A JSON document larger than this is refused unread, in bytes.
pub const MAX_SPEC_BYTES: usize = document::MAX_BYTES;

/// A sandbox's description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SandboxSpec {
    /// Name, 1 to 64 of `a-z A-Z 0-9 . _ -`; one is made up if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What runs inside.
    pub guest: GuestSpec,
    /// Virtual processors, 1 to 32.
    #[serde(default = "default_vcpus")]
    pub vcpus: u32,
    /// Guest memory in bytes, a multiple of 4096.
    #[serde(default = "default_memory")]
    pub memory: u64,
    /// How the host backs guest memory.
    #[serde(default)]
    pub huge_pages: HugePages,
    /// The virtual processors' model.
    #[serde(default)]
    pub cpu: CpuSpec,
    /// Disks, in the order in which the guest finds them.
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    /// Network cards, in the order in which the guest finds them.
    #[serde(default)]
    pub networks: Vec<NetworkSpec>,
    /// Sockets between host and guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockSpec>,
    /// A device that gives random numbers.
    #[serde(default)]
    pub rng: bool,
    /// A device by which the guest gives memory back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonSpec>,
    /// What it is held to.
    #[serde(default)]
    pub limits: Limits,
    /// When it counts as ready; as soon as it runs if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<ReadyCheck>,
    /// Where the virtual machine monitor lives.
    #[serde(default)]
    pub isolation: Isolation,
    /// What becomes of a sandbox whose worker process cannot have the whole jail on this host.
    #[serde(default)]
    pub weak_jail: WeakJail,
    /// Log written pages, so that differential snapshots can be taken.
    #[serde(default)]
    pub track_dirty: bool,
}

fn default_vcpus() -> u32 {
    1
}

fn default_memory() -> u64 {
    DEFAULT_MEMORY
}

/// Where the virtual machine monitor lives; containers have no say in it and ignore neither value: they accept both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// In a jailed process of its own.
    #[default]
    Worker,
    /// In the embedder's own process: for trusted guests, with the lowest latency.
    InProcess,
}

/// What becomes of a sandbox whose worker process cannot have the whole jail on this host: no user namespaces for
/// ordinary users, an old kernel, a container around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum WeakJail {
    /// It is made with what there is, and says what it lacks.
    #[default]
    Report,
    /// It is not made.
    Refuse,
}

/// How the host backs guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum HugePages {
    /// Transparent huge pages for Linux guests of 64 MiB and more, which touch most of what they have and are up sooner
    /// with them; small pages for the others, whose few touched pages would each become 2 MiB.
    #[default]
    Auto,
    /// Small pages: a Linux guest's first instruction comes sooner, it is up later, and it takes less memory.
    Never,
    /// Transparent huge pages.
    Transparent,
}

/// The virtual processors' model: the host's, less what is hidden.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct CpuSpec {
    /// Features to hide from CPUID, by the names that Linux shows in `/proc/cpuinfo`, such as `avx2`.
    pub mask: Vec<String>,
}

impl SandboxSpec {
    /// A spec with defaults around `guest`.
    pub fn new(guest: GuestSpec) -> Self {
        Self {
            id: None,
            guest,
            vcpus: default_vcpus(),
            memory: default_memory(),
            huge_pages: HugePages::default(),
            cpu: CpuSpec::default(),
            disks: Vec::new(),
            networks: Vec::new(),
            vsock: None,
            rng: false,
            balloon: None,
            limits: Limits::default(),
            ready: None,
            isolation: Isolation::default(),
            weak_jail: WeakJail::default(),
            track_dirty: false,
        }
    }

    /// Parses and validates a JSON document.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidSpec`] with the field's path and, for a closed set of values, the accepted ones.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let spec: Self = document::from_json(json)?;
        spec.validate()?;
        Ok(spec)
    }

    /// The document, as JSON.
    pub fn to_json(&self) -> String {
        // Every type in the document has string keys and no fallible serializer, so this cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Checks what can be checked without a host. Backends call it on every spec, however it was made.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidSpec`] with the field's path.
    pub fn validate(&self) -> Result<()> {
        validate::validate(self)
    }
}

#[cfg(test)]
mod tests;
