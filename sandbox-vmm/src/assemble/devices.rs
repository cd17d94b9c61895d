//! The virtio devices of a spec: opened first, put into the machine later.

use std::sync::{Arc, Mutex};

use sandbox_core::spec::SandboxSpec;
use sandbox_core::{Error, Result};

use super::{disk, network, others};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::transport::MmioTransport;
use crate::machine::vm::GsiLine;
use crate::machine::{Machine, SharedDevice};
use crate::memory::layout::{MMIO_START, MMIO_WINDOW_SIZE};
use crate::sandbox::{Counters, ReadySignal};

/// Interrupts for virtio devices, one each: the first ones below 16, since some guests have nothing but the PIC; left
/// out are those that a PC gives to something else (4 serial port, 8 clock, 13 floating point) and the last one, which
/// the generic event device has.
const GSIS: [u32; 16] = [5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22];

/// The interrupt of the generic event device.
pub const EVENT_GSI: u32 = 23;

/// Where a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Guest-physical address of its registers.
    pub window: u64,
    /// Its interrupt.
    pub gsi: u32,
}

/// Devices with their host resources, in the order in which the guest finds them.
pub struct DeviceSet {
    devices: Vec<SharedDevice>,
    slots: Vec<Slot>,
    counters: Counters,
}

impl DeviceSet {
    /// Opens every host resource that the spec's devices need. Taps that it creates vanish when they are dropped.
    pub fn open(spec: &SandboxSpec, ready: &ReadySignal) -> Result<Self> {
        let mut set = Self {
            devices: Vec::new(),
            slots: Vec::new(),
            counters: Counters::default(),
        };
        for (index, disk) in spec.disks.iter().enumerate() {
            let device = disk::open(disk, &format!("disks[{index}]"))?;
            set.counters.disks.push(device.counters());
            set.add(device, "disks")?;
        }
        for (index, network) in spec.networks.iter().enumerate() {
            let device = network::open(network, &format!("networks[{index}]"))?;
            set.counters.networks.push(device.counters());
            set.add(device, "networks")?;
        }
        if let Some(vsock) = &spec.vsock {
            set.add(others::vsock(vsock, spec.ready.as_ref(), ready)?, "vsock")?;
        }
        if spec.rng {
            set.add(others::rng()?, "rng")?;
        }
        if let Some(balloon) = &spec.balloon {
            let device = others::balloon(balloon, spec.memory)?;
            set.counters.balloon = Some(device.handle());
            set.add(device, "balloon")?;
        }
        Ok(set)
    }

    /// Where the devices will stand.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Puts the devices into `machine`.
    pub fn install(self, machine: &mut Machine) -> Counters {
        for (device, slot) in self.devices.iter().zip(&self.slots) {
            let line = Box::new(GsiLine::new(Arc::clone(&machine.vm), slot.gsi));
            let memory = machine.vm.memory().clone();
            machine.mmio.add(MmioTransport::new(Arc::clone(device), memory, line));
        }
        machine.devices = self.devices;
        self.counters
    }

    fn add(&mut self, device: impl VirtioDevice + 'static, field: &'static str) -> Result<()> {
        let number = self.devices.len();
        let Some(gsi) = GSIS.get(number) else {
            let context = format!("the machine has room for {} devices in all", GSIS.len());
            return Err(Error::unsupported(field, context));
        };
        self.slots.push(Slot {
            window: MMIO_START + number as u64 * MMIO_WINDOW_SIZE,
            gsi: *gsi,
        });
        self.devices.push(Arc::new(Mutex::new(device)));
        Ok(())
    }
}
