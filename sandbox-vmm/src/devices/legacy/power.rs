//! The ports by which a guest ends itself.

use super::PortEffect;

/// i8042 command: pulse the processor's reset line.
const PULSE_RESET: u8 = 0xfe;
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

pub(super) fn keyboard_controller(data: &[u8]) -> PortEffect {
    match data.contains(&PULSE_RESET) {
        true => PortEffect::End(PowerEvent::Reset),
        false => PortEffect::None,
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

pub(super) fn debug_exit(data: &[u8]) -> PortEffect {
    match data.first() {
        Some(code) => PortEffect::End(PowerEvent::ExitCode(*code)),
        None => PortEffect::None,
    }
}
