//! Networks that the SDK manages, and those that others do.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A bridge that the SDK manages, shared by all sandboxes that name it: each gets an address on it, reaches the host and
/// by the host's address what is beyond, and can have ports of the host lead to it. The bridge comes with the first
/// sandbox and goes with the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BridgeSpec {
    /// Interface name, 1 to 15 of `a-z A-Z 0-9 . _ -`. Whoever names the same bridge shares it.
    #[serde(default = "default_bridge")]
    pub name: String,
    /// Its network, `a.b.c.d/prefix` with a prefix of 8 to 30 bits; the first address is the host's. The one that it
    /// has, or one that is free, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Keep sandboxes on the bridge from reaching each other, also by published ports. All that share a bridge must say
    /// the same.
    #[serde(default = "default_isolated")]
    pub isolated: bool,
    /// Ports of the host that lead to the sandbox.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
}

fn default_bridge() -> String {
    "sandbox0".to_owned()
}

fn default_isolated() -> bool {
    true
}

impl Default for BridgeSpec {
    fn default() -> Self {
        Self {
            name: default_bridge(),
            subnet: None,
            isolated: default_isolated(),
            ports: Vec::new(),
        }
    }
}

/// A port of the host that leads to a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// The host's port; 0 for one that is free, which [`crate::Sandbox::networks`] then tells.
    pub host: u16,
    /// The sandbox's port.
    pub guest: u16,
    /// The protocol.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// The host's address at which it is published; all of them, 127.0.0.1 included, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_address: Option<Ipv4Addr>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A network made by CNI plugins (Container Network Interface specification 1.0).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CniSpec {
    /// The network configuration: a list (`.conflist`) or a single plugin's (`.conf`).
    pub config: PathBuf,
    /// Folders in which the plugins are; `/opt/cni/bin` and `/usr/lib/cni` if left out.
    #[serde(default)]
    pub plugin_dirs: Vec<PathBuf>,
    /// Ports of the host that lead to the sandbox; needs a plugin with the capability `portMappings`.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
}
