//! Where an instance has its place on the host's network: what only one at a time can have.

use std::net::SocketAddr;

use sandbox::spec::{BridgeSpec, GuestSpec, NetworkSpec, TapSpec};
use sandbox_net::{
    AddressLease, AddressPool, AttachRequest, BridgeSettings, CloneNetwork, GuestNetwork, Ipv4Cidr, NetError,
};

/// The name of an instance's network in its document.
pub(super) const NETWORK: &str = "net";
/// Where instances get their addresses from.
pub struct Networks {
    /// Of micro-VMs, each of which has a tap and a subnet of its own.
    pub micro_vms: AddressPool,
    /// Of containers, and of clones that are reached by translation, which share a bridge.
    pub containers: AddressPool,
    /// The bridge's name.
    pub bridge: String,
}

impl Networks {
    fn shared_bridge(&self) -> BridgeSettings {
        BridgeSettings {
            name: self.bridge.clone(),
            subnet: Some(self.containers.network()),
            isolated: true,
        }
    }
}

/// An instance's name and addresses. Dropping it gives them back.
pub(super) struct Place {
    pub(super) name: String,
    /// Where the instance serves.
    pub(super) address: SocketAddr,
    /// The name of its tap; the kernel's choice if left out.
    pub(super) tap_name: Option<String>,
    // Goes before the address that it has.
    network: Option<CloneNetwork>,
    lease: AddressLease,
}

impl Place {
    /// A place at the address of `lease`.
    pub(super) fn new(name: String, port: u16, lease: AddressLease) -> Self {
        Self {
            name,
            address: SocketAddr::from((lease.guest().address(), port)),
            tap_name: None,
            network: None,
            lease,
        }
    }

    /// Makes the network of a clone whose guest goes on with the addresses that it `known`s, and is reached by that of
    /// this place.
    pub(super) fn translate(&mut self, networks: &Networks, known: &GuestNetwork) -> Result<(), NetError> {
        let request = AttachRequest {
            // Another platform on this host may have an instance of the same name.
            id: format!("{}-{:x}", self.name, std::process::id()),
            bridge: networks.shared_bridge(),
            address: Some(self.lease.guest().address()),
            mac: None,
            mtu: None,
            ports: Vec::new(),
        };
        self.network = Some(sandbox_net::Networks::default().clone_network(&request, known)?);
        Ok(())
    }

    /// The network of a clone, if it has one of its own.
    pub(super) fn clone_network(&self) -> Option<&CloneNetwork> {
        self.network.as_ref()
    }

    /// The guest's address, with the prefix length of its network.
    pub(super) fn guest(&self) -> Ipv4Cidr {
        self.lease.guest()
    }

    /// The host's.
    pub(super) fn host(&self) -> Ipv4Cidr {
        self.lease.host()
    }

    /// A tap that is made for the instance, with the host's address.
    pub(super) fn tap(&self) -> TapSpec {
        TapSpec::Create {
            name: self.tap_name.clone(),
            host_address: Some(self.host().to_string()),
        }
    }

    /// How a document says that its guest's network is this one; containers share a bridge.
    pub(super) fn network_spec(&self, guest: &GuestSpec, networks: &Networks) -> NetworkSpec {
        match guest {
            GuestSpec::Container(_) => self.on_bridge(networks.shared_bridge()),
            // Only a unikernel's family can be told its address by the SDK; others find it among the words of their
            // documents.
            GuestSpec::Unikernel(_) => NetworkSpec {
                guest_address: Some(self.guest().to_string()),
                gateway: Some(self.host().address()),
                ..self.on_tap()
            },
            _ => self.on_tap(),
        }
    }

    fn on_tap(&self) -> NetworkSpec {
        NetworkSpec {
            id: NETWORK.to_owned(),
            tap: self.tap(),
            ..NetworkSpec::default()
        }
    }

    fn on_bridge(&self, bridge: BridgeSettings) -> NetworkSpec {
        NetworkSpec {
            id: NETWORK.to_owned(),
            bridge: Some(BridgeSpec {
                name: bridge.name,
                subnet: bridge.subnet.map(|subnet| subnet.to_string()),
                isolated: bridge.isolated,
                ports: Vec::new(),
            }),
            guest_address: Some(self.guest().to_string()),
            ..NetworkSpec::default()
        }
    }
}
