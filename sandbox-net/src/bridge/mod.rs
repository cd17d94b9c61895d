//! Managed bridges: one segment for many sandboxes, each with an address, a way out and ports that lead in.
//!
//! A bridge comes with the first sandbox that is attached to it and goes with the last one: interface, addresses,
//! packet filter table, and forwarding of packets, if that was off before. Any number of processes share a bridge; what
//! they must agree on stands in files (`/run/sandbox-sdk/net`), changed under a lock:
//!
//! ```text
//! bridges/NAMESPACE-NAME/lock       held while something changes
//! bridges/NAMESPACE-NAME/bridge     its network
//! bridges/NAMESPACE-NAME/leases/A   who has the address A; locked by its owner as long as that lives
//! NAMESPACE-forwarding              packets were not forwarded before the first bridge came
//! namespaces/ID                     network namespaces; their locks are in namespace-locks
//! ```

mod attachment;
mod forwarding;
mod lease;
mod managed;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::{Ipv4Cidr, MacAddress, NetError, NetNamespace, PublishedPort, Tap, records};

pub use attachment::Attachment;
pub(crate) use managed::ManagedBridge;

/// Where records are unless the embedder says otherwise. It must be gone after a restart of the host, as the networks
/// are.
pub const DEFAULT_RECORDS: &str = "/run/sandbox-sdk/net";

/// A managed bridge, as a sandbox asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSettings {
    /// Interface name.
    pub name: String,
    /// Its network, of 8 to 30 prefix bits; the first address is the host's. The present one, or a free one, if left
    /// out.
    pub subnet: Option<Ipv4Cidr>,
    /// Whether no sandbox on the bridge can reach another one, by its address or by a port that it has published. The
    /// host is reached either way.
    pub isolated: bool,
}

/// What a sandbox wants from a managed bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// The sandbox's name, for people who read the records.
    pub id: String,
    /// The bridge.
    pub bridge: BridgeSettings,
    /// The sandbox's address; one that is free if left out.
    pub address: Option<Ipv4Addr>,
    /// The card's hardware address, where the host sets it; one made from the address if left out.
    pub mac: Option<MacAddress>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Ports of the host that lead to the sandbox.
    pub ports: Vec<PublishedPort>,
}

/// The managed networks of a host, known by their records.
#[derive(Clone, Debug)]
pub struct Networks {
    records: PathBuf,
}

impl Default for Networks {
    fn default() -> Self {
        Self::new(Path::new(DEFAULT_RECORDS))
    }
}

impl Networks {
    /// The networks whose records are in this folder, which is made when it is needed.
    pub fn new(records: &Path) -> Self {
        Self {
            records: records.to_owned(),
        }
    }

    /// Attaches the network namespace of a container: makes `interface` in it, with address and default route.
    ///
    /// The bridge is in the calling thread's network namespace.
    ///
    /// # Errors
    /// - [`NetError::BridgeTaken`], [`NetError::BridgeDiffers`], [`NetError::SubnetTaken`]: the bridge cannot be had so.
    /// - [`NetError::AddressTaken`], [`NetError::AddressPoolExhausted`], [`NetError::InvalidAddress`]: no address.
    /// - [`NetError::PortTaken`]: a port cannot be published.
    /// - [`NetError::AlreadyExists`] if the namespace has such an interface.
    /// - [`NetError::PermissionDenied`] without `CAP_NET_ADMIN`, [`NetError::CommandMissing`] without `nft`.
    ///
    /// Nothing is left behind then.
    pub fn attach_namespace(
        &self,
        request: &AttachRequest,
        namespace: &NetNamespace,
        interface: &str,
    ) -> Result<Attachment, NetError> {
        let attachment = Attachment::lease(self, request)?;
        attachment.add_veth(request, namespace, interface)?;
        Ok(attachment)
    }

    /// Attaches a virtual machine: makes a tap that is a port of the bridge. The guest must be told its address.
    ///
    /// # Errors
    /// As [`Networks::attach_namespace`], and those of [`Tap::create_named`].
    pub fn attach_tap(&self, request: &AttachRequest) -> Result<(Attachment, Tap), NetError> {
        let attachment = Attachment::lease(self, request)?;
        let tap = attachment.add_tap(request)?;
        Ok((attachment, tap))
    }

    /// Finds what dead processes left in the calling thread's network namespace and removes it: interfaces, published
    /// ports, leases, bridges without sandboxes, namespaces, attachments by CNI. Returns the names of their sandboxes.
    ///
    /// # Errors
    /// The first thing that cannot be removed; the rest is removed all the same.
    pub fn sweep(&self) -> Result<Vec<String>, NetError> {
        let mut swept = Vec::new();
        let mut first_error = crate::cni::sweep(self, &mut swept);
        for bridge in ManagedBridge::all(self)? {
            let result = bridge.sweep(&mut swept);
            first_error = first_error.and(result);
        }
        first_error = first_error.and(managed::sweep_forwarding(self));
        first_error = first_error.and(crate::own_namespace::sweep(self, &mut swept));
        swept.sort();
        swept.dedup();
        first_error.map(|()| swept)
    }

    /// A folder of the records, which is there then.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, NetError> {
        let folder = self.records.join(name);
        records::make_folder(&folder)?;
        Ok(folder)
    }

    /// A folder of the records, there or not.
    pub(crate) fn folder_path(&self, name: &str) -> PathBuf {
        self.records.join(name)
    }
}
