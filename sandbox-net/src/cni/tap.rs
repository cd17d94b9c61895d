//! CNI networks for virtual machines.
//!
//! Plugins know network namespaces and nothing of machines. So a machine gets a namespace, which the plugins attach as
//! though a container were in it, and its tap is joined with the interface that they made:
//!
//! ```text
//! network ──── eth0 ──┬── tap0 ──── guest, with the addresses that were eth0's
//!                   bridge
//! ```
//!
//! The guest has the hardware address by which the network knows the interface, and the interface gets another one.

use crate::interface::LOCAL_BRIDGE;
use crate::{
    CniAttachment, CniRequest, Ipv4Cidr, LinkControl, LinkSettings, MacAddress, NetError, Networks, OwnNamespace, Tap,
};

/// A virtual machine's attachment by CNI plugins. Dropping it has them take it back.
#[derive(Debug)]
pub struct CniTap {
    // What the plugins made goes before the namespace that it is in.
    attachment: CniAttachment,
    namespace: OwnNamespace,
    mac: MacAddress,
}

/// The interface that the plugins make.
const INTERFACE: &str = "eth0";
/// The machine's.
const TAP: &str = "tap0";

impl Networks {
    /// Attaches a virtual machine by CNI plugins: `request` without namespace and interface, which are made here, by
    /// the sandbox's name. The guest must be told the addresses of the attachment, and its card must have its hardware
    /// address.
    ///
    /// # Errors
    /// As [`Networks::attach_cni`], [`Networks::new_namespace`] and [`Tap::create_named`].
    pub fn attach_cni_tap(&self, request: &CniRequest) -> Result<(CniTap, Tap), NetError> {
        let namespace = self.new_namespace(&request.id)?;
        let attachment = self.attach_cni(&CniRequest {
            namespace: namespace.path().to_owned(),
            interface: INTERFACE.to_owned(),
            ..request.clone()
        })?;
        let (mac, tap) = namespace.namespace().run(|| join(&attachment))?;
        let attached = CniTap {
            attachment,
            namespace,
            mac,
        };
        Ok((attached, tap))
    }
}

/// Joins the interface of the attachment and a new tap, in the namespace they are in.
fn join(attachment: &CniAttachment) -> Result<(MacAddress, Tap), NetError> {
    let mut links = LinkControl::open()?;
    let state = links.state(INTERFACE)?;
    if let Some((address, given)) = attachment.ipv4() {
        links.remove_address(INTERFACE, Ipv4Cidr::new(address, given.prefix_len)?)?;
    }
    let [_, rest @ ..] = state.mac.octets();
    let seed = rest.iter().fold(1, |seed, octet| seed << 8 | u64::from(*octet));
    links.set_mac(INTERFACE, MacAddress::from_seed(seed))?;

    links.add_bridge(LOCAL_BRIDGE, MacAddress::from_seed(seed + 1))?;
    let bridge = links.index(LOCAL_BRIDGE)?;
    let tap = Tap::create_named(TAP)?;
    let up = LinkSettings {
        mtu: Some(state.mtu),
        bring_up: true,
        no_ipv6_link_local: true,
        ..LinkSettings::default()
    };
    for port in [INTERFACE, TAP] {
        links.join(port, bridge)?;
        links.configure(port, &up)?;
    }
    links.configure(LOCAL_BRIDGE, &up)?;
    Ok((state.mac, tap))
}

impl CniTap {
    /// What the plugins made.
    pub fn attachment(&self) -> &CniAttachment {
        &self.attachment
    }

    /// The hardware address that the guest's card must have.
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// Has the plugins take everything back. A second call does nothing.
    ///
    /// # Errors
    /// The first thing that cannot be given back; a later call or a sweep tries again.
    pub fn teardown(&self) -> Result<(), NetError> {
        self.attachment.teardown().and(self.namespace.teardown())
    }
}
