//! The few devices of a PC that guests expect at fixed ports, and what the ports that nobody owns answer.

mod identity;
mod persist;
mod power;
mod rtc;
mod serial;

use std::sync::Arc;

use sandbox_core::ConsoleLog;
use serde::{Deserialize, Serialize};

pub use persist::{LegacyState, SerialState};
pub use power::{ExitPort, PowerEvent};
pub use serial::{SERIAL_GSI, SerialPort};

use crate::devices::virtio::InterruptLine;
use crate::renewal::Parts;
use identity::IdentityPort;
use rtc::Rtc;

const COM1: u16 = 0x3f8;
const COM1_END: u16 = 0x3ff;
const I8042_DATA: u16 = 0x60;
const I8042_COMMAND: u16 = 0x64;
const RTC_INDEX: u16 = 0x70;
const RTC_DATA: u16 = 0x71;
/// System control port A of a PC/AT.
const SYSTEM_CONTROL: u16 = 0x92;
/// Bytes of boot progress; [`BOOT_PORT_READY`] says that the guest is ready to serve.
pub const BOOT_PORT: u16 = 0x3f0;
/// Written to [`BOOT_PORT`] by a guest that is ready.
pub const BOOT_PORT_READY: u8 = 123;
/// Where bare guests say that they use their identity record; see [`crate::renewal`].
pub const IDENTITY_PORT: u16 = 0x3f4;
/// ACPI sleep control register (ACPI 6.5 §4.8.3.7); a byte, though some guests write it as the older 16-bit register.
pub const SLEEP_CONTROL_PORT: u16 = 0x604;
/// ACPI sleep status register.
pub const SLEEP_STATUS_PORT: u16 = 0x605;

/// What writing a port did beyond the device behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEffect {
    /// Nothing.
    None,
    /// The guest says that it is ready.
    Ready,
    /// The guest says that it uses the identity of this generation.
    IdentityConfirmed(u32),
    /// The guest ends itself.
    End(PowerEvent),
}

/// What stands at a guest family's ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMap {
    /// Where the guest ends itself with an exit code.
    pub exit: Option<ExitPort>,
    /// Whether the keyboard controller's reset pulse is how the guest powers off.
    pub reset_is_power_off: bool,
}

/// The devices at fixed ports.
pub struct LegacyDevices {
    serial: SerialPort,
    rtc: Rtc,
    identity: IdentityPort,
    map: PortMap,
}

impl LegacyDevices {
    /// The devices, with the console's output going to `console`.
    pub fn new(console: Arc<ConsoleLog>, serial_line: Box<dyn InterruptLine>, map: PortMap) -> Self {
        Self {
            serial: SerialPort::new(console, serial_line),
            rtc: Rtc::default(),
            identity: IdentityPort::default(),
            map,
        }
    }

    /// The serial port.
    pub fn serial(&self) -> &SerialPort {
        &self.serial
    }

    /// The parts of its identity record that the guest says it uses.
    pub fn identity_parts(&self) -> Parts {
        self.identity.parts()
    }

