//! What a worker is given to make a machine from.

use serde::{Deserialize, Serialize};

use crate::boot::store::{InitrdParts, KernelParts};
use crate::machine::host::KvmFacts;
use crate::machine::shell::ShellKind;
use crate::memory::image::PartRecord;
use crate::renewal::NewIdentity;

/// What a worker needs before it knows its sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub struct Preparation {
    /// What the host's KVM supports.
    pub kvm: KvmFacts,
    /// What its jail is to be.
    pub jail: JailPlan,
    /// What its sandbox's VM will be like, as far as that can be guessed: it is made ahead.
    pub shell: Option<ShellKind>,
}

/// How a worker is jailed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JailPlan {
    /// It was made in namespaces of its own; otherwise it tries to get them itself.
    pub born_in_namespaces: bool,
    /// User and group to become, where the embedder is root.
    pub user: Option<(u32, u32)>,
    /// Filters of system calls, or `None` to do without.
    pub filters: Option<Filters>,
}

/// A filter of system calls per role: BPF instructions of 8 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filters {
    /// For vCPU threads.
    #[serde(with = "super::bytes")]
    pub vcpu: Vec<u8>,
    /// For the event loop.
    #[serde(with = "super::bytes")]
    pub events: Vec<u8>,
    /// For the thread that takes the embedder's calls.
    #[serde(with = "super::bytes")]
    pub control: Vec<u8>,
}

/// What every sandbox has, however its machine is made. Its descriptors, behind those of the machine: a file per disk; a
/// tap per network; and for a socket device its listener and the broker of the guest's connections.
#[derive(Debug, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub id: String,
    /// Its spec, as JSON.
    pub spec: String,
    /// Stamp phases with processor time.
    pub cpu_timeline: bool,
    /// With the time since the worker's beginning, not since this message.
    pub cpu_from_birth: bool,
    /// Addresses of its network cards.
    pub macs: Vec<[u8; 6]>,
}

/// A sandbox that boots. The descriptors of the machine: the kernel's file and the initrd's, if they have one; and behind
/// all others the device that makes descriptors for page faults, if the kernel comes on demand.
#[derive(Debug, Serialize, Deserialize)]
pub struct Launch {
    /// What every sandbox has.
    pub setting: Setting,
    /// Its kernel.
    pub kernel: KernelParts,
    /// Its initial RAM disk.
    pub initrd: Option<InitrdParts>,
    /// The kernel comes on demand.
    pub on_demand: bool,
}

/// A sandbox that goes on where another one stood. The descriptors of the machine: its state, as in a snapshot's folder;
/// then the files of its memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct Revive {
    /// What every sandbox has.
    pub setting: Setting,
    /// Its memory.
    pub memory: MemoryParts,
    /// Bytes of the original's private disks; what was written to each is in a file behind those of the memory.
    pub layers: Vec<u64>,
    /// The snapshot that its memory is of.
    pub snapshot: Option<[u8; 16]>,
    /// What it is told of its own.
    pub identity: Option<NewIdentity>,
}

/// What a clone's memory is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum MemoryParts {
    /// Parts of this many sealed files.
    Image(u8, Vec<PartRecord>),
    /// The memory files of a snapshot, the oldest first, each with its digest where that is to be verified. Which pages
    /// count stands in the state.
    Files(Vec<Option<String>>),
    /// This many memory files of a snapshot, to be read page by page when they are asked for; behind them the device that
    /// makes descriptors for page faults, and a file with the list of pages to read ahead, or to leave one in.
    Paged(u8),
}
