//! Host side of sandbox networking, for virtual machines and containers alike.
//!
//! [`Networks`] are what most sandboxes are attached to: a managed bridge with
//! addresses, a way out and published ports, by a tap
//! ([`Networks::attach_tap`]) or a network namespace
//! ([`Networks::attach_namespace`]); CNI plugins ([`Networks::attach_cni`]);
//! and a network for each clone of a guest that has one address
//! ([`Networks::clone_network`]). What is made is written down, so that
//! [`Networks::sweep`] can remove what a dead process left.
//!
//! Beneath them are the parts. A virtual machine's network card is the far end of a [`Tap`]. The host's end is
//! given its address and brought up by [`LinkControl`], with an address leased
//! from an [`AddressPool`]:
//!
//! ```no_run
//! use sandbox_net::{AddressPool, LinkControl, LinkSettings, NetError, Offloads, Tap};
//!
//! # fn main() -> Result<(), NetError> {
//! let pool = AddressPool::subnets("172.30.0.0/16".parse()?)?;
//! let lease = pool.lease()?;
//! let tap = Tap::create()?;
//! tap.set_offloads(Offloads::CSUM | Offloads::TSO4)?;
//! LinkControl::open()?.configure(
//!     tap.name(),
//!     &LinkSettings {
//!         address: Some(lease.host()),
//!         bring_up: true,
//!         no_ipv6_link_local: true,
//!         ..LinkSettings::default()
//!     },
//! )?;
//! # Ok(())
//! # }
//! ```
//!
//! Other programs are run for two things only: `nft` for packet filter rules,
//! and CNI plugins. Everything acts in the network namespace
//! of the calling thread, and whatever a failed call had made is gone when it
//! returns, except where its documentation says otherwise.

mod address;
mod bridge;
mod clone;
mod cni;
mod command;
mod container;
mod contract;
mod error;
mod interface;
mod link;
mod mac;
mod name;
mod namespace;
mod netlink;
mod nft;
mod offloads;
mod own_namespace;
mod pool;
mod port;
mod records;
mod routes;
mod sys;
mod sysctl;
mod tap;

pub use address::Ipv4Cidr;
pub use bridge::{AttachRequest, Attachment, BridgeSettings, DEFAULT_RECORDS, Networks};
pub use clone::{CloneNetwork, GuestNetwork};
pub use cni::{CniAddress, CniAttachment, CniRequest, CniTap, DEFAULT_PLUGIN_FOLDERS};
pub use container::ContainerNetworks;
pub use error::NetError;
pub use link::{LinkControl, LinkSettings, LinkState};
pub use mac::MacAddress;
pub use namespace::NetNamespace;
pub use offloads::Offloads;
pub use own_namespace::OwnNamespace;
pub use pool::{AddressLease, AddressPool};
pub use port::{Protocol, PublishedPort};
pub use tap::{Tap, VNET_HEADER_SIZE};
