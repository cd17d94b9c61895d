//! What a sandbox's networks turned out to be.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::spec::PortSpec;

/// A network card of a sandbox whose network the SDK made, with what the spec left open filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// The network's id in the spec.
    pub id: String,
    /// The host's interface, where there is one that is the sandbox's own.
    pub interface: Option<String>,
    /// The sandbox's address, `a.b.c.d/prefix`.
    pub address: Option<String>,
    /// By which it reaches everything else.
    pub gateway: Option<Ipv4Addr>,
    /// The card's MAC address.
    pub mac: Option<String>,
    /// Ports of the host that lead to it.
    pub ports: Vec<PortSpec>,
}
