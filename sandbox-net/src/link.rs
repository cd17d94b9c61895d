//! The host's end of an interface: address, MTU, up or down.
//!
//! Changes go over rtnetlink and not over the older ioctls, because
//! `SIOCSIFADDR` first gives an address the prefix of its class: on an interface
//! that is up, all of 10.0.0.0/8 would be routed to a guest until
//! `SIOCSIFNETMASK` follows. An address and its prefix are one request here.
//! What is only read is read by ioctl, on the same socket.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::netlink::{Batch, Refusal, attribute};
use crate::sys::{self, InterfaceIoctl, InterfaceRequest};
use crate::{Ipv4Cidr, MacAddress, NetError, name};

/// What to change on an interface. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkSettings {
    /// Address to add. The network it names is reached through the interface.
    pub address: Option<Ipv4Cidr>,
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: Option<u32>,
    /// Whether to bring the interface up. `false` leaves it as it is.
    pub bring_up: bool,
    /// Whether to keep the host from giving the interface an IPv6 link-local
    /// address when it comes up. `false` leaves this as it is.
    ///
    /// The host announces such an address with half a dozen frames over the
    /// first five seconds, each of which wakes an idle guest, and lets the guest
    /// reach host services over it that were meant to be reached over IPv4
    /// only, if at all.
    pub no_ipv6_link_local: bool,
}

/// What an interface is like at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// The interface's number in its network namespace.
    pub index: u32,
    /// Whether it was brought up (`IFF_UP`).
    pub is_up: bool,
    /// Whether frames can pass (`IFF_RUNNING`): it is up and, for a tap,
    /// somebody is attached.
    pub is_running: bool,
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// The host's hardware address on it. All zero on interfaces that have none.
    pub mac: MacAddress,
}

/// A socket through which interfaces are looked at and configured, in the
/// network namespace of the thread that opened it.
#[derive(Debug)]
pub struct LinkControl {
    socket: File,
    next_sequence: u32,
}

/// The requests of one configuration, by their number in the batch.
#[derive(Debug, Default)]
struct Plan {
    ipv6: Option<u32>,
    address: Option<u32>,
}

impl LinkControl {
    /// Opens the socket; no privilege is needed for that.
    ///
    /// # Errors
    /// [`NetError::Os`] if the process or the host has no descriptor left.
    pub fn open() -> Result<Self, NetError> {
        let socket = sys::route_socket().map_err(|source| NetError::Os {
            name: "*".into(),
            action: "open a socket to configure interfaces",
            source,
        })?;
        Ok(Self {
            socket,
            next_sequence: 1,
        })
    }

    /// The index of the interface `name`.
    ///
    /// # Errors
    /// [`NetError::InvalidName`] or [`NetError::NotFound`].
    pub fn index(&self, name: &str) -> Result<u32, NetError> {
        Ok(self.query(name, InterfaceIoctl::Index)?.integer())
    }

    /// What the interface `name` is like now.
    ///
    /// # Errors
    /// [`NetError::InvalidName`] or [`NetError::NotFound`].
    pub fn state(&self, name: &str) -> Result<LinkState, NetError> {
        let index = self.index(name)?;
        let flags = self.query(name, InterfaceIoctl::Flags)?.flags();
        let mtu = self.query(name, InterfaceIoctl::Mtu)?.integer();
        let mac = self.query(name, InterfaceIoctl::HardwareAddress)?;
        Ok(LinkState {
            index,
            is_up: flags & libc::IFF_UP != 0,
            is_running: flags & libc::IFF_RUNNING != 0,
            mtu,
            mac: MacAddress::new(mac.hardware_address()),
        })
    }

    /// Changes the interface `name`: three system calls, whatever is asked for.
    ///
    /// An address that the interface has already, with the same prefix, counts
    /// as added.
    ///
    /// On failure the address is not there unless it was before. If it is the
    /// address that is refused, for want of memory, an interface that was
    /// brought up stays up.
    ///
    /// # Errors
    /// - [`NetError::InvalidName`] or [`NetError::NotFound`].
    /// - [`NetError::InvalidAddress`] if no host can have the address.
    /// - [`NetError::InvalidMtu`] if the interface does not take the MTU.
    /// - [`NetError::PermissionDenied`] without `CAP_NET_ADMIN`.
    pub fn configure(&mut self, name: &str, settings: &LinkSettings) -> Result<(), NetError> {
        if let Some(address) = settings.address {
            check_host_address(address)?;
        }
        let index = self.index(name)?;
        let mut batch = Batch::new(self.next_sequence);
        let plan = plan(&mut batch, index, settings);
        let refusals = self
            .exchange(batch)
            .map_err(|source| NetError::from_os(name, "configure it", source))?;

        let Some(failure) = refusals.iter().find(|refusal| !plan.tolerates(refusal)) else {
            return Ok(());
        };
        let added_address = settings
            .address
            .filter(|_| !refusals.iter().any(|r| Some(r.request) == plan.address));
        if let Some(address) = added_address {
            // Its error is the one to report, and an interface that is gone by now needs no undoing.
            let _ = self.remove_address_of(index, address);
        }
        Err(plan.error(name, settings, failure))
    }

