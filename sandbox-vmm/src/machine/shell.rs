//! A virtual machine with nothing in it: what takes the kernel its time, and is the same for many guests, made ahead.
//!
//! Making a VM waits for grace periods of the kernel now and then, for 8 to 12 ms in which nothing happens. A shell has
//! its memory mapped and its slots set, its interrupt controllers and its vCPUs; what a guest is told of (CPUID,
//! registers) is not decided yet, so that a cold start and a restore can both begin with one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvm_ioctls::VcpuFd;
use sandbox_core::pool::{Pool, PoolMetrics, Refill};
use sandbox_core::timeline::Recorder;
use sandbox_core::{Phase, Result};
use serde::{Deserialize, Serialize};

use super::host::KvmHost;
use super::vm::{Chipset, Vm};
use crate::memory::image::MemoryImage;
use crate::memory::{GuestMemory, HugePages};

/// What tells shells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShellKind {
    /// Guest memory in bytes.
    pub memory: u64,
    /// How it is backed.
    pub huge_pages: HugePages,
    /// Whether writes are logged.
    pub track_dirty: bool,
    /// Timers and interrupt controllers.
    pub chipset: Chipset,
    /// Number of vCPUs.
    pub vcpus: u32,
}

/// A VM without a guest.
pub struct Shell {
    /// The VM, with memory that is all zero, or of an image.
    pub vm: Arc<Vm>,
    /// Its vCPUs, as KVM makes them.
    pub vcpus: Vec<VcpuFd>,
}

impl Shell {
    /// Makes one, with this content if there is any.
    fn make(
        host: &KvmHost,
        kind: &ShellKind,
        image: Option<&Arc<MemoryImage>>,
        recorder: Option<&Recorder>,
    ) -> Result<Self> {
        let stamp = |phase| {
            if let Some(recorder) = recorder {
                recorder.record(phase);
            }
        };
        let fd = host.create_vm()?;
        stamp(Phase::VmCreated);
        let memory = match image {
            Some(image) => GuestMemory::of_image(kind.memory, kind.huge_pages, kind.track_dirty, image)?,
            None => GuestMemory::new(kind.memory, kind.huge_pages, kind.track_dirty)?,
        };
        let vm = Vm::new(fd, memory, kind.chipset, kind.track_dirty)?;
        stamp(Phase::MemoryMapped);
        let vcpus = (0..kind.vcpus)
            .map(|id| vm.create_vcpu(id))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            vm: Arc::new(vm),
            vcpus,
        })
    }
}

/// Shells that are kept ready, by their kinds.
#[derive(Default)]
pub struct Shells {
    pools: Mutex<HashMap<ShellKind, Arc<Pool<Shell>>>>,
    /// One that was made for a sandbox that is not known yet.
    single: Mutex<Option<(ShellKind, Shell)>>,
}

impl Shells {
    /// One that is ready, or else one that is made now.
    pub fn take(&self, host: &KvmHost, kind: &ShellKind, recorder: &Recorder) -> Result<Shell> {
        self.take_with(host, kind, None, recorder).map(|(shell, _)| shell)
    }

    /// The same, with the content of `image` in its memory if one is given; the place of one that was ready stays empty
    /// until the [`Refill`] is dropped.
    pub fn take_with(
        &self,
        host: &KvmHost,
        kind: &ShellKind,
        image: Option<&Arc<MemoryImage>>,
        recorder: &Recorder,
    ) -> Result<(Shell, Option<Refill>)> {
        let Some((shell, refill)) = self.take_ready(kind) else {
            return Ok((Shell::make(host, kind, image, Some(recorder))?, None));
        };
        recorder.record(Phase::VmCreated);
        if let Some(image) = image {
            shell.vm.memory().lay_over(image)?;
        }
        recorder.record(Phase::MemoryMapped);
        Ok((shell, refill))
    }

    fn take_ready(&self, kind: &ShellKind) -> Option<(Shell, Option<Refill>)> {
        let single = self.lock_single().take_if(|(made, _)| made == kind);
        if let Some((_, shell)) = single {
            return Some((shell, None));
        }
        let (shell, refill) = self.pool(kind)?.take_before_refill()?;
        Some((shell, Some(refill)))
    }

    /// Makes one of `kind` now, for a process that is to have a single sandbox and does not know which.
    ///
    /// # Errors
    /// A host that has none to give.
    pub fn prepare(&self, host: &KvmHost, kind: ShellKind) -> Result<()> {
        let shell = Shell::make(host, &kind, None, None)?;
        *self.lock_single() = Some((kind, shell));
        Ok(())
    }

    /// Keeps `count` shells of `kind` ready from now on, in place of as many as before; none with 0.
    ///
    /// # Errors
    /// More than a pool holds, or a host without threads left.
    pub fn keep(&self, host: &Arc<KvmHost>, kind: ShellKind, count: usize) -> Result<()> {
        let host = Arc::clone(host);
        let pool = match count {
            0 => None,
            _ => Some(Arc::new(Pool::new(count, move || {
                Shell::make(&host, &kind, None, None)
            })?)),
        };
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match pool {
            Some(pool) => pools.insert(kind, pool),
            None => pools.remove(&kind),
        };
        drop(pools);
        // Without the lock: what was ready is given back, which takes its time.
        drop(before);
        Ok(())
    }

    /// What the pool of `kind` has done, if there is one.
    pub fn metrics(&self, kind: &ShellKind) -> Option<PoolMetrics> {
        self.pool(kind).map(|pool| pool.metrics())
    }

    /// Waits until `count` of `kind` are ready; false when `timeout` is over first, or not as many are kept.
    pub fn wait_ready(&self, kind: &ShellKind, count: usize, timeout: Duration) -> bool {
        self.pool(kind).is_some_and(|pool| pool.wait_ready(count, timeout))
    }

    fn lock_single(&self) -> MutexGuard<'_, Option<(ShellKind, Shell)>> {
        self.single.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pool(&self, kind: &ShellKind) -> Option<Arc<Pool<Shell>>> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.get(kind).map(Arc::clone)
    }
}
