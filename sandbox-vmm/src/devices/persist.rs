//! All of a machine's devices, out of a machine that is held and into one that was just made.
//!
//! ```text
//! vCPUs held    Frozen::new ── save ── memory is copied or frozen ── drop
//! new machine   restore ── vCPUs, interrupt controllers, clock ── wake ── vCPUs run
//! ```
//!
//! While a [`Frozen`] lives, no device touches guest memory, whatever happens at its sockets and timers: what is copied
//! meanwhile fits what was saved.

use serde::{Deserialize, Serialize};

use super::legacy::LegacyState;
use super::virtio::RestoreError;
use super::virtio::transport::{Frozen as FrozenDevice, TransportState};
use crate::machine::Machine;

/// Version of [`DevicesState`] and everything in it; another one cannot be read.
pub const DEVICES_VERSION: u32 = 1;

/// The state of all devices. What the host has to supply again is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicesState {
    /// Devices at fixed ports.
    pub legacy: LegacyState,
    /// virtio devices, in the order of their windows.
    pub virtio: Vec<TransportState>,
}

/// A machine whose devices do nothing while this lives. The vCPUs must be held.
pub struct Frozen<'a> {
    machine: &'a Machine,
    devices: Vec<FrozenDevice<'a>>,
}

impl<'a> Frozen<'a> {
    /// Holds the devices of `machine`.
    pub fn new(machine: &'a Machine) -> Self {
        let transports = machine.mmio.transports();
        Self {
            machine,
            devices: transports.iter().map(|transport| transport.freeze()).collect(),
        }
    }

    /// What there is to be saved. Puts back into the queues what devices had taken ahead, and so may write guest memory.
    pub fn save(&mut self) -> DevicesState {
        DevicesState {
            legacy: self.machine.ports.save(),
            virtio: self.devices.iter_mut().map(FrozenDevice::save).collect(),
        }
    }
}

/// Why a machine's devices cannot take the place of the saved ones.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be restored", place(*.device))]
pub struct DevicesError {
    /// The virtio device that it is about, counted from 0 in the order of the windows; `None` if it is about none.
    pub device: Option<usize>,
    /// What is wrong with it.
    pub source: RestoreError,
}

fn place(device: Option<usize>) -> String {
    device.map_or_else(|| "the devices".to_owned(), |number| format!("virtio device {number}"))
}

/// Puts the devices of a machine that was just made where saved ones were; its memory must be the saved one's already.
///
/// # Errors
/// A state that cannot be, or that these devices do not fit. The machine is of no use then.
pub fn restore(machine: &Machine, state: &DevicesState) -> Result<(), DevicesError> {
    let transports = machine.mmio.transports();
    let at = |device| move |source| DevicesError { device, source };
    let (saved, found) = (state.virtio.len(), transports.len());
    if saved != found {
        return Err(at(None)(RestoreError::DeviceCount { saved, found }));
    }
    machine.ports.restore(&state.legacy).map_err(at(None))?;
    for (number, (transport, state)) in transports.iter().zip(&state.virtio).enumerate() {
        transport.restore(state).map_err(at(Some(number)))?;
    }
    Ok(())
}

/// Has every device of a restored machine serve whatever waits, and interrupt its driver.
///
/// To be called once, when the interrupt controllers are restored and before a vCPU runs.
pub fn wake(machine: &Machine) {
    machine.ports.wake();
    machine.mmio.transports().iter().for_each(|transport| transport.wake());
}