    /// Takes an address from the interface `name`.
    pub(crate) fn remove_address(&mut self, name: &str, address: Ipv4Cidr) -> Result<(), NetError> {
        let index = self.index(name)?;
        let refusals = self
            .remove_address_of(index, address)
            .map_err(|source| NetError::from_os(name, "remove an address", source))?;
        match refusals.first() {
            None => Ok(()),
            Some(refusal) => {
                let source = io::Error::from_raw_os_error(refusal.errno);
                Err(NetError::from_os(name, "remove an address", source))
            }
        }
    }

    fn remove_address_of(&mut self, index: u32, address: Ipv4Cidr) -> io::Result<Vec<Refusal>> {
        let mut batch = self.batch();
        push_address(&mut batch, libc::RTM_DELADDR, 0, index, address);
        self.exchange(batch)
    }

    /// An empty batch for [`LinkControl::exchange`].
    pub(crate) fn batch(&self) -> Batch {
        Batch::new(self.next_sequence)
    }

    pub(crate) fn exchange(&mut self, batch: Batch) -> io::Result<Vec<Refusal>> {
        self.next_sequence = self.next_sequence.wrapping_add(batch.len());
        batch.send(&self.socket)
    }

    fn query(&self, name: &str, operation: InterfaceIoctl) -> Result<InterfaceRequest, NetError> {
        name::check(name)?;
        let mut request = InterfaceRequest::new(name);
        sys::interface_ioctl(self.socket.as_fd(), operation, &mut request)
            .map_err(|source| NetError::from_os(name, "look it up", source))?;
        Ok(request)
    }
}

impl Plan {
    /// Whether a refusal means that what was asked for holds anyway.
    fn tolerates(&self, refusal: &Refusal) -> bool {
        if self.ipv6 == Some(refusal.request) {
            // No IPv6 in this kernel, or none on this interface.
            return matches!(refusal.errno, libc::EAFNOSUPPORT | libc::EOPNOTSUPP);
        }
        self.address == Some(refusal.request) && refusal.errno == libc::EEXIST
    }

    fn error(&self, name: &str, settings: &LinkSettings, failure: &Refusal) -> NetError {
        let source = io::Error::from_raw_os_error(failure.errno);
        let request = Some(failure.request);
        if request == self.ipv6 {
            return NetError::from_os(name, "turn its IPv6 link-local address off", source);
        }
        if request == self.address {
            return NetError::from_os(name, "add an address", source);
        }
        match settings.mtu {
            Some(mtu) if matches!(failure.errno, libc::EINVAL | libc::ERANGE) => NetError::InvalidMtu {
                name: name.to_owned(),
                mtu,
            },
            _ => NetError::from_os(name, "bring it up or set its mtu", source),
        }
    }
}

/// Writes the requests for `settings`. The order matters: IPv6 looks for its
/// address when the interface comes up, and the network becomes reachable once
/// rather than twice if the address is there by then.
fn plan(batch: &mut Batch, index: u32, settings: &LinkSettings) -> Plan {
    let mut plan = Plan::default();
    if settings.no_ipv6_link_local {
        plan.ipv6 = Some(push_link(batch, index, 0));
        let mode = attribute(INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
        let inet6 = attribute(libc::AF_INET6 as u16, &mode);
        batch.attribute(libc::IFLA_AF_SPEC, &inet6);
    }
    if let Some(address) = settings.address {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        plan.address = Some(push_address(batch, libc::RTM_NEWADDR, flags, index, address));
    }
    if settings.bring_up || settings.mtu.is_some() {
        let flags = if settings.bring_up { libc::IFF_UP } else { 0 };
        push_link(batch, index, flags as u32);
        if let Some(mtu) = settings.mtu {
            batch.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
    }
    plan
}

/// `IFLA_INET6_ADDR_GEN_MODE` of `linux/if_link.h`.
const INET6_ADDR_GEN_MODE: u16 = 8;
/// `IN6_ADDR_GEN_MODE_NONE` of `linux/if_link.h`.
const ADDR_GEN_MODE_NONE: u8 = 1;

/// A request to change a link, with its `struct ifinfomsg`. `flags` are set,
/// all others left alone.
fn push_link(batch: &mut Batch, index: u32, flags: u32) -> u32 {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    batch.request(libc::RTM_SETLINK, 0, &header)
}

/// A request about an address of a link, with its `struct ifaddrmsg`.
fn push_address(batch: &mut Batch, kind: u16, flags: i32, index: u32, address: Ipv4Cidr) -> u32 {
    let mut header = [0; 8];
    header[0] = libc::AF_INET as u8;
    header[1] = address.prefix_len();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let request = batch.request(kind, flags, &header);
    let octets = address.address().octets();
    batch.attribute(libc::IFA_LOCAL, &octets);
    batch.attribute(libc::IFA_ADDRESS, &octets);
    request
}

/// The kernel would take these and do nothing, or nothing useful.
fn check_host_address(cidr: Ipv4Cidr) -> Result<(), NetError> {
    let address = cidr.address();
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
        return Err(cidr.invalid("cannot be a host's: use a unicast address"));
    }
    Ok(())
}
