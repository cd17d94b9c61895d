//! A KVM virtual machine: its memory slots, its interrupt controllers, its interrupt lines.

use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use super::dirty::DirtyPages;
use super::host::{KvmError, KvmHost};
use crate::devices::virtio::InterruptLine;
use crate::memory::GuestMemory;
use crate::memory::layout::{KVM_IDENTITY_MAP_START, KVM_TSS_START};

/// What of a PC's timers and interrupt controllers the guest needs in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chipset {
    /// 8259 PIC, IOAPIC and local APICs.
    pub irqchip: bool,
    /// 8254 PIT: costs a kernel thread, so only for guests that need it.
    pub pit: bool,
}

/// A virtual machine. The guest's memory lives at least as long as it.
pub struct Vm {
    // Declared first: the VM must be closed before the memory that its slots point to is unmapped.
    fd: VmFd,
    memory: GuestMemory,
    dirty: DirtyPages,
}

impl Vm {
    /// Puts `memory` and the chipset into the empty VM `fd`.
    ///
    /// Memory slots come before the interrupt controllers: a slot added afterwards waits for a grace period of the
    /// irqchip's users (measured: 5 to 8 ms against 0.1 ms).
    pub fn new(fd: VmFd, memory: GuestMemory, chipset: Chipset, track_dirty: bool) -> Result<Self, KvmError> {
        let vm = Self {
            fd,
            memory,
            dirty: DirtyPages::default(),
        };
        vm.add_memory_slots(track_dirty)?;
        if KvmHost::wants_tss() {
            let fd = &vm.fd;
            fd.set_identity_map_address(KVM_IDENTITY_MAP_START)
                .map_err(KvmError::call("KVM_SET_IDENTITY_MAP_ADDR"))?;
            fd.set_tss_address(KVM_TSS_START as usize)
                .map_err(KvmError::call("KVM_SET_TSS_ADDR"))?;
        }
        if chipset.irqchip {
            vm.fd.create_irq_chip().map_err(KvmError::call("KVM_CREATE_IRQCHIP"))?;
        }
        if chipset.pit {
            let config = kvm_pit_config {
                flags: KVM_PIT_SPEAKER_DUMMY,
                ..Default::default()
            };
            vm.fd.create_pit2(config).map_err(KvmError::call("KVM_CREATE_PIT2"))?;
        }
        Ok(vm)
    }

    /// A new vCPU.
    pub fn create_vcpu(&self, id: u32) -> Result<VcpuFd, KvmError> {
        self.fd
            .create_vcpu(id.into())
            .map_err(KvmError::call("KVM_CREATE_VCPU"))
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Which pages were written since a snapshot.
    pub fn dirty(&self) -> &DirtyPages {
        &self.dirty
    }

    pub(super) fn fd(&self) -> &VmFd {
        &self.fd
    }

    fn add_memory_slots(&self, track_dirty: bool) -> Result<(), KvmError> {
        let mut offset = 0;
        for (slot, range) in (0..).zip(self.memory.ranges()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: if track_dirty { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
                guest_phys_addr: range.start,
                memory_size: range.len,
                userspace_addr: self.memory.mapping().as_ptr() as u64 + offset,
            };
            // SAFETY: the address range is the guest memory's own mapping, which this value keeps mapped until the VM
            // is closed, and the slots do not overlap.
            unsafe { self.fd.set_user_memory_region(region) }.map_err(KvmError::call("KVM_SET_USER_MEMORY_REGION"))?;
            offset += range.len;
        }
        Ok(())
    }
}

/// A global system interrupt of a VM, raised by edges.
///
/// The line is driven by `KVM_IRQ_LINE` from whatever thread has something to signal. An irqfd would take a descriptor
/// per device, and hands each edge to a kernel worker thread before it reaches the guest.
pub struct GsiLine {
    vm: Arc<Vm>,
    gsi: u32,
}

impl GsiLine {
    /// Line number `gsi` of `vm`.
    pub fn new(vm: Arc<Vm>, gsi: u32) -> Self {
        Self { vm, gsi }
    }
}

impl InterruptLine for GsiLine {
    fn pulse(&self) -> io::Result<()> {
        self.vm.fd.set_irq_line(self.gsi, true)?;
        self.vm.fd.set_irq_line(self.gsi, false)?;
        Ok(())
    }
}
