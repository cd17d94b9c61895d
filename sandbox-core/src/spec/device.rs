//! Disks, networks and the other devices.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::network::{BridgeSpec, CniSpec};
use crate::limits::RateLimit;

/// A disk: a raw image file or a block device of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Name, unique among the disks; the guest sees its first 20 bytes as the serial number.
    pub id: String,
    /// The file on the host.
    pub path: PathBuf,
    /// Whether the guest may only read. A file that is written must not be used by anybody else.
    #[serde(default)]
    pub read_only: bool,
    /// Whether what the guest writes stays beside the file, in host memory, and goes with the sandbox. The file is only
    /// read then, and any number of sandboxes can share it.
    #[serde(default)]
    pub private: bool,
    /// Limits.
    #[serde(default)]
    pub rate_limit: RateLimit,
}

/// A network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Name, unique among the networks.
    pub id: String,
    /// The host's end of a micro-VM's card, where neither `bridge` nor `cni` is given.
    #[serde(default)]
    pub tap: TapSpec,
    /// A network namespace that exists, by path, such as `/run/netns/NAME`: a container is put into it as it is; a
    /// micro-VM's tap is the one of it, or is made in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// A bridge that the SDK manages: addresses, NAT, published ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeSpec>,
    /// CNI plugins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<CniSpec>,
    /// MAC address, `xx:xx:xx:xx:xx:xx`; one is made up if left out, on a managed bridge from the address: `02:53`, then
    /// the four bytes of the IPv4 address, so that a guest that cannot be told its address can read it off its card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Largest frame payload in bytes; the tap's own if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The guest's address, `a.b.c.d/prefix`, told to guests whose family can be told. On a managed bridge the address
    /// to lease, with the prefix of the bridge's network; one that is free if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_address: Option<String>,
    /// The guest's gateway, told likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// Limits of what the guest receives.
    #[serde(default)]
    pub receive_limit: RateLimit,
    /// Limits of what the guest sends.
    #[serde(default)]
    pub send_limit: RateLimit,
}

/// The host's end of a network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum TapSpec {
    /// A tap that exists, by name.
    Name(String),
    /// A tap that the embedder opened and stays owner of, by descriptor; it is duplicated.
    Fd(i32),
    /// A tap that is made for the sandbox and goes with it.
    Create {
        /// Interface name; the kernel chooses one if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The host's own address on it, `a.b.c.d/prefix`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host_address: Option<String>,
    },
}

impl Default for TapSpec {
    fn default() -> Self {
        TapSpec::Create {
            name: None,
            host_address: None,
        }
    }
}

/// Sockets between host and guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VsockSpec {
    /// The guest's context identifier, 3 to 4294967294.
    pub cid: u32,
    /// Unix socket for connections to the guest (`CONNECT port` is its first line); the guest's connections to host
    /// port N go to this path with `_N` appended.
    pub path: PathBuf,
}

/// A device by which the guest gives memory back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BalloonSpec {
    /// Memory to take at the start, in bytes, a multiple of 4096.
    pub size: u64,
    /// Let the guest take it back before it runs out of memory.
    pub deflate_on_oom: bool,
    /// Let the guest report pages it does not use.
    pub free_page_reporting: bool,
    /// Let the guest report statistics, which `Stats` then has.
    pub statistics: bool,
}
