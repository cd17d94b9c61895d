//! Which networks the host reaches already.

use std::fs;
use std::net::Ipv4Addr;

use crate::{Ipv4Cidr, NetError};

/// The routing table of the calling thread's network namespace (proc_pid_net(5)).
const TABLE: &str = "/proc/thread-self/net/route";

/// Refuses a network of which some address is reached otherwise than by the default route.
pub(crate) fn check_free(subnet: Ipv4Cidr) -> Result<(), NetError> {
    let table = fs::read_to_string(TABLE).map_err(|error| NetError::state(TABLE, "read it", error))?;
    for (interface, other) in table.lines().skip(1).filter_map(route) {
        if other.prefix_len() > 0 && (other.contains(subnet.address()) || subnet.contains(other.address())) {
            return Err(NetError::SubnetTaken {
                subnet,
                other,
                interface,
            });
        }
    }
    Ok(())
}

/// Interface and destination of a line. Addresses are hexadecimal numbers in the processor's byte order.
fn route(line: &str) -> Option<(String, Ipv4Cidr)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
    let destination = Ipv4Addr::from(number(1)?.to_ne_bytes());
    let mask = u32::from_be_bytes(number(7)?.to_ne_bytes());
    let destination = Ipv4Cidr::new(destination, mask.leading_ones() as u8).ok()?;
    Some(((*fields.first()?).to_owned(), destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table_are_read() {
        let line = "eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        let (interface, network) = route(line).unwrap();
        assert_eq!(
            (interface.as_str(), network.to_string().as_str()),
            ("eth0", "192.168.0.0/24")
        );
        assert_eq!(route("eth0"), None);
    }
}
