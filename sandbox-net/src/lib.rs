//! Host side of sandbox networking: taps, the addresses on them, and the pool
//! those addresses come from.
//!
//! A sandbox's network card is the far end of a [`Tap`]. The host's end is
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
//! Nothing here runs another program. Everything acts in the network namespace
//! of the calling thread, and whatever a failed call had made is gone when it
//! returns, except where its documentation says otherwise.

mod address;
mod error;
mod link;
mod mac;
mod name;
mod netlink;
mod offloads;
mod pool;
mod sys;
mod tap;

pub use address::Ipv4Cidr;
pub use error::NetError;
pub use link::{LinkControl, LinkSettings, LinkState};
pub use mac::MacAddress;
pub use offloads::Offloads;
pub use pool::{AddressLease, AddressPool};
pub use tap::{Tap, VNET_HEADER_SIZE};
