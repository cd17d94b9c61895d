//! The record that a guest finds its new identity in, as it lies in guest memory.
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 4 | `SBID` |
//! | 4 | 4 | version, 1 |
//! | 8 | 4 | generation: 0 in an original, else 1 to 2³¹ − 1 |
//! | 12 | 4 | which parts are given ([`Parts`]) |
//! | 16 | 32 | random bits |
//! | 48 | 16 | an identifier that no other clone has |
//! | 64 | 8 | nanoseconds since 1970-01-01 UTC, when the record was written |
//! | 72 | 6 | MAC address of the first network card |
//! | 78 | 1 | prefix length of its IPv4 address |
//! | 79 | 1 | 0 |
//! | 80 | 4 | its IPv4 address, in the order in which it is sent |
//! | 84 | 4 | gateway, likewise; 0.0.0.0 if there is none |
//!
//! Integers are little-endian.

use std::io;
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::random::random_bytes;

/// Size of the record, in bytes.
pub const RECORD_SIZE: usize = 88;
/// Set in what a guest names the parts with that it uses, clear in the generation that it confirms.
pub const SUBSCRIPTION: u32 = 1 << 31;
const MAGIC: [u8; 4] = *b"SBID";
const VERSION: u32 = 1;

/// Parts of a record, as a set of bits: those that are given, or those that a guest uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts(pub u32);

impl Parts {
    /// Random bits.
    pub const ENTROPY: Self = Self(1);
    /// The identifier.
    pub const ID: Self = Self(2);
    /// The time.
    pub const CLOCK: Self = Self(4);
    /// The MAC address.
    pub const LINK_ADDRESS: Self = Self(8);
    /// The IPv4 address.
    pub const ADDRESS: Self = Self(16);

    /// Those in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` are in it.
    pub fn contain(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What one clone is given of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewIdentity {
    /// Tells this record from earlier ones; not 0, and below 2^31.
    pub(super) generation: u32,
    /// Random bits.
    pub(super) entropy: [u8; 32],
    /// The identifier.
    pub(super) id: [u8; 16],
    /// MAC address of the first network card, if it is another than the original's.
    pub mac: Option<[u8; 6]>,
    /// Its IPv4 address with prefix length, if it is another than the original's.
    pub address: Option<(Ipv4Addr, u8)>,
    /// The gateway that goes with the address.
    pub gateway: Option<Ipv4Addr>,
}

impl NewIdentity {
    /// Random bits, an identifier and a generation of the host's choice, and the original's addresses.
    ///
    /// # Errors
    /// The host gives no random numbers.
    pub fn draw() -> io::Result<Self> {
        let generation = u32::from_ne_bytes(random_bytes()?) & (u32::MAX >> 1);
        Ok(Self {
            generation: generation.max(1),
            entropy: random_bytes()?,
            id: random_bytes()?,
            mac: None,
            address: None,
            gateway: None,
        })
    }

    /// What tells this identity from others, so that its confirmation can be told from that of an older one.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The parts that are given.
    pub(super) fn parts(&self) -> Parts {
        let mut parts = Parts::ENTROPY.0 | Parts::ID.0 | Parts::CLOCK.0;
        if self.mac.is_some() {
            parts |= Parts::LINK_ADDRESS.0;
        }
        if self.address.is_some() {
            parts |= Parts::ADDRESS.0;
        }
        Parts(parts)
    }

    /// The record at this moment.
    pub(super) fn record(&self, now: SystemTime) -> [u8; RECORD_SIZE] {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Nanoseconds fit until the year 2554.
        let clock = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
        let (address, prefix) = self.address.unwrap_or((Ipv4Addr::UNSPECIFIED, 0));
        let gateway = self.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let mut record = [0; RECORD_SIZE];
        let mut put = |offset: usize, bytes: &[u8]| record[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &VERSION.to_le_bytes());
        put(8, &self.generation.to_le_bytes());
        put(12, &self.parts().0.to_le_bytes());
        put(16, &self.entropy);
        put(48, &self.id);
        put(64, &clock.to_le_bytes());
        put(72, &self.mac.unwrap_or_default());
        put(78, &[prefix]);
        put(80, &address.octets());
        put(84, &gateway.octets());
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_record_has_the_documented_layout() {
        let identity = NewIdentity {
            generation: 0x0102_0304,
            entropy: [7; 32],
            id: [8; 16],
            mac: Some([2, 0, 0, 0, 0, 9]),
            address: Some((Ipv4Addr::new(10, 0, 0, 2), 30)),
            gateway: Some(Ipv4Addr::new(10, 0, 0, 1)),
        };
        let record = identity.record(UNIX_EPOCH + Duration::from_nanos(0x1122));
        assert_eq!(record[..16], *b"SBID\x01\0\0\0\x04\x03\x02\x01\x1f\0\0\0");
        assert_eq!((&record[16..48], &record[48..64]), (&[7; 32][..], &[8; 16][..]));
        assert_eq!(record[64..72], [0x22, 0x11, 0, 0, 0, 0, 0, 0]);
        assert_eq!(record[72..], [2, 0, 0, 0, 0, 9, 30, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    }

    #[test]
    fn no_two_identities_are_alike() {
        let (one, other) = (NewIdentity::draw().unwrap(), NewIdentity::draw().unwrap());
        assert_ne!((one.entropy, one.id), (other.entropy, other.id));
        assert!((1..1 << 31).contains(&one.generation));
        assert!(!one.parts().contain(Parts::ADDRESS));
    }
}
