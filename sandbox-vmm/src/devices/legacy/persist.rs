//! What of the devices at fixed ports goes into a snapshot. Power and reset ports remember nothing.

use serde::{Deserialize, Serialize};

use super::LegacyDevices;
use crate::devices::virtio::persist::RestoreError;
use crate::renewal::Parts;

/// The devices at fixed ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyState {
    /// COM1.
    pub serial: SerialState,
    /// The clock's index register; the time itself is the host's.
    pub rtc_index: u8,
    /// The parts of its identity record that the guest uses.
    pub identity_parts: u32,
}

/// A 16550A, by the names of its registers, with its receive buffer and the input that waits before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    /// Divisor latch, low byte first.
    pub divisor: [u8; 2],
    /// IER.
    pub interrupt_enable: u8,
    /// IIR.
    pub interrupt_identification: u8,
    /// LCR.
    pub line_control: u8,
    /// LSR.
    pub line_status: u8,
    /// MCR.
    pub modem_control: u8,
    /// MSR.
    pub modem_status: u8,
    /// SCR.
    pub scratch: u8,
    /// The receive FIFO.
    pub received: Vec<u8>,
    /// Input that has no room in it yet.
    pub pending: Vec<u8>,
}

impl LegacyDevices {
    /// What there is to be saved.
    pub fn save(&self) -> LegacyState {
        LegacyState {
            serial: self.serial.save(),
            rtc_index: self.rtc.index(),
            identity_parts: self.identity.parts().0,
        }
    }

    /// Takes over what was saved.
    ///
    /// # Errors
    /// More buffered input than there is room for.
    pub fn restore(&self, state: &LegacyState) -> Result<(), RestoreError> {
        self.rtc.select(&[state.rtc_index]);
        self.identity.subscribe(Parts(state.identity_parts));
        self.serial.restore(&state.serial)
    }

    /// Interrupts a restored guest for whatever it may wait for.
    pub fn wake(&self) {
        self.serial.wake();
    }
}