    /// The guest executed `IN`. Each element of a string instruction reads the port anew.
    ///
    /// A port that nobody owns reads as all ones, as an empty bus does; PCI probing ends early on that.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        match port {
            COM1..=COM1_END => data.fill_with(|| self.serial.read(port - COM1)),
            RTC_DATA => data.fill_with(|| self.rtc.read()),
            // No keyboard, no mouse, nothing pending; some guests poll the status before they write the reset command.
            I8042_DATA | I8042_COMMAND | SLEEP_CONTROL_PORT | SLEEP_STATUS_PORT => data.fill(0),
            _ => data.fill(0xff),
        }
    }

    /// The guest executed `OUT`.
    pub fn write(&self, port: u16, data: &[u8]) -> PortEffect {
        match port {
            COM1..=COM1_END => {
                for byte in data {
                    self.serial.write(port - COM1, *byte);
                }
                PortEffect::None
            }
            RTC_INDEX => self.rtc.select(data),
            I8042_COMMAND => power::keyboard_controller(data, self.map.reset_is_power_off),
            SYSTEM_CONTROL => power::system_control(data),
            SLEEP_CONTROL_PORT => power::sleep_control(data),
            IDENTITY_PORT => self.identity.write(data),
            BOOT_PORT if data.first() == Some(&BOOT_PORT_READY) => PortEffect::Ready,
            _ => self.map.exit.map_or(PortEffect::None, |exit| exit.write(port, data)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::test_support::FakeLine;

    fn devices(map: PortMap) -> (LegacyDevices, Arc<ConsoleLog>) {
        let console = Arc::new(ConsoleLog::new(1 << 10));
        let line = Box::new(FakeLine::default());
        (LegacyDevices::new(Arc::clone(&console), line, map), console)
    }

    #[test]
    fn string_output_reaches_the_console_whole() {
        let (devices, console) = devices(PortMap::default());
        assert_eq!(devices.write(COM1, b"hello"), PortEffect::None);
        assert_eq!(console.read_from(0).bytes, b"hello");
    }

    #[test]
    fn unowned_ports_read_as_all_ones() {
        let (devices, _) = devices(PortMap::default());
        let mut data = [0; 4];
        devices.read(0xcfc, &mut data);
        assert_eq!(data, [0xff; 4]);
        assert_eq!(devices.write(0xcf8, &data), PortEffect::None);
    }

    #[test]
    fn every_way_to_end_is_told_apart() {
        let (devices, _) = devices(PortMap {
            exit: Some(ExitPort::Byte(0x501)),
            ..PortMap::default()
        });
        assert_eq!(devices.write(0x64, &[0xfe]), PortEffect::End(PowerEvent::Reset));
        assert_eq!(devices.write(0x604, &[0x34]), PortEffect::End(PowerEvent::PowerOff));
        assert_eq!(
            devices.write(0x604, &[0x00, 0x20]),
            PortEffect::End(PowerEvent::PowerOff)
        );
        assert_eq!(devices.write(0x501, &[42]), PortEffect::End(PowerEvent::ExitCode(42)));
        assert_eq!(devices.write(0x3f0, &[123]), PortEffect::Ready);
        assert_eq!(devices.write(0x64, &[0xd1]), PortEffect::None);
        assert_eq!(devices.write(0x604, &[0x00]), PortEffect::None);
    }

    #[test]
    fn no_debug_exit_unless_the_family_has_one() {
        let (devices, _) = devices(PortMap::default());
        assert_eq!(devices.write(0x501, &[0]), PortEffect::None);
        assert_eq!(devices.write(0xf4, &[1, 0, 0, 0]), PortEffect::None);
    }

    #[test]
    fn a_debug_exit_device_tells_success_from_failure() {
        let (devices, _) = devices(PortMap {
            exit: Some(ExitPort::DebugExit { port: 0xf4, success: 1 }),
            ..PortMap::default()
        });
        for (written, code) in [
            ([1, 0, 0, 0], 0),
            ([0; 4], 1),
            ([2, 0, 0, 0], 5),
            ([0xff, 0, 0, 0], 0xff),
        ] {
            let expected = PortEffect::End(PowerEvent::ExitCode(code));
            assert_eq!(devices.write(0xf4, &written), expected, "{written:?}");
        }
    }

    #[test]
    fn where_a_reset_pulse_is_power_off_the_system_control_port_still_resets() {
        let (devices, _) = devices(PortMap {
            reset_is_power_off: true,
            ..PortMap::default()
        });
        assert_eq!(devices.write(0x64, &[0xfe]), PortEffect::End(PowerEvent::PowerOff));
        assert_eq!(devices.write(0x92, &[1]), PortEffect::End(PowerEvent::Reset));
        assert_eq!(devices.write(0x92, &[2]), PortEffect::None);
    }
}
