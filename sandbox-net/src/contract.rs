//! Between the contract (`sandbox-core`) and this crate: what a spec asks for, and errors about its fields.

use std::io;
use std::path::PathBuf;

use sandbox_core::spec::{BridgeSpec, CniSpec, NetworkSpec, PortProtocol, PortSpec};
use sandbox_core::{Error, ErrorKind, NetworkState};

use crate::{
    AttachRequest, Attachment, BridgeSettings, CniAttachment, CniRequest, Ipv4Cidr, MacAddress, NetError, Protocol,
    PublishedPort,
};

impl AttachRequest {
    /// What `bridge` of `network`, at `field` in the spec of the sandbox `id`, asks for.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] with the field.
    pub fn from_spec(id: &str, network: &NetworkSpec, bridge: &BridgeSpec, field: &str) -> Result<Self, Error> {
        let at = |name: &str| format!("{field}.{name}");
        let parse = |text: &str| text.parse::<Ipv4Cidr>();
        let subnet = bridge.subnet.as_deref().map(parse).transpose();
        let subnet = subnet.map_err(|error| error.about(&at("bridge.subnet")))?;
        let address = network.guest_address.as_deref().map(parse).transpose();
        let address = address.map_err(|error| error.about(&at("guest_address")))?;
        let mac = network.mac.as_deref().map(str::parse::<MacAddress>).transpose();
        Ok(Self {
            id: id.to_owned(),
            bridge: BridgeSettings {
                name: bridge.name.clone(),
                subnet,
                isolated: bridge.isolated,
            },
            address: address.map(Ipv4Cidr::address),
            mac: mac.map_err(|error| error.about(&at("mac")))?,
            mtu: network.mtu.map(u32::from),
            ports: bridge.ports.iter().map(published).collect(),
        })
    }
}

impl CniRequest {
    /// What `cni` asks for the sandbox `id`, whose `interface` is to be made in the namespace at `namespace`.
    pub fn from_spec(id: &str, cni: &CniSpec, namespace: PathBuf, interface: String) -> Self {
        Self {
            id: id.to_owned(),
            configuration: cni.config.clone(),
            plugin_folders: cni.plugin_dirs.clone(),
            namespace,
            interface,
            ports: cni.ports.iter().map(published).collect(),
        }
    }
}

impl Attachment {
    /// What there is to tell of the network `id`.
    pub fn state(&self, id: &str) -> NetworkState {
        NetworkState {
            id: id.to_owned(),
            interface: Some(self.interface().to_owned()),
            address: Some(self.address().to_string()),
            gateway: Some(self.gateway()),
            mac: Some(self.mac().to_string()),
            ports: self.ports().iter().map(told).collect(),
        }
    }
}

impl CniAttachment {
    /// What there is to tell of the network `id`.
    pub fn state(&self, id: &str) -> NetworkState {
        let first = self.addresses().first();
        let gateway = self.ipv4().and_then(|(_, address)| address.gateway);
        NetworkState {
            id: id.to_owned(),
            interface: None,
            address: first.map(|address| format!("{}/{}", address.address, address.prefix_len)),
            gateway: gateway.and_then(|gateway| match gateway {
                std::net::IpAddr::V4(gateway) => Some(gateway),
                std::net::IpAddr::V6(_) => None,
            }),
            mac: None,
            ports: self.ports().iter().map(told).collect(),
        }
    }
}

fn published(port: &PortSpec) -> PublishedPort {
    PublishedPort {
        protocol: match port.protocol {
            PortProtocol::Tcp => Protocol::Tcp,
            PortProtocol::Udp => Protocol::Udp,
        },
        host_address: port.host_address,
        host_port: port.host,
        guest_port: port.guest,
    }
}

fn told(port: &PublishedPort) -> PortSpec {
    PortSpec {
        host: port.host_port,
        guest: port.guest_port,
        protocol: match port.protocol {
            Protocol::Tcp => PortProtocol::Tcp,
            Protocol::Udp => PortProtocol::Udp,
        },
        host_address: port.host_address,
    }
}

impl NetError {
    /// The contract's kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::AddressPoolExhausted { .. } => ErrorKind::HostExhausted,
            Self::AlreadyExists { .. } | Self::BridgeTaken { .. } | Self::BridgeDiffers { .. } => {
                ErrorKind::AlreadyExists
            }
            Self::InUse { .. } | Self::AddressTaken { .. } | Self::PortTaken { .. } | Self::SubnetTaken { .. } => {
                ErrorKind::InUse
            }
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::PermissionDenied { .. } | Self::TunDeviceForbidden => ErrorKind::PermissionDenied,
            Self::TunDeviceMissing | Self::UnsupportedOffloads { .. } | Self::CommandMissing { .. } => {
                ErrorKind::Unsupported
            }
            Self::Os { source, .. } | Self::State { source, .. } => kind_of(source),
            Self::InvalidAddress { .. }
            | Self::InvalidMac { .. }
            | Self::InvalidMtu { .. }
            | Self::InvalidName { .. }
            | Self::CniConfiguration { .. }
            | Self::DescriptorNotATap { .. }
            | Self::MissingFlag { .. }
            | Self::NotANamespace { .. }
            | Self::NotATap { .. } => ErrorKind::InvalidSpec,
            Self::Cni { .. } | Self::CommandFailed { .. } | Self::FrameRejected { .. } | Self::LinkDown { .. } => {
                ErrorKind::HostFailure
            }
        }
    }

    /// The same as an error of the contract, about `field` of the spec.
    pub fn about(self, field: &str) -> Error {
        let error = Error::new(self.kind(), self.to_string()).with_field(field.to_owned());
        match self {
            Self::Os { source, .. } | Self::State { source, .. } | Self::FrameRejected { source, .. } => {
                error.with_source(source)
            }
            _ => error,
        }
    }

    /// The same about the network at `field` of the spec, or about that part of its bridge which is at fault.
    pub fn about_bridge(self, field: &str) -> Error {
        let part = match &self {
            Self::BridgeTaken { .. } | Self::InvalidName { .. } => "bridge.name".to_owned(),
            Self::BridgeDiffers { setting, .. } => format!("bridge.{setting}"),
            Self::SubnetTaken { .. } | Self::AddressPoolExhausted { .. } => "bridge.subnet".to_owned(),
            Self::PortTaken { index, .. } => format!("bridge.ports[{index}].host"),
            Self::AddressTaken { .. } => "guest_address".to_owned(),
            Self::InvalidAddress { address, .. } if !address.contains('/') => "guest_address".to_owned(),
            Self::InvalidAddress { .. } => "bridge.subnet".to_owned(),
            Self::InvalidMtu { .. } => "mtu".to_owned(),
            _ => "bridge".to_owned(),
        };
        self.about(&format!("{field}.{part}"))
    }
}

fn kind_of(error: &io::Error) -> ErrorKind {
    match error.raw_os_error() {
        Some(libc::ENOENT) => ErrorKind::NotFound,
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => ErrorKind::PermissionDenied,
        Some(libc::EBUSY | libc::EADDRINUSE) => ErrorKind::InUse,
        Some(libc::EADDRNOTAVAIL) => ErrorKind::InvalidSpec,
        Some(libc::EEXIST) => ErrorKind::AlreadyExists,
        // EXFULL: a bridge takes 1023 ports.
        Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOSPC | libc::EXFULL) => {
            ErrorKind::HostExhausted
        }
        _ => ErrorKind::HostFailure,
    }
}
