//! Interfaces that are made and removed: bridges, and pairs of virtual Ethernet interfaces (rtnetlink(7), veth(4)).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::netlink::{Batch, attribute};
use crate::{LinkControl, MacAddress, NetError, name};

/// `IFLA_MASTER` of `linux/if_link.h`: the bridge that an interface is a port of.
const IFLA_MASTER: u16 = 10;
/// `IFLA_PROTINFO` of `linux/if_link.h`.
const IFLA_PROTINFO: u16 = 12;
/// `IFLA_LINKINFO` of `linux/if_link.h`.
const IFLA_LINKINFO: u16 = 18;
/// `IFLA_NET_NS_FD` of `linux/if_link.h`.
const IFLA_NET_NS_FD: u16 = 28;
/// `IFLA_INFO_KIND` of `linux/if_link.h`.
const IFLA_INFO_KIND: u16 = 1;
/// `IFLA_INFO_DATA` of `linux/if_link.h`.
const IFLA_INFO_DATA: u16 = 2;
/// `IFLA_BRPORT_ISOLATED` of `linux/if_link.h`.
const IFLA_BRPORT_ISOLATED: u16 = 33;
/// `VETH_INFO_PEER` of `linux/veth.h`.
const VETH_INFO_PEER: u16 = 1;
/// `NLA_F_NESTED` of `linux/netlink.h`.
const NLA_F_NESTED: u16 = 1 << 15;
/// Length of `struct ifinfomsg` in bytes.
const INTERFACE_HEADER: usize = 16;
/// `AF_UNSPEC`: the request is about the link itself.
const ANY_FAMILY: u8 = 0;

/// The name of a bridge that joins interfaces in a sandbox's own namespace.
pub(crate) const LOCAL_BRIDGE: &str = "bridge";

/// The two ends of a pair of interfaces, what one sends the other one receives.
#[derive(Debug)]
pub(crate) struct VethPair<'a> {
    /// The end that stays here.
    pub(crate) near: &'a str,
    /// The bridge that it becomes a port of, by index.
    pub(crate) master: Option<u32>,
    /// The other end.
    pub(crate) far: &'a str,
    pub(crate) far_mac: MacAddress,
    /// The network namespace that the other end is put into.
    pub(crate) far_namespace: BorrowedFd<'a>,
    /// Largest packet of both in bytes.
    pub(crate) mtu: Option<u32>,
}

