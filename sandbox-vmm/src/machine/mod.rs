//! The machine: a VM, its vCPUs and its devices.

pub mod clock;
pub mod cpu_features;
pub mod cpuid;
pub mod crew;
pub mod dirty;
pub mod host;
pub mod kick;
mod msr;
pub mod probe;
pub mod shell;
pub mod vcpu;
pub mod vcpu_state;
pub mod vm;
pub mod vm_state;

use std::sync::Arc;

use sandbox_core::ConsoleLog;

use crate::devices::hvt::Hypercalls;
use crate::devices::legacy::LegacyDevices;
use crate::devices::mmio_bus::MmioBus;
use crate::devices::virtio::{Shared, VirtioDevice};
use crate::memory::fault_server::FaultServer;
use crate::snapshot::pager::Pager;
use vm::{GsiLine, Vm};

/// A virtio device that transport and event loop share.
pub type SharedDevice = Arc<Shared<dyn VirtioDevice>>;

/// Everything that serves a guest, but for the vCPUs, which their threads own.
pub struct Machine {
    /// Devices at fixed ports.
    pub ports: LegacyDevices,
    /// virtio devices, as the guest reaches them.
    pub mmio: MmioBus,
    /// virtio devices, as the event loop reaches them.
    pub devices: Vec<SharedDevice>,
    /// The guest's console output.
    pub console: Arc<ConsoleLog>,
    /// Whether the host's KVM is a software one, which explains some faults.
    pub software_kvm: bool,
    /// The hypercalls of a guest that has nothing else.
    pub hvt: Option<Hypercalls>,
    /// By which the guest is asked to end, if it can be asked.
    pub power_button: Option<GsiLine>,
    /// The VM.
    pub vm: Arc<Vm>,
    /// Serves the pages of a guest that is restored on demand.
    pub pager: Option<Pager>,
    /// Serves the pages of a kernel that comes on demand.
    pub loader: Option<FaultServer>,
}
