//! Addresses for a sandbox that this machine does not use.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use sandbox_net::{AddressLease, AddressPool, Ipv4Cidr};

/// Networks that are rarely used: corners of the three private ranges (RFC 1918), then one of the range for benchmarks
/// (RFC 2544).
const NETWORKS: [&str; 4] = [
    "10.219.0.0/24",
    "172.30.219.0/24",
    "192.168.219.0/24",
    "198.18.219.0/24",
];

/// Two addresses, for host and guest, in a network of their own to which this machine has no route yet.
///
/// A platform would have one pool for all of its sandboxes, in a network that it knows to be its own.
pub fn unused_addresses() -> Result<AddressLease> {
    let routes = routes(&fs::read_to_string("/proc/net/route").context("cannot read the routing table")?)?;
    for network in NETWORKS {
        let pool = AddressPool::subnets(network.parse()?)?;
        // Leases that are of no use are kept for the moment, or the pool would give them again.
        let mut used = Vec::new();
        while let Ok(lease) = pool.lease() {
            if !routes.iter().any(|route| overlap(*route, lease.host())) {
                return Ok(lease);
            }
            used.push(lease);
        }
    }
    bail!("this machine has routes to all of {}", NETWORKS.join(", "))
}

/// Whether this machine has a network interface of this name.
pub fn interface_exists(name: &str) -> Result<bool> {
    let interfaces = fs::read_to_string("/proc/net/dev").context("cannot read the list of interfaces")?;
    Ok(interfaces
        .lines()
        .any(|line| line.trim_start().split(':').next() == Some(name)))
}

/// The destinations in `/proc/net/route`, but for the default route, which leads to everywhere.
fn routes(table: &str) -> Result<Vec<Ipv4Cidr>> {
    let mut routes = Vec::new();
    for line in table.lines().skip(1) {
        let mut columns = line.split_whitespace();
        let (destination, mask) = (columns.nth(1), columns.nth(5));
        let (Some(destination), Some(mask)) = (destination, mask) else {
            bail!("the routing table has a line that is none: {line:?}");
        };
        let prefix = hexadecimal(mask)?.to_bits().count_ones();
        if prefix > 0 {
            // At most 32.
            routes.push(Ipv4Cidr::new(hexadecimal(destination)?, prefix as u8)?);
        }
    }
    Ok(routes)
}

/// An address as the kernel prints it here: its four bytes as one number of the processor's byte order.
fn hexadecimal(text: &str) -> Result<Ipv4Addr> {
    let number = u32::from_str_radix(text, 16).with_context(|| format!("{text:?} is no address"))?;
    Ok(Ipv4Addr::from(number.to_ne_bytes()))
}

fn overlap(one: Ipv4Cidr, other: Ipv4Cidr) -> bool {
    one.contains(other.network().address()) || other.contains(one.network().address())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000DB0A\t00000000\t0001\t0\t0\t0\tFCFFFFFF\t0\t0\t0
";

    #[test]
    fn all_but_the_default_route_counts() {
        assert_eq!(routes(TABLE).unwrap(), ["10.219.0.0/30".parse().unwrap()]);
        assert!(routes("head\neth0 00000000").is_err());
    }

    #[test]
    fn networks_overlap_when_one_holds_the_other() {
        let cidr = |text: &str| text.parse::<Ipv4Cidr>().unwrap();
        assert!(overlap(cidr("10.0.0.0/8"), cidr("10.219.0.1/30")));
        assert!(overlap(cidr("10.219.0.1/30"), cidr("10.219.0.2/32")));
        assert!(!overlap(cidr("10.219.0.4/30"), cidr("10.219.0.1/30")));
    }

    #[test]
    fn the_loopback_interface_exists_and_an_invention_does_not() {
        assert!(interface_exists("lo").unwrap());
        assert!(!interface_exists("l").unwrap());
    }

    #[test]
    fn the_addresses_belong_together() {
        let addresses = unused_addresses().unwrap();
        assert!(addresses.host().contains(addresses.guest().address()));
        assert_ne!(addresses.host(), addresses.guest());
    }
}