impl LinkControl {
    /// Makes a bridge with this hardware address, which it keeps whatever its ports' are. It is down.
    pub(crate) fn add_bridge(&mut self, name: &str, mac: MacAddress) -> Result<(), NetError> {
        name::check(name)?;
        let mut batch = self.batch();
        push_new(&mut batch);
        batch.attribute(libc::IFLA_IFNAME, &text(name));
        batch.attribute(libc::IFLA_ADDRESS, &mac.octets());
        batch.attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, b"bridge"));
        self.make(batch, name, "make a bridge")
    }

    /// Makes a pair of interfaces, both down.
    pub(crate) fn add_veth(&mut self, pair: &VethPair<'_>) -> Result<(), NetError> {
        name::check(pair.near)?;
        name::check(pair.far)?;
        let mut peer = vec![0; INTERFACE_HEADER];
        peer.extend(attribute(libc::IFLA_IFNAME, &text(pair.far)));
        peer.extend(attribute(libc::IFLA_ADDRESS, &pair.far_mac.octets()));
        peer.extend(attribute(IFLA_NET_NS_FD, &pair.far_namespace.as_raw_fd().to_ne_bytes()));
        if let Some(mtu) = pair.mtu {
            peer.extend(attribute(libc::IFLA_MTU, &mtu.to_ne_bytes()));
        }
        let mut info = attribute(IFLA_INFO_KIND, b"veth");
        info.extend(attribute(IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &peer)));

        let mut batch = self.batch();
        push_new(&mut batch);
        batch.attribute(libc::IFLA_IFNAME, &text(pair.near));
        if let Some(mtu) = pair.mtu {
            batch.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        batch.attribute(IFLA_LINKINFO, &info);
        self.make(batch, pair.near, "make a pair of interfaces")?;
        let joined = match pair.master {
            Some(master) => self.join(pair.near, master),
            None => Ok(()),
        };
        joined.inspect_err(|_| {
            // The error to report is the first one.
            let _ = self.delete(pair.near);
        })
    }

    /// Makes an interface a port of a bridge.
    pub(crate) fn join(&mut self, port: &str, bridge: u32) -> Result<(), NetError> {
        let index = self.index(port)?;
        let mut batch = self.batch();
        push_about(&mut batch, libc::RTM_SETLINK, ANY_FAMILY, index);
        batch.attribute(IFLA_MASTER, &bridge.to_ne_bytes());
        self.make(batch, port, "make it a port of the bridge")
    }

    /// Gives an interface another hardware address.
    pub(crate) fn set_mac(&mut self, name: &str, mac: MacAddress) -> Result<(), NetError> {
        let index = self.index(name)?;
        let mut batch = self.batch();
        push_about(&mut batch, libc::RTM_SETLINK, ANY_FAMILY, index);
        batch.attribute(libc::IFLA_ADDRESS, &mac.octets());
        self.make(batch, name, "set its hardware address")
    }

    /// Keeps a port of a bridge from exchanging frames with other ports that are kept so.
    pub(crate) fn isolate(&mut self, port: &str) -> Result<(), NetError> {
        let index = self.index(port)?;
        let mut batch = self.batch();
        push_about(&mut batch, libc::RTM_SETLINK, libc::AF_BRIDGE as u8, index);
        batch.attribute(IFLA_PROTINFO | NLA_F_NESTED, &attribute(IFLA_BRPORT_ISOLATED, &[1]));
        self.make(batch, port, "isolate it from the bridge's other ports")
    }

    /// Removes an interface, and the other end of a pair with it. One that is not there counts as removed.
    ///
    /// # Errors
    /// [`NetError::PermissionDenied`] without `CAP_NET_ADMIN`.
    pub fn delete(&mut self, name: &str) -> Result<(), NetError> {
        let index = match self.index(name) {
            Ok(index) => index,
            Err(NetError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut batch = self.batch();
        push_about(&mut batch, libc::RTM_DELLINK, ANY_FAMILY, index);
        match self.make(batch, name, "remove it") {
            Err(NetError::NotFound { .. }) => Ok(()),
            result => result,
        }
    }

    /// Has everything that is not reached otherwise reached by `gateway`, over the interface.
    ///
    /// # Errors
    /// [`NetError::Os`] if the gateway is not reached by the interface, or there is such a route already.
    pub fn add_default_route(&mut self, name: &str, gateway: Ipv4Addr) -> Result<(), NetError> {
        let index = self.index(name)?;
        let mut batch = self.batch();
        // struct rtmsg of rtnetlink(7).
        let header = [
            libc::AF_INET as u8,
            0,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        batch.request(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &header);
        batch.attribute(libc::RTA_GATEWAY, &gateway.octets());
        batch.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        self.make(batch, name, "add the default route")
    }

    /// Sends requests that must all succeed.
    fn make(&mut self, batch: Batch, name: &str, action: &'static str) -> Result<(), NetError> {
        let refusals = self
            .exchange(batch)
            .map_err(|source| NetError::from_os(name, action, source))?;
        let Some(refusal) = refusals.first() else {
            return Ok(());
        };
        let source = io::Error::from_raw_os_error(refusal.errno);
        Err(match refusal.errno {
            libc::EEXIST if action.starts_with("make") => NetError::AlreadyExists { name: name.to_owned() },
            _ => NetError::from_os(name, action, source),
        })
    }
}

/// A request about the link `index`, with its `struct ifinfomsg`.
fn push_about(batch: &mut Batch, kind: u16, family: u8, index: u32) {
    let mut header = [0; INTERFACE_HEADER];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    batch.request(kind, 0, &header);
}

/// A request to make an interface, with its `struct ifinfomsg`.
fn push_new(batch: &mut Batch) {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    batch.request(libc::RTM_NEWLINK, flags, &[0; INTERFACE_HEADER]);
}

/// A name as the kernel takes it, with its NUL.
fn text(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
