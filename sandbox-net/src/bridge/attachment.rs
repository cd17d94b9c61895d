//! One sandbox on a managed bridge.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use super::lease::{self, Lease};
use super::managed::{LockedBridge, ManagedBridge, mac_of};
use super::{AttachRequest, Networks};
use crate::interface::VethPair;
use crate::port::HeldPorts;
use crate::records::Lock;
use crate::{Ipv4Cidr, LinkControl, LinkSettings, MacAddress, NetError, NetNamespace, PublishedPort, Tap, nft};

/// A sandbox's place on a managed bridge: address, interface and published ports. Dropping it gives them back.
#[derive(Debug)]
pub struct Attachment {
    address: Ipv4Cidr,
    gateway: Ipv4Addr,
    mac: MacAddress,
    lease: Lease,
    bridge: ManagedBridge,
    /// The namespace that the bridge is in: what is given back may be given back by a thread of another one.
    home: NetNamespace,
    held: Mutex<Option<Held>>,
}

/// What goes when an attachment is given back.
#[derive(Debug)]
struct Held {
    lock: Lock,
    _ports: HeldPorts,
}

impl Attachment {
    /// Leases an address, makes the bridge if it is the first on it, and publishes the ports.
    pub(super) fn lease(networks: &Networks, request: &AttachRequest) -> Result<Self, NetError> {
        let mut ports = request.ports.clone();
        let held_ports = HeldPorts::take(&mut ports)?;
        let bridge = ManagedBridge::named(networks, &request.bridge.name)?;
        let home = NetNamespace::current()?;
        let locked = bridge.lock()?;
        let leased = Self::take(&locked, request).inspect_err(|_| {
            // The error to report is the first one.
            let _ = locked.remove_if_unused();
        });
        let (address, lock) = leased?;
        drop(locked);
        let attachment = Self {
            address,
            gateway: lease::gateway(address.network()),
            mac: request.mac.unwrap_or_else(|| mac_of(address.address())),
            lease: Lease {
                id: request.id.clone(),
                interface: interface_name(address.address()),
                ports,
            },
            bridge,
            home,
            held: Mutex::new(Some(Held {
                lock,
                _ports: held_ports,
            })),
        };
        // From here on dropping it undoes everything.
        attachment.publish()?;
        Ok(attachment)
    }

    fn take(locked: &LockedBridge<'_>, request: &AttachRequest) -> Result<(Ipv4Cidr, Lock), NetError> {
        let subnet = locked.ensure(&request.bridge)?.subnet();
        let leases = locked.leases();
        let taken = match leases.take(subnet, request.address) {
            // It may be dead sandboxes that have it.
            Err(NetError::AddressPoolExhausted { .. } | NetError::AddressTaken { .. }) => {
                let mut swept = Vec::new();
                locked.sweep_leases(&mut swept)?;
                tracing::info!(?swept, "swept dead sandboxes off a bridge for their addresses");
                leases.take(subnet, request.address)
            }
            taken => taken,
        };
        let (address, lock) = taken?;
        Ok((Ipv4Cidr::from_parts(address, subnet.prefix_len()), lock))
    }

    fn publish(&self) -> Result<(), NetError> {
        self.write_lease()?;
        if self.lease.ports.is_empty() {
            return Ok(());
        }
        let publish = || nft::publish(self.bridge.name(), self.address.address(), &self.lease.ports);
        match publish() {
            // No living process has the ports, since they are held: a dead one had them.
            Err(NetError::CommandFailed { reason, .. }) if reason.contains("File exists") => {
                self.bridge.lock()?.sweep_leases(&mut Vec::new())?;
                publish()
            }
            result => result,
        }
    }

    /// Writes down what is about to be made, so that a sweep knows.
    fn write_lease(&self) -> Result<(), NetError> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some(held) => held.lock.write(&self.lease),
            None => Ok(()),
        }
    }

    /// Makes a pair of interfaces: one a port of the bridge, the other one `interface` in `namespace`.
    pub(super) fn add_veth(
        &self,
        request: &AttachRequest,
        namespace: &NetNamespace,
        interface: &str,
    ) -> Result<(), NetError> {
        let mut links = LinkControl::open()?;
        let master = links.index(self.bridge.name())?;
        links.add_veth(&VethPair {
            near: &self.lease.interface,
            master: Some(master),
            far: interface,
            far_mac: self.mac,
            far_namespace: namespace.as_fd(),
            mtu: request.mtu,
        })?;
        self.bring_up(&mut links, request)?;
        namespace.run(|| {
            let mut links = LinkControl::open()?;
            let settings = LinkSettings {
                address: Some(self.address),
                bring_up: true,
                no_ipv6_link_local: true,
                ..LinkSettings::default()
            };
            links.configure(interface, &settings)?;
            links.add_default_route(interface, self.gateway)
        })
    }

    /// Makes a tap that is a port of the bridge.
    pub(super) fn add_tap(&self, request: &AttachRequest) -> Result<Tap, NetError> {
        let tap = Tap::create_named(&self.lease.interface)?;
        let mut links = LinkControl::open()?;
        let master = links.index(self.bridge.name())?;
        links.join(tap.name(), master)?;
        self.bring_up(&mut links, request)?;
        Ok(tap)
    }

    fn bring_up(&self, links: &mut LinkControl, request: &AttachRequest) -> Result<(), NetError> {
        if request.bridge.isolated {
            links.isolate(&self.lease.interface)?;
        }
        let settings = LinkSettings {
            address: None,
            mtu: request.mtu,
            bring_up: true,
            no_ipv6_link_local: true,
        };
        links.configure(&self.lease.interface, &settings)
    }

    /// The sandbox's address, with the prefix length of the bridge's network.
    pub fn address(&self) -> Ipv4Cidr {
        self.address
    }

    /// The host's address on the bridge, by which everything else is reached.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// The hardware address of the sandbox's card: set where the host sets it, else a proposal.
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// The host's interface.
    pub fn interface(&self) -> &str {
        &self.lease.interface
    }

    /// The published ports, with the host's port filled in where it was left open.
    pub fn ports(&self) -> &[PublishedPort] {
        &self.lease.ports
    }

    /// Gives everything back, and removes the bridge if nobody else is on it. A second call does nothing.
    ///
    /// # Errors
    /// Whatever cannot be given back; a later call or a sweep tries again.
    pub fn teardown(&self) -> Result<(), NetError> {
        let mut slot = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            return Ok(());
        }
        let held = &mut *slot;
        self.home.run_inside(move || {
            LinkControl::open()?.delete(&self.lease.interface)?;
            nft::withdraw(self.bridge.name(), &self.lease.ports)?;
            let locked = self.bridge.lock()?;
            if let Some(held) = held.take() {
                held.lock.remove()?;
            }
            locked.remove_if_unused()
        })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Err(error) = self.teardown() {
            tracing::warn!(%error, sandbox = self.lease.id, "a network is left behind for the next sweep");
        }
    }
}

/// The host's interface for an address: unique in the namespace, as the networks of bridges do not overlap.
fn interface_name(address: Ipv4Addr) -> String {
    format!("sbx{:08x}", address.to_bits())
}
