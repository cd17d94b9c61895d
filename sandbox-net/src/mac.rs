//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use crate::NetError;

/// First octet, bit 0: the address names a group (IEEE 802-2014 §8.2.2).
const GROUP_BIT: u8 = 0x01;
/// First octet, bit 1: the address is locally administered (IEEE 802-2014 §8.2.2).
const LOCAL_BIT: u8 = 0x02;

/// A 48-bit Ethernet address.
///
/// Written and read as six hexadecimal octets with colons, `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// An address from its octets, in the order they are sent.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The octets, in the order they are sent.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// A locally administered unicast address derived from `seed`.
    ///
    /// The same seed always gives the same address. 46 bits of the mixed seed
    /// are kept, so that seeds that differ little, such as a counter, give
    /// addresses that differ much; two seeds share an address by chance only.
    pub const fn from_seed(seed: u64) -> Self {
        let [mut first, second, third, fourth, fifth, sixth, ..] = mix(seed).to_le_bytes();
        first = (first & !GROUP_BIT) | LOCAL_BIT;
        Self([first, second, third, fourth, fifth, sixth])
    }

    /// Whether the address names one station and not a group.
    pub const fn is_unicast(self) -> bool {
        self.0[0] & GROUP_BIT == 0
    }

    /// Whether the address is locally administered, not a manufacturer's.
    pub const fn is_local(self) -> bool {
        self.0[0] & LOCAL_BIT != 0
    }
}

/// The SplitMix64 output function: every input bit changes half of the output.
const fn mix(seed: u64) -> u64 {
    let mut value = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        parse_octets(text)
            .map(Self)
            .ok_or_else(|| NetError::InvalidMac { text: text.to_owned() })
    }
}

fn parse_octets(text: &str) -> Option<[u8; 6]> {
    let mut octets = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut octets {
        let part = parts.next()?;
        // from_str_radix alone would take "+1".
        if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(octets)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn display_and_parse_are_inverse() {
        let address = MacAddress::new([0x02, 0xab, 0x00, 0x09, 0xff, 0x10]);
        assert_eq!(address.to_string(), "02:ab:00:09:ff:10");
        assert_eq!("02:AB:00:09:ff:10".parse::<MacAddress>().unwrap(), address);
    }

    #[test]
    fn malformed_text_is_refused_and_quoted_in_the_error() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "02-00-00-00-00-01",
            "2:0:0:0:0:1",
            "02:00:00:00:00:0g",
            "+2:00:00:00:00:01",
            "02:00:00:00:00:01 ",
        ] {
            let error = text.parse::<MacAddress>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn seeded_addresses_are_local_unicast_and_differ() {
        let mut seen = HashSet::new();
        for seed in (0..50_000).chain(u64::MAX - 50_000..=u64::MAX) {
            let address = MacAddress::from_seed(seed);
            assert!(address.is_unicast() && address.is_local(), "{address}");
            assert_eq!(address, MacAddress::from_seed(seed));
            assert!(seen.insert(address), "seed {seed} repeats {address}");
        }
    }

    #[test]
    fn group_and_manufacturer_bits_are_told_apart() {
        let broadcast = MacAddress::new([0xff; 6]);
        assert!(!broadcast.is_unicast());
        let manufacturer = MacAddress::new([0x00, 0x1b, 0x21, 0, 0, 1]);
        assert!(manufacturer.is_unicast() && !manufacturer.is_local());
    }
}
