//! Addresses for many sandboxes out of one network.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Ipv4Cidr, NetError};

/// Prefix length of a point-to-point subnet: network, host, guest, broadcast.
const SUBNET_PREFIX_LEN: u8 = 30;

/// Hands out pairs of a host's and a guest's IPv4 address from one network.
///
/// A lease is unique among the leases alive and comes back when it is dropped.
/// Addresses never leased are given before returned ones, and those in the
/// order of their return, so that an address rests as long as possible before
/// another guest gets it: the neighbour caches of the host and of other guests
/// may still name its former owner.
///
/// Clones share the same pool, from any thread. The pool knows only its own
/// leases: give each process of a host a network of its own.
#[derive(Clone, Debug)]
pub struct AddressPool {
    shared: Arc<Shared>,
}

/// How the pool's network is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// A `/30` for each guest, with a host address of its own.
    Subnets,
    /// One address for each guest; the network's first is the host's.
    SingleAddresses,
}

#[derive(Debug)]
struct Shared {
    network: Ipv4Cidr,
    layout: Layout,
    slots: Mutex<Slots>,
}

/// Which slots of the network are free, by number from 0.
#[derive(Debug, Default)]
struct Slots {
    never_leased: u32,
    returned: VecDeque<u32>,
}

impl AddressPool {
    /// A pool that gives each guest a `/30` of `network`, with its own host
    /// address: for a tap per guest, routed.
    ///
    /// # Errors
    /// [`NetError::InvalidAddress`] if `network` is not a network of 8 to 30
    /// prefix bits that hosts can use.
    pub fn subnets(network: Ipv4Cidr) -> Result<Self, NetError> {
        Self::new(network, Layout::Subnets)
    }

    /// A pool that gives each guest one address of `network`, the first being
    /// the host's: for guests that share a segment, as on a bridge.
    ///
    /// # Errors
    /// [`NetError::InvalidAddress`] if `network` is not a network of 8 to 30
    /// prefix bits that hosts can use.
    pub fn single_addresses(network: Ipv4Cidr) -> Result<Self, NetError> {
        Self::new(network, Layout::SingleAddresses)
    }

