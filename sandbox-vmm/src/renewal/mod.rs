//! What makes a clone another one than its siblings, and how its guest is told.
//!
//! A guest that is resumed twice repeats its random numbers, its identifiers and its addresses, and its clock stands
//! where it stood. The host can draw new ones; whether they come into effect is up to the guest, and depends on its
//! family ([`Channel`], which its dialect chooses):
//!
//! | channel | guests | what happens |
//! |---|---|---|
//! | generation identifier | Linux from 5.18 on, with `CONFIG_VMGENID` | 16 bytes in memory change, and the Generic Event Device says so (ACPI 6.5 §5.6.9); the kernel re-seeds its generator from them. It confirms nothing. |
//! | record | bare programs | [`record`] in memory changes, and every device's interrupt is raised. A guest that uses it has said so beforehand by a write to a port, and confirms by another one. |
//! | socket | any guest in which a program looks after it, such as `examples/guests/linux/identity-agent.c` | the program holds a connection to a port of the host that the socket device itself answers at. In a clone that is gone, and when it connects anew it is sent the record, and confirms. Goes before the others. |
//! | none | all others | nothing: the clone repeats the original |
//!
//! Both are written before any vCPU of the clone runs, so that no instruction of it sees the old ones, but for what the
//! guest has in its registers.

pub mod record;

use std::time::SystemTime;

use sandbox_core::snapshot::{Given, Uniqueness};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::acpi::GENERATION_ID_START;
use crate::devices::legacy::IDENTITY_PORT;
use crate::devices::virtio::InterruptLine;
use crate::machine::Machine;
use record::RECORD_SIZE;
pub use record::{NewIdentity, Parts};

/// Where the record lies: in the BIOS area, which no memory map lists as RAM. Guests with a generation identifier have
/// that in its place.
const RECORD_START: u64 = GENERATION_ID_START;

/// How a family's guests learn that they are clones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Channel {
    /// Not at all.
    None,
    /// By ACPI's generation identifier, and an event.
    GenerationId,
    /// By a record in memory, which they confirm at a port.
    Record,
}

impl Channel {
    /// What goes to the command line so that the guest finds it.
    pub fn token(self) -> Option<String> {
        (self == Self::Record).then(|| format!("identity={RECORD_START:#x}@{IDENTITY_PORT:#x}"))
    }
}

/// Why a clone could not be told.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The guest's memory ends before the place.
    #[error("cannot write the clone's identity to guest memory")]
    Memory(#[from] GuestMemoryError),
    /// The event could not be raised.
    #[error("cannot tell the guest of its identity")]
    Interrupt(#[source] std::io::Error),
}

/// Nothing of its own.
pub const NOTHING_GIVEN: Uniqueness = Uniqueness {
    entropy: Given::NotGiven,
    ids: Given::NotGiven,
    clock: Given::NotGiven,
    address: Given::NotGiven,
};

/// Gives the guest of a machine that was just restored its identity by `channel`. `event` is the interrupt of the Generic
/// Event Device. To be called when memory, devices and interrupt controllers are restored, and before the devices are
/// woken.
///
/// Returns what the guest was told. What the host itself sees to, such as a paravirtual clock, is not in it.
pub fn give(
    machine: &Machine,
    channel: Channel,
    identity: &NewIdentity,
    event: &dyn InterruptLine,
) -> Result<Uniqueness, RenewalError> {
    let memory = machine.vm.memory();
    let record = identity.record(SystemTime::now());
    if let Some(used) = tell_program(machine, &record) {
        if channel == Channel::GenerationId {
            change_generation(machine, identity, event)?;
        }
        return Ok(told(identity.parts().and(used)));
    }
    match channel {
        Channel::None => Ok(NOTHING_GIVEN),
        Channel::GenerationId => {
            change_generation(machine, identity, event)?;
            // Whether this kernel has the driver is not known; those that have re-seed, and hand the identifier on.
            Ok(Uniqueness {
                entropy: Given::Notified,
                ids: Given::Notified,
                ..NOTHING_GIVEN
            })
        }
        Channel::Record => {
            let used = machine.ports.identity_parts();
            if used != Parts::default() {
                memory.write_slice(&record, GuestAddress(RECORD_START))?;
            }
            Ok(told(identity.parts().and(used)))
        }
    }
}

/// Has the program in the guest told, if there is one that some device reaches; returns the parts that it uses.
fn tell_program(machine: &Machine, record: &[u8; RECORD_SIZE]) -> Option<Parts> {
    machine.devices.iter().find_map(|device| {
        let mut device = device.lock();
        device.tell_identity(record)
    })
}

fn change_generation(machine: &Machine, identity: &NewIdentity, event: &dyn InterruptLine) -> Result<(), RenewalError> {
    let memory = machine.vm.memory();
    memory.write_slice(&identity.id, GuestAddress(GENERATION_ID_START))?;
    event.pulse().map_err(RenewalError::Interrupt)
}

/// What it means that a guest uses `parts`.
fn told(parts: Parts) -> Uniqueness {
    let told = |part| match parts.contain(part) {
        true => Given::Notified,
        false => Given::NotGiven,
    };
    Uniqueness {
        entropy: told(Parts::ENTROPY),
        ids: told(Parts::ID),
        clock: told(Parts::CLOCK),
        address: told(Parts::ADDRESS),
    }
}

/// What `told` has become once the guest has confirmed it.
pub fn confirmed(told: Uniqueness) -> Uniqueness {
    let confirm = |given| match given {
        Given::Notified => Given::GuestConfirmed,
        other => other,
    };
    Uniqueness {
        entropy: confirm(told.entropy),
        ids: confirm(told.ids),
        clock: confirm(told.clock),
        address: confirm(told.address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_and_used_counts_as_told() {
        let used = Parts(Parts::ENTROPY.0 | Parts::ADDRESS.0);
        let given = NewIdentity::draw().unwrap().parts();
        let expected = Uniqueness {
            entropy: Given::Notified,
            ..NOTHING_GIVEN
        };
        assert_eq!(told(given.and(used)), expected);
        assert_eq!(confirmed(expected).entropy, Given::GuestConfirmed);
        assert_eq!(confirmed(expected).address, Given::NotGiven);
    }

    #[test]
    fn only_guests_of_a_record_are_told_where_it_is() {
        assert_eq!(Channel::Record.token().as_deref(), Some("identity=0xff000@0x3f4"));
        assert_eq!(Channel::GenerationId.token(), None);
    }
}
