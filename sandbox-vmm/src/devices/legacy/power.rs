//! The ports by which a guest ends itself.

use serde::{Deserialize, Serialize};

use super::PortEffect;

/// i8042 command: pulse the processor's reset line.
const PULSE_RESET: u8 = 0xfe;
/// System control port A, bit 0: reset at once.
const FAST_RESET: u8 = 1 << 0;
/// SLP_EN of the hardware-reduced sleep control register, bit 5 of a byte.
const SLEEP_ENABLE: u8 = 1 << 5;
/// SLP_EN of the older PM1 control register, bit 13 of a word.
const SLEEP_ENABLE_WORD: u16 = 1 << 13;

/// How a guest ended itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// By ACPI: the only sleep state there is, is off.
    PowerOff,
    /// By the keyboard controller.
    Reset,
    /// By a debug-exit port, with this code.
    ExitCode(u8),
}

/// A port by which a family of guests ends itself with an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitPort {
    /// The first byte written to this port is the code.
    Byte(u16),
    /// QEMU's debug-exit device: what is written is doubled and made odd, so that it is never 0; the guest has one value
    /// that means success all the same.
    DebugExit {
        /// Its port.
        port: u16,
        /// The value that means success.
        success: u32,
    },
}

impl ExitPort {
    /// The guest wrote `data` to `port`.
    pub(super) fn write(self, port: u16, data: &[u8]) -> PortEffect {
        let code = match self {
            Self::Byte(own) if own == port => data.first().copied(),
            Self::DebugExit { port: own, success } if own == port => Some(debug_exit_code(data, success)),
            _ => None,
        };
        code.map_or(PortEffect::None, |code| PortEffect::End(PowerEvent::ExitCode(code)))
    }
}

/// The exit status that QEMU would end with, of which a parent sees eight bits.
fn debug_exit_code(data: &[u8], success: u32) -> u8 {
    let value = data
        .iter()
        .take(4)
        .rev()
        .fold(0, |value, byte| value << 8 | u32::from(*byte));
    match value == success {
        true => 0,
        false => (value << 1 | 1) as u8,
    }
}

pub(super) fn keyboard_controller(data: &[u8], is_power_off: bool) -> PortEffect {
    match (data.contains(&PULSE_RESET), is_power_off) {
        (true, true) => PortEffect::End(PowerEvent::PowerOff),
        (true, false) => PortEffect::End(PowerEvent::Reset),
        (false, _) => PortEffect::None,
    }
}

pub(super) fn system_control(data: &[u8]) -> PortEffect {
    match data.first() {
        Some(value) if value & FAST_RESET != 0 => PortEffect::End(PowerEvent::Reset),
        _ => PortEffect::None,
    }
}

pub(super) fn sleep_control(data: &[u8]) -> PortEffect {
    let enabled = match *data {
        [byte] => byte & SLEEP_ENABLE != 0,
        [low, high, ..] => u16::from_le_bytes([low, high]) & SLEEP_ENABLE_WORD != 0,
        [] => false,
    };
    match enabled {
        true => PortEffect::End(PowerEvent::PowerOff),
        false => PortEffect::None,
    }
}
