//! Network cards: the tap, the interface's settings, the card's address.

use std::os::fd::BorrowedFd;

use sandbox_core::spec::{NetworkSpec, TapSpec};
use sandbox_core::{Error, ErrorKind, Result};
use sandbox_net::{Ipv4Cidr, LinkControl, LinkSettings, MacAddress, NetError, Offloads, Tap};

use crate::devices::hvt::HvtCard;
use crate::devices::virtio::net::{Net, NetConfig};
use crate::error::{kind_of, with_cause};
use crate::random::random_bytes;

/// MTU of Ethernet, in bytes.
const ETHERNET_MTU: u16 = 1500;

/// The host's side of a card, opened.
pub struct OpenNetwork {
    /// The tap.
    pub tap: Tap,
    /// The card's address.
    pub mac: MacAddress,
}

/// Opens what `network` needs, which stands at `field` in the spec.
pub(super) fn open(network: &NetworkSpec, field: &str) -> Result<OpenNetwork> {
    let mac = mac_address(network, field)?;
    let tap = open_tap(network, field)?;
    Ok(OpenNetwork { tap, mac })
}

/// The card before `opened`.
pub(super) fn device(network: &NetworkSpec, opened: OpenNetwork, field: &str) -> Result<Net> {
    let config = NetConfig {
        mtu: network.mtu,
        rx_limit: network.receive_limit,
        tx_limit: network.send_limit,
        ..NetConfig::new(opened.mac.octets())
    };
    Net::new(config, Box::new(opened.tap))
        .map_err(|error| with_cause(ErrorKind::HostExhausted, error).with_field(field.to_owned()))
}

/// The same behind hypercalls. The host must not leave anything undone in the frames: there is nobody to do it.
pub(super) fn hvt_device(network: &NetworkSpec, opened: OpenNetwork) -> std::result::Result<HvtCard, NetError> {
    opened.tap.set_offloads(Offloads::NONE)?;
    let mtu = network.mtu.unwrap_or(ETHERNET_MTU);
    Ok(HvtCard::new(opened.tap, opened.mac.octets(), mtu))
}

fn mac_address(network: &NetworkSpec, field: &str) -> Result<MacAddress> {
    let field = format!("{field}.mac");
    let Some(text) = &network.mac else {
        return random_mac(field);
    };
    let mac: MacAddress = text.parse().map_err(|error: NetError| error.about(&field))?;
    match mac.is_unicast() {
        true => Ok(mac),
        false => Err(Error::invalid(
            field,
            format!("{mac} is a multicast address; a card has a unicast one"),
        )),
    }
}

fn random_mac(field: String) -> Result<MacAddress> {
    match random_bytes() {
        Ok(seed) => Ok(MacAddress::from_seed(u64::from_ne_bytes(seed))),
        Err(error) => {
            let context = "the host gives no random numbers to make one up; name one";
            Err(Error::new(ErrorKind::HostFailure, context)
                .with_field(field)
                .with_source(error))
        }
    }
}

/// Opens the tap of `network`, which stands at `field` in the spec, in the calling thread's network namespace.
pub fn open_tap(network: &NetworkSpec, field: &str) -> Result<Tap> {
    match &network.tap {
        TapSpec::Name(name) => {
            let field = format!("{field}.tap.name");
            let tap = Tap::open(name).map_err(|error| error.about(&field))?;
            let settings = LinkSettings {
                mtu: network.mtu.map(u32::from),
                ..LinkSettings::default()
            };
            configure(&tap, &settings, field)?;
            Ok(tap)
        }
        TapSpec::Fd(fd) => {
            let field = format!("{field}.tap.fd");
            Tap::from_fd(duplicate(*fd, &field)?).map_err(|error| error.about(&field))
        }
        TapSpec::Create { name, host_address } => {
            let field = format!("{field}.tap.create");
            let tap = match name {
                Some(name) => Tap::create_named(name),
                None => Tap::create(),
            };
            let tap = tap.map_err(|error| error.about(&field))?;
            let address = host_address.as_deref().map(str::parse::<Ipv4Cidr>).transpose();
            let settings = LinkSettings {
                address: address.map_err(|error| error.about(&format!("{field}.host_address")))?,
                mtu: network.mtu.map(u32::from),
                bring_up: true,
                // Or the host sends an idle guest frames that it must wake up for.
                no_ipv6_link_local: true,
            };
            configure(&tap, &settings, field)?;
            Ok(tap)
        }
        other => Err(Error::unsupported(
            format!("{field}.tap"),
            format!("this backend has no {other:?}"),
        )),
    }
}

fn configure(tap: &Tap, settings: &LinkSettings, field: String) -> Result<()> {
    if *settings == LinkSettings::default() {
        return Ok(());
    }
    let configured = LinkControl::open().and_then(|mut links| links.configure(tap.name(), settings));
    configured.map_err(|error| error.about(&field))
}

/// The embedder stays owner of its descriptor.
fn duplicate(fd: i32, field: &str) -> Result<std::os::fd::OwnedFd> {
    if fd < 0 {
        return Err(Error::invalid(field.to_owned(), format!("{fd} is no descriptor")));
    }
    // SAFETY: the descriptor is borrowed for this call alone; one that is not open is refused by the kernel.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map_err(|error| {
        let kind = match error.raw_os_error() {
            Some(libc::EBADF) => ErrorKind::InvalidSpec,
            _ => kind_of(&error),
        };
        let context = format!("descriptor {fd} cannot be duplicated; pass an open tap");
        Error::new(kind, context)
            .with_field(field.to_owned())
            .with_source(error)
    })
}
