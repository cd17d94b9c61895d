//! Which address of a bridge's network is whose.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::records::{self, Lock};
use crate::{Ipv4Cidr, NetError, PublishedPort};

/// The record of a lease.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Lease {
    /// The sandbox.
    pub(super) id: String,
    /// The host's interface.
    pub(super) interface: String,
    /// Ports that are published for it.
    pub(super) ports: Vec<PublishedPort>,
}

/// The leases of a bridge: a folder with a file for each. Whoever changes it holds the bridge's lock.
#[derive(Debug)]
pub(super) struct Leases {
    folder: PathBuf,
    /// Where the address leased last is remembered, so that one that was given back rests for long.
    last: PathBuf,
}

impl Leases {
    pub(super) fn of(bridge: &Path) -> Self {
        Self {
            folder: bridge.join("leases"),
            last: bridge.join("last"),
        }
    }

    /// The addresses that are leased.
    pub(super) fn addresses(&self) -> Result<HashSet<Ipv4Addr>, NetError> {
        let names = records::names(&self.folder)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    pub(super) fn path(&self, address: Ipv4Addr) -> PathBuf {
        self.folder.join(address.to_string())
    }

    /// Leases the address asked for, or the first one that is free behind the one leased last.
    pub(super) fn take(&self, subnet: Ipv4Cidr, asked: Option<Ipv4Addr>) -> Result<(Ipv4Addr, Lock), NetError> {
        records::make_folder(&self.folder)?;
        let leased = self.addresses()?;
        let address = match asked {
            Some(address) => {
                check_in(subnet, address)?;
                if leased.contains(&address) {
                    return Err(NetError::AddressTaken { address });
                }
                address
            }
            None => self.next_free(subnet, &leased)?,
        };
        let lock = Lock::wait(&self.path(address))?;
        // Only a preference: without it the first free address is taken again.
        let _ = std::fs::write(&self.last, address.to_string());
        Ok((address, lock))
    }

    fn next_free(&self, subnet: Ipv4Cidr, leased: &HashSet<Ipv4Addr>) -> Result<Ipv4Addr, NetError> {
        let range = guests(subnet);
        let last = std::fs::read_to_string(&self.last)
            .ok()
            .and_then(|text| text.parse::<Ipv4Addr>().ok());
        let start = last.map_or(range.start, |last| last.to_bits().saturating_add(1));
        let behind = (start..range.end).filter(|number| range.contains(number));
        let mut candidates = behind.chain(range.clone()).map(Ipv4Addr::from_bits);
        candidates
            .find(|address| !leased.contains(address))
            .ok_or(NetError::AddressPoolExhausted { network: subnet })
    }
}

/// The host's address in a bridge's network: the first one.
pub(super) fn gateway(subnet: Ipv4Cidr) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.address().to_bits() + 1)
}

/// The addresses for sandboxes: not the network's, the host's and the broadcast address.
fn guests(subnet: Ipv4Cidr) -> std::ops::Range<u32> {
    let first = subnet.address().to_bits();
    let size = 1_u32 << (32 - u32::from(subnet.prefix_len()));
    first + 2..first + size - 1
}

fn check_in(subnet: Ipv4Cidr, address: Ipv4Addr) -> Result<(), NetError> {
    if guests(subnet).contains(&address.to_bits()) {
        return Ok(());
    }
    Err(NetError::InvalidAddress {
        address: address.to_string(),
        reason: "is not one of the bridge's network, or the host's own: choose another one",
    })
}

/// Refuses what cannot be a bridge's network.
pub(super) fn check_subnet(subnet: Ipv4Cidr) -> Result<(), NetError> {
    // The pool knows what a network for sandboxes is.
    crate::AddressPool::single_addresses(subnet).map(drop)
}
