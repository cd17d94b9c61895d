//! A device's window in a snapshot.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::mmio::{MmioTransport, StartError, offered};
use super::registers::Registers;
use crate::devices::virtio::persist::Impossible;
use crate::devices::virtio::{
    DeviceState, Held, InterruptState, QueuePosition, RestoreError, SavedDevice, VirtioDevice,
};

/// Everything about one device that its driver knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// What the driver wrote.
    pub registers: Registers,
    /// What it was told.
    pub interrupt: InterruptState,
    /// Where an active device stands in its queues, one position for each; `None` if it is not active.
    pub session: Option<Vec<QueuePosition>>,
    /// What the device knows beyond that.
    pub device: DeviceState,
}

/// A device that does nothing while this lives: neither a kick nor an event of the host reaches it, and it does not
/// touch guest memory.
pub struct Frozen<'a> {
    transport: &'a MmioTransport,
    // Taken in this order, as everywhere.
    registers: MutexGuard<'a, Registers>,
    device: Held<'a, dyn VirtioDevice + 'static>,
}

impl Frozen<'_> {
    /// What there is to be saved. Puts back into the queues what the device had taken ahead.
    pub fn save(&mut self) -> TransportState {
        let SavedDevice { positions, state } = self.device.save();
        let active = self.transport.active.load(Ordering::Relaxed);
        TransportState {
            registers: self.registers.clone(),
            interrupt: self.transport.interrupt.state(),
            session: active.then_some(positions),
            device: state,
        }
    }
}

impl MmioTransport {
    /// Holds the device. To be called with the vCPUs held, which would otherwise wait for its end.
    pub fn freeze(&self) -> Frozen<'_> {
        Frozen {
            transport: self,
            registers: self.registers(),
            device: self.device.lock(),
        }
    }

    /// Puts a device that was just made where a saved one was. It serves nothing before [`MmioTransport::wake`].
    ///
    /// # Errors
    /// A state that cannot be, or that this device does not fit. The window is then of no use.
    pub fn restore(&self, state: &TransportState) -> Result<(), RestoreError> {
        if state.device.kind() != self.kind {
            return Err(RestoreError::WrongDevice {
                saved: state.device.kind(),
                found: self.kind,
            });
        }
        let mut registers = self.registers();
        let mut device = self.device.lock();
        device.restore(&state.device)?;
        let fresh = Registers::new(offered(&*device), device.queue_sizes());
        *registers = fresh.restored(&state.registers)?;
        self.interrupt.restore(&state.interrupt);
        // A broken device does nothing before its reset.
        let Some(positions) = state.session.as_ref().filter(|_| !state.interrupt.needs_reset) else {
            return Ok(());
        };
        if !registers.is_driver_ok() {
            return Err(RestoreError::Impossible(Impossible::DriverStatus));
        }
        if positions.len() != registers.queues.len() {
            return Err(RestoreError::Impossible(Impossible::Queues));
        }
        self.activate(&mut *device, &registers, positions)
            .map_err(|error| match error {
                StartError::QueueLayout(_) => RestoreError::Impossible(Impossible::QueueLayout),
                StartError::QueueAddress(_) => RestoreError::Impossible(Impossible::QueueAddress),
                StartError::Device(error) => RestoreError::Activate(error),
            })
    }

    /// Serves whatever waits, and interrupts the driver whether it waits for that or not. To be called once for a
    /// restored device, when the machine's interrupt controllers are restored and before its vCPUs run.
    pub fn wake(&self) {
        let mut device = self.device.lock();
        match self.active.load(Ordering::Relaxed) {
            true => {
                device.wake();
                self.interrupt.signal_used();
            }
            false => self.interrupt.signal_again(),
        }
    }
}
