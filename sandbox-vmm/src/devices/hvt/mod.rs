//! The hypercalls of Solo5's hvt interface, version 2: all that such a guest reaches of the host. There is no interrupt
//! controller, no timer and no device.
//!
//! A hypercall is a 32-bit write of a guest-physical address to port 0x500 + n; at the address stands the call's
//! argument, a structure of little-endian fields with 64-bit alignment, into which the results go:
//!
//! | n | call | argument: offset of each field; ← is a result |
//! |---|---|---|
//! | 1 | `WALLTIME` | ← 0 nanoseconds since 1970 |
//! | 2 | `PUTS` | 0 data, 8 length |
//! | 3 | `POLL` | 0 timeout in nanoseconds, ← 8 set of readable cards, ← 16 result |
//! | 4 | `BLOCK_WRITE` | 0 handle, 8 offset, 16 data, 24 length, ← 32 result |
//! | 5 | `BLOCK_READ` | 0 handle, 8 offset, 16 data, 24 length (← length read), ← 32 result |
//! | 6 | `NET_WRITE` | 0 handle, 8 data, 16 length, ← 24 result |
//! | 7 | `NET_READ` | 0 handle, 8 data, 16 length (← length read), ← 24 result |
//! | 8 | `HALT` | 0 cookie, 8 exit status |
//!
//! A handle is the number of a device in the guest's manifest. Results are 0 for done, 1 for come again, 2 for an
//! argument that cannot be, 3 for anything else. An argument, or data, outside of the guest's memory ends the guest: no
//! program does that by mistake of its user.

mod argument;
mod block;
mod net;
mod poll;
#[cfg(test)]
mod tests;

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sandbox_core::ConsoleLog;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestMemory;
use argument::Argument;
pub use block::{BLOCK_SIZE, HvtDisk};
pub use net::HvtCard;
use poll::Pending;
pub use poll::{Patience, Waited};

/// Port of hypercall 0, which there is none of.
const PORT_BASE: u16 = 0x500;
const WALLTIME: u16 = 1;
const PUTS: u16 = 2;
const POLL: u16 = 3;
const BLOCK_WRITE: u16 = 4;
const BLOCK_READ: u16 = 5;
const NET_WRITE: u16 = 6;
const NET_READ: u16 = 7;
const HALT: u16 = 8;

/// Most bytes that one call prints. A guest could otherwise name its whole memory, and keep its thread copying for
/// seconds in which nobody can stop it.
const PUTS_MAX: u64 = 1 << 20;

/// The result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Outcome {
    Done = 0,
    Again = 1,
    Invalid = 2,
    Unspecified = 3,
}

/// What the guest's processor does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    Enter,
    /// It was kicked while it waited, and looks at its orders; the call is not over, and
    /// [`Hypercalls::resume`] goes on with it.
    Kicked,
    /// The guest ended itself with this status.
    Halt(i32),
    /// The guest did what no guest may do.
    Fault(String),
}

/// A device of the manifest.
pub enum Device {
    /// A block device.
    Block(HvtDisk),
    /// A network card.
    Net(HvtCard),
}

/// What serves one guest's hypercalls.
pub struct Hypercalls {
    memory: GuestMemory,
    console: Arc<ConsoleLog>,
    /// By handle.
    devices: Vec<Option<Device>>,
    pending: Mutex<Option<Pending>>,
}

/// An argument or data that does not lie in the guest's memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outside;

impl Hypercalls {
    /// For the guest of `memory`; `devices` have their handles as places.
    pub fn new(memory: GuestMemory, console: Arc<ConsoleLog>, devices: Vec<Option<Device>>) -> Self {
        Self {
            memory,
            console,
            devices,
            pending: Mutex::new(None),
        }
    }

