//! The virtio devices of a spec: made from what was opened for them, and put into the machine.

use std::sync::Arc;

use sandbox_core::spec::SandboxSpec;
use sandbox_core::{Error, Result};

use super::opened::OpenDevices;
use super::{disk, network, others};
use crate::devices::virtio::transport::MmioTransport;
use crate::devices::virtio::{Shared, VirtioDevice};
use crate::machine::vm::GsiLine;
use crate::machine::{Machine, SharedDevice};
use crate::memory::layout::{MMIO_START, MMIO_WINDOW_SIZE};
use crate::sandbox::{Counters, Outlets};

/// Interrupts for virtio devices, one each: the first ones below 16, since some guests have nothing but the PIC; left
/// out are those that a PC gives to something else (4 serial port, 8 clock, 13 floating point) and the generic event
/// device's.
const GSIS: [u32; 16] = [5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 18, 19, 20, 21, 22, 23];

/// The interrupt of the generic event device. Not the last of the IOAPIC: Nanos, which has every ACPI device's interrupt
/// routed, miscounts by one and halts on that.
pub const EVENT_GSI: u32 = 16;

/// The interrupt of the power button, which a PC gives to its second serial port.
pub const POWER_BUTTON_GSI: u32 = 3;

/// Where a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Guest-physical address of its registers.
    pub window: u64,
    /// Its interrupt.
    pub gsi: u32,
}

/// Where the devices of `spec` stand, in the order in which the guest finds them.
pub fn slots(spec: &SandboxSpec) -> Result<Vec<Slot>> {
    let groups = [
        (spec.disks.len(), "disks"),
        (spec.networks.len(), "networks"),
        (usize::from(spec.vsock.is_some()), "vsock"),
        (usize::from(spec.rng), "rng"),
        (usize::from(spec.balloon.is_some()), "balloon"),
    ];
    let mut slots = Vec::new();
    for (count, field) in groups {
        for _ in 0..count {
            let Some(gsi) = GSIS.get(slots.len()) else {
                let context = format!("the machine has room for {} devices in all", GSIS.len());
                return Err(Error::unsupported(field, context));
            };
            slots.push(Slot {
                window: MMIO_START + slots.len() as u64 * MMIO_WINDOW_SIZE,
                gsi: *gsi,
            });
        }
    }
    Ok(slots)
}

/// The devices, in the order of their slots.
#[derive(Default)]
pub struct DeviceSet {
    devices: Vec<SharedDevice>,
    counters: Counters,
}

impl DeviceSet {
    /// The devices of `spec` before what was opened for them.
    pub fn new(spec: &SandboxSpec, opened: OpenDevices, outlets: &Outlets) -> Result<Self> {
        let mut set = Self::default();
        for (index, (disk, file)) in spec.disks.iter().zip(opened.disks).enumerate() {
            let device = disk::device(disk, file, &format!("disks[{index}]"))?;
            set.counters.disks.push(device.counters());
            set.add(device);
        }
        for (index, (network, opened)) in spec.networks.iter().zip(opened.networks).enumerate() {
            let device = network::device(network, opened, &format!("networks[{index}]"))?;
            set.counters.networks.push(device.counters());
            set.add(device);
        }
        if let (Some(vsock), Some(sockets)) = (&spec.vsock, opened.vsock) {
            set.add(others::vsock(vsock, sockets, spec.ready.as_ref(), outlets)?);
        }
        if spec.rng {
            set.add(others::rng()?);
        }
        if let Some(balloon) = &spec.balloon {
            let device = others::balloon(balloon, spec.memory)?;
            set.counters.balloon = Some(device.handle());
            set.add(device);
        }
        Ok(set)
    }

    /// Puts the devices into `machine`, each at its slot.
    pub fn install(self, machine: &mut Machine, slots: &[Slot]) -> Counters {
        for (device, slot) in self.devices.iter().zip(slots) {
            let line = Box::new(GsiLine::new(Arc::clone(&machine.vm), slot.gsi));
            let memory = machine.vm.memory().clone();
            machine.mmio.add(MmioTransport::new(Arc::clone(device), memory, line));
        }
        machine.devices = self.devices;
        self.counters
    }

    fn add(&mut self, device: impl VirtioDevice + 'static) {
        self.devices.push(Arc::new(Shared::new(device)));
    }
}
