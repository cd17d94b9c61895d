//! Networks of clones that all believe to have the same address.
//!
//! A stock guest reads its addresses once. Clones of it, restored from one snapshot or forked, go on with those of the
//! original, so two of them cannot share a segment. Each gets a network namespace of its own instead, in which the
//! gateway that it knows is a tap, and is reached from outside by another address, which is translated on the way:
//!
//! ```text
//! bridge ──── eth0 │ namespace of the clone │ tap ──── guest
//!          10.213.0.7                  172.30.0.1   172.30.0.2   (the same in every clone)
//! ```

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::{
    AttachRequest, Attachment, Ipv4Cidr, LinkControl, LinkSettings, MacAddress, NetError, Networks, OwnNamespace,
    PublishedPort, Tap, nft, sysctl,
};

/// The network that the original's guest knows, and that every clone's guest goes on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNetwork {
    /// The host's address on the original's tap, which is the guest's gateway, with the prefix length of its network.
    pub gateway: Ipv4Cidr,
    /// The hardware address of the original's tap ([`LinkControl::state`]). A guest that knows its gateway by it reaches
    /// the clone's at once, and by another one only when it has asked again. The kernel's choice if left out.
    pub gateway_mac: Option<MacAddress>,
    /// The guest's address.
    pub guest: Ipv4Addr,
    /// Largest packet in bytes, as the original's tap had it.
    pub mtu: Option<u32>,
}

/// A clone's network. Dropping it removes it.
#[derive(Debug)]
pub struct CloneNetwork {
    // The interface goes before the namespace that holds its other end.
    attachment: Attachment,
    namespace: OwnNamespace,
    tap: Tap,
}

/// The interface in a clone's namespace that leads out.
const OUTWARD: &str = "eth0";
/// The tap in a clone's namespace.
const TAP: &str = "tap0";

impl Networks {
    /// Makes the network of one clone: a namespace called `request.id`, a tap in it as the guest knows it, and a place
    /// on a managed bridge. `request.address` is the address that the clone is reached by, and `request.ports` lead to
    /// the guest.
    ///
    /// # Errors
    /// As [`Networks::attach_namespace`] and [`Networks::new_namespace`]; [`NetError::InvalidAddress`] if the guest and
    /// its gateway are not in one network, or that network overlaps the bridge's.
    pub fn clone_network(&self, request: &AttachRequest, known: &GuestNetwork) -> Result<CloneNetwork, NetError> {
        if !known.gateway.contains(known.guest) || known.gateway.address() == known.guest {
            return Err(known
                .gateway
                .invalid("is not in one network with the guest's address, or is the same"));
        }
        let namespace = self.new_namespace(&request.id)?;
        let attachment = self.attach_namespace(request, namespace.namespace(), OUTWARD)?;
        let outer = attachment.address();
        if outer.contains(known.guest) || known.gateway.contains(outer.address()) {
            return Err(known
                .gateway
                .invalid("overlaps the bridge's network: name another bridge or subnet"));
        }
        let tap = namespace.namespace().run(|| {
            let tap = Tap::create_named(TAP)?;
            let mut links = LinkControl::open()?;
            if let Some(mac) = known.gateway_mac {
                links.set_mac(TAP, mac)?;
            }
            let settings = LinkSettings {
                address: Some(known.gateway),
                mtu: known.mtu,
                bring_up: true,
                no_ipv6_link_local: true,
            };
            links.configure(TAP, &settings)?;
            sysctl::switch_on(sysctl::FORWARDING)?;
            nft::translate(OUTWARD, outer.address(), known.guest)?;
            Ok(tap)
        })?;
        Ok(CloneNetwork {
            attachment,
            namespace,
            tap,
        })
    }
}

impl CloneNetwork {
    /// The address by which the clone's guest is reached from the host, and from beyond it where that is routed.
    pub fn address(&self) -> Ipv4Addr {
        self.attachment.address().address()
    }

    /// The published ports.
    pub fn ports(&self) -> &[PublishedPort] {
        self.attachment.ports()
    }

    /// The clone's namespace, by path.
    pub fn namespace(&self) -> &Path {
        self.namespace.path()
    }

    /// A descriptor of the tap for the clone's network card: for an override by descriptor, whatever namespace the
    /// card's owner is in.
    ///
    /// # Errors
    /// [`NetError::Os`] if the process has no descriptor left.
    pub fn tap(&self) -> Result<OwnedFd, NetError> {
        let tap: BorrowedFd<'_> = self.tap.as_fd();
        tap.try_clone_to_owned()
            .map_err(|error| NetError::from_os(TAP, "duplicate its descriptor", error))
    }

    /// Gives everything back. A second call does nothing.
    ///
    /// # Errors
    /// The first thing that cannot be given back; a later call or a sweep tries again.
    pub fn teardown(&self) -> Result<(), NetError> {
        self.attachment.teardown().and(self.namespace.teardown())
    }
}