    /// Serves a write of `data` to `port`.
    pub fn call(&self, port: u16, data: &[u8], patience: &dyn Patience) -> Next {
        let number = port.wrapping_sub(PORT_BASE);
        let (true, Ok(address)) = ((WALLTIME..=HALT).contains(&number), <[u8; 4]>::try_from(data)) else {
            return Next::Fault(format!(
                "wrote {} bytes to port {port:#x}, which is no hypercall",
                data.len()
            ));
        };
        let argument = Argument::new(&self.memory, u32::from_le_bytes(address));
        let served = match number {
            WALLTIME => argument.write(0, since_1970()).map(|()| Next::Enter),
            PUTS => self.puts(&argument),
            POLL => return self.poll(argument, patience),
            BLOCK_WRITE | BLOCK_READ => self.block(number == BLOCK_WRITE, &argument),
            NET_WRITE => self.net_write(&argument),
            NET_READ => self.net_read(&argument),
            _ => argument.read_status(8).map(Next::Halt),
        };
        served.unwrap_or_else(|Outside| {
            Next::Fault(format!(
                "hypercall {number} with an argument or data outside of its memory"
            ))
        })
    }

    /// Goes on with the call that a kick interrupted, if there is one.
    pub fn resume(&self, patience: &dyn Patience) -> Option<Next> {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(self.wait(pending, patience))
    }

    fn puts(&self, argument: &Argument<'_>) -> Result<Next, Outside> {
        let (address, length) = (argument.read(0)?, argument.read(8)?);
        if length > PUTS_MAX {
            return Ok(Next::Fault(format!(
                "printed {length} bytes in one hypercall; {PUTS_MAX} are taken"
            )));
        }
        argument.data(address, length)?;
        let mut text = vec![0; length as usize];
        self.memory
            .read_slice(&mut text, GuestAddress(address))
            .map_err(|_| Outside)?;
        self.console.append(&text);
        Ok(Next::Enter)
    }

    fn block(&self, write: bool, argument: &Argument<'_>) -> Result<Next, Outside> {
        let (handle, offset) = (argument.read(0)?, argument.read(8)?);
        let (address, length) = (argument.read(16)?, argument.read(24)?);
        let outcome = match self.device(handle) {
            Some(Device::Block(disk)) => disk.transfer(write, offset, argument.data(address, length)?),
            _ => Outcome::Invalid,
        };
        argument.write_outcome(32, outcome)?;
        Ok(Next::Enter)
    }

    fn net_write(&self, argument: &Argument<'_>) -> Result<Next, Outside> {
        let (handle, address, length) = (argument.read(0)?, argument.read(8)?, argument.read(16)?);
        let outcome = match self.device(handle) {
            Some(Device::Net(card)) => {
                argument.data(address, length)?;
                card.send(&self.memory, address, length)
            }
            _ => Outcome::Invalid,
        };
        argument.write_outcome(24, outcome)?;
        Ok(Next::Enter)
    }

    fn net_read(&self, argument: &Argument<'_>) -> Result<Next, Outside> {
        let (handle, address, length) = (argument.read(0)?, argument.read(8)?, argument.read(16)?);
        let outcome = match self.device(handle) {
            Some(Device::Net(card)) => {
                argument.data(address, length)?;
                card.receive(&self.memory, address, length)
            }
            _ => Err(Outcome::Invalid),
        };
        if let Ok(received) = outcome {
            argument.write(16, received)?;
        }
        argument.write_outcome(24, outcome.err().unwrap_or(Outcome::Done))?;
        Ok(Next::Enter)
    }

    fn poll(&self, argument: Argument<'_>, patience: &dyn Patience) -> Next {
        match argument.read(0) {
            Ok(timeout) => self.wait(Pending::new(argument.address(), timeout), patience),
            Err(Outside) => Next::Fault("hypercall 3 with an argument outside of its memory".to_owned()),
        }
    }

    fn wait(&self, pending: Pending, patience: &dyn Patience) -> Next {
        let cards = self
            .devices
            .iter()
            .enumerate()
            .filter_map(|(handle, device)| match device {
                Some(Device::Net(card)) => Some((handle, card.as_fd())),
                _ => None,
            });
        let cards: Vec<_> = cards.collect();
        match pending.wait(&cards, patience) {
            Ok(Some(readable)) => pending.finish(&self.memory, readable),
            Ok(None) => {
                *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(pending);
                Next::Kicked
            }
            Err(error) => Next::Fault(format!("waited, and the host's poll failed ({error})")),
        }
    }

    fn device(&self, handle: u64) -> Option<&Device> {
        self.devices.get(usize::try_from(handle).ok()?)?.as_ref()
    }
}

fn since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    // Enough until the year 2554.
    since.as_nanos() as u64
}