    fn new(network: Ipv4Cidr, layout: Layout) -> Result<Self, NetError> {
        if !(8..=SUBNET_PREFIX_LEN).contains(&network.prefix_len()) {
            return Err(network.invalid("has an unfit prefix length for a pool: use 8 to 30"));
        }
        if network.network() != network {
            return Err(network.invalid("has bits set after its prefix: name the network itself"));
        }
        if !is_for_hosts(network.address()) {
            return Err(network.invalid("is not for hosts: use a private network such as 172.30.0.0/16"));
        }
        let shared = Shared {
            network,
            layout,
            slots: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Leases addresses for one guest.
    ///
    /// # Errors
    /// [`NetError::AddressPoolExhausted`] while every address is leased.
    pub fn lease(&self) -> Result<AddressLease, NetError> {
        let slot = self.shared.take_slot()?;
        Ok(AddressLease {
            shared: Arc::clone(&self.shared),
            slot,
        })
    }

    /// The network the addresses come from.
    pub fn network(&self) -> Ipv4Cidr {
        self.shared.network
    }

    /// How many leases can be alive at a time.
    pub fn capacity(&self) -> u32 {
        self.shared.capacity()
    }

    /// How many more leases can be given now.
    pub fn available(&self) -> u32 {
        let slots = self.shared.lock();
        // At most `capacity` slots are ever queued, so the length fits.
        self.capacity() - slots.never_leased + slots.returned.len() as u32
    }
}

/// Whether the network that starts here, a `/8` at most, is neither "this
/// network", loopback, multicast nor reserved (RFC 6890).
fn is_for_hosts(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

impl Shared {
    fn capacity(&self) -> u32 {
        let addresses = 1 << (32 - u32::from(self.network.prefix_len()));
        match self.layout {
            Layout::Subnets => addresses / 4,
            // Without the network's, the host's and the broadcast address.
            Layout::SingleAddresses => addresses - 3,
        }
    }

    fn take_slot(&self) -> Result<u32, NetError> {
        let mut slots = self.lock();
        if slots.never_leased < self.capacity() {
            slots.never_leased += 1;
            return Ok(slots.never_leased - 1);
        }
        slots
            .returned
            .pop_front()
            .ok_or(NetError::AddressPoolExhausted { network: self.network })
    }

    /// The slots are consistent between any two statements that hold this, so
    /// a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address `offset` addresses into the network.
    fn address_at(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.address().to_bits() + offset)
    }
}

/// Addresses held for one guest; given back when dropped.
#[derive(Debug)]
pub struct AddressLease {
    shared: Arc<Shared>,
    slot: u32,
}

impl AddressLease {
    /// The host's address, with the prefix length both ends use.
    pub fn host(&self) -> Ipv4Cidr {
        match self.shared.layout {
            Layout::Subnets => self.with_prefix(4 * self.slot + 1),
            Layout::SingleAddresses => self.with_prefix(1),
        }
    }

    /// The guest's address, with the prefix length both ends use.
    pub fn guest(&self) -> Ipv4Cidr {
        match self.shared.layout {
            Layout::Subnets => self.with_prefix(4 * self.slot + 2),
            Layout::SingleAddresses => self.with_prefix(self.slot + 2),
        }
    }

    fn with_prefix(&self, offset: u32) -> Ipv4Cidr {
        let prefix_len = match self.shared.layout {
            Layout::Subnets => SUBNET_PREFIX_LEN,
            Layout::SingleAddresses => self.shared.network.prefix_len(),
        };
        Ipv4Cidr::from_parts(self.shared.address_at(offset), prefix_len)
    }
}

impl Drop for AddressLease {
    fn drop(&mut self) {
        self.shared.lock().returned.push_back(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    fn network(text: &str) -> Ipv4Cidr {
        text.parse().unwrap()
    }

    fn exhaust(pool: &AddressPool) -> Vec<AddressLease> {
        let leases: Vec<_> = std::iter::from_fn(|| pool.lease().ok()).collect();
        assert_eq!(leases.len(), pool.capacity() as usize);
        assert_eq!(pool.available(), 0);
        leases
    }

    #[test]
    fn every_subnet_of_every_network_size_is_handed_out_exactly_once() {
        for prefix_len in 16..=30 {
            let pool = AddressPool::subnets(network(&format!("172.30.0.0/{prefix_len}"))).unwrap();
            let leases = exhaust(&pool);

            assert_eq!(leases.len(), 1 << (30 - prefix_len));
            let subnets: HashSet<_> = leases.iter().map(|l| l.host().network()).collect();
            assert_eq!(subnets.len(), leases.len());
            for lease in &leases {
                let base = lease.host().network().address().to_bits();
                assert!(pool.network().contains(lease.guest().address()));
                assert_eq!(lease.host().address().to_bits(), base + 1);
                assert_eq!(lease.guest().address().to_bits(), base + 2);
                assert_eq!((lease.host().prefix_len(), lease.guest().prefix_len()), (30, 30));
            }
        }
    }

    #[test]
    fn single_addresses_are_unique_and_leave_out_the_reserved_ones() {
        for prefix_len in 16..=30 {
            let pool = AddressPool::single_addresses(network(&format!("10.9.0.0/{prefix_len}"))).unwrap();
            let leases = exhaust(&pool);

            let size = 1_u32 << (32 - prefix_len);
            let base = pool.network().address().to_bits();
            let offsets: HashSet<_> = leases.iter().map(|l| l.guest().address().to_bits() - base).collect();
            assert_eq!(offsets, (2..size - 1).collect());
            for lease in &leases {
                assert_eq!(lease.host().address().to_bits(), base + 1);
                assert_eq!(lease.guest().prefix_len(), prefix_len);
            }
        }
    }

    #[test]
    fn exhaustion_is_a_typed_error_until_a_lease_is_dropped() {
        let pool = AddressPool::subnets(network("10.0.0.0/29")).unwrap();
        let mut leases = exhaust(&pool);

        let error = pool.lease().unwrap_err();
        assert!(matches!(error, NetError::AddressPoolExhausted { .. }));
        assert!(error.to_string().contains("10.0.0.0/29"), "{error}");

        let freed = leases.remove(0).guest();
        assert_eq!(pool.available(), 1);
        assert_eq!(pool.lease().unwrap().guest(), freed);
    }

    #[test]
    fn the_address_that_rested_longest_is_leased_again_first() {
        let pool = AddressPool::subnets(network("10.0.0.0/28")).unwrap();
        let returned = pool.lease().unwrap().guest();
        assert_ne!(pool.lease().unwrap().guest(), returned);

        let mut leases = exhaust(&pool);
        let expected = [leases.remove(2), leases.remove(0)].map(|lease| lease.guest());
        let again = [pool.lease().unwrap(), pool.lease().unwrap()];
        assert_eq!(again.map(|lease| lease.guest()), expected);
    }

    #[test]
    fn threads_never_hold_the_same_address_at_the_same_time() {
        let pool = AddressPool::subnets(network("10.0.0.0/26")).unwrap();
        let held = Mutex::new(HashSet::new());
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let (one, two) = (pool.lease().unwrap(), pool.lease().unwrap());
                        for lease in [&one, &two] {
                            assert!(held.lock().unwrap().insert(lease.guest().address()));
                        }
                        for lease in [one, two] {
                            assert!(held.lock().unwrap().remove(&lease.guest().address()));
                        }
                    }
                });
            }
        });
        assert_eq!(pool.available(), pool.capacity());
    }

    #[test]
    fn networks_that_no_pool_can_use_are_refused() {
        for text in [
            "10.0.0.0/31",
            "10.0.0.0/7",
            "10.0.0.1/24",
            "127.0.0.0/8",
            "224.0.0.0/8",
            "0.0.0.0/8",
        ] {
            for make in [AddressPool::subnets, AddressPool::single_addresses] {
                let error = make(network(text)).unwrap_err();
                assert!(error.to_string().contains(text), "{error}");
            }
        }
    }
}
