//! IPv4 addresses with a prefix length.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::NetError;

/// An IPv4 address and the length of its network's prefix in bits (RFC 4632).
///
/// It stands for an interface's address (`172.30.0.1/30`) or, where the bits
/// after the prefix are zero, for a network (`172.30.0.0/16`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv4Cidr {
    address: Ipv4Addr,
    prefix_len: u8,
}

impl Ipv4Cidr {
    /// An address with a prefix of `prefix_len` bits.
    ///
    /// # Errors
    /// [`NetError::InvalidAddress`] if `prefix_len` is above 32.
    pub fn new(address: Ipv4Addr, prefix_len: u8) -> Result<Self, NetError> {
        if prefix_len > 32 {
            return Err(NetError::InvalidAddress {
                address: format!("{address}/{prefix_len}"),
                reason: "has a prefix longer than 32 bits: use 0 to 32",
            });
        }
        Ok(Self::from_parts(address, prefix_len))
    }

    /// For callers whose prefix length is at most 32 by construction.
    pub(crate) const fn from_parts(address: Ipv4Addr, prefix_len: u8) -> Self {
        Self { address, prefix_len }
    }

    /// The address.
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Length of the network prefix in bits, 0 to 32.
    pub const fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// The network mask, such as `255.255.255.252` for a `/30`.
    pub fn netmask(self) -> Ipv4Addr {
        let host_bits = 32 - u32::from(self.prefix_len);
        Ipv4Addr::from_bits(u32::MAX.checked_shl(host_bits).unwrap_or(0))
    }

    /// The network the address lies in: the same prefix, then zeros.
    pub fn network(self) -> Self {
        let address = self.address & self.netmask();
        Self::from_parts(address, self.prefix_len)
    }

    /// Whether `address` lies in the same network.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address & self.netmask() == self.network().address
    }

    /// An error about this address.
    pub(crate) fn invalid(self, reason: &'static str) -> NetError {
        NetError::InvalidAddress {
            address: self.to_string(),
            reason,
        }
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl FromStr for Ipv4Cidr {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let invalid = || NetError::InvalidAddress {
            address: text.to_owned(),
            reason: "is not an IPv4 address with prefix length: write it as 172.30.0.1/30",
        };
        let (address, prefix_len) = text.split_once('/').ok_or_else(invalid)?;
        // u8::from_str alone would take "+8".
        if !prefix_len.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        let address = address.parse().map_err(|_| invalid())?;
        let prefix_len = prefix_len.parse().map_err(|_| invalid())?;
        Self::new(address, prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Ipv4Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn display_and_parse_are_inverse() {
        for text in ["0.0.0.0/0", "172.30.0.1/30", "10.1.2.3/32"] {
            assert_eq!(cidr(text).to_string(), text);
        }
    }

    #[test]
    fn malformed_text_is_refused_and_named_in_the_error() {
        for text in [
            "10.0.0.1",
            "10.0.0.1/",
            "10.0.0.1/33",
            "10.0.0.1/+8",
            "10.0.0/8",
            "::1/64",
            "/8",
            "10.0.0.1/8/9",
            "10.0.0.1/256",
        ] {
            let error = text.parse::<Ipv4Cidr>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn mask_and_network_follow_from_the_prefix() {
        for (text, mask, network) in [
            ("10.1.2.3/0", "0.0.0.0", "0.0.0.0/0"),
            ("10.1.2.3/8", "255.0.0.0", "10.0.0.0/8"),
            ("10.1.2.7/30", "255.255.255.252", "10.1.2.4/30"),
            ("10.1.2.3/32", "255.255.255.255", "10.1.2.3/32"),
        ] {
            assert_eq!(cidr(text).netmask().to_string(), mask);
            assert_eq!(cidr(text).network(), cidr(network));
        }
        assert!(cidr("10.1.2.5/30").contains(Ipv4Addr::new(10, 1, 2, 6)));
        assert!(!cidr("10.1.2.5/30").contains(Ipv4Addr::new(10, 1, 2, 8)));
    }
}
