//! Everything of the host that a spec names, opened.
//!
//! This is the seam between the two homes of a micro-VM. What is opened by name is opened here, in the embedder's
//! process; what is made of it is made behind, be it in the same process or in a worker that was handed the descriptors
//! and can open nothing itself.

use std::fs::File;
use std::sync::Arc;

use sandbox_core::Result;
use sandbox_core::spec::SandboxSpec;

use super::network::OpenNetwork;
use super::{Draft, Library, disk, network, others, refuse_what_is_missing};
use crate::boot::store::{StoredInitrd, StoredKernel};
use crate::devices::virtio::vsock::HostSockets;
use crate::dialect;
use crate::machine::host::KvmHost;
use crate::memory::fault_server::FaultRights;
use crate::sandbox::ready::Readiness;

/// What the devices are made from, each list in the order of the spec.
#[derive(Default)]
pub struct OpenDevices {
    /// A file per disk, locked.
    pub disks: Vec<File>,
    /// A tap and an address per network card.
    pub networks: Vec<OpenNetwork>,
    /// The sockets of the socket device, if there is one.
    pub vsock: Option<HostSockets>,
}

/// What a micro-VM is made from.
pub struct Opened {
    /// The kernel.
    pub kernel: Arc<StoredKernel>,
    /// The initial RAM disk.
    pub initrd: Option<Arc<StoredInitrd>>,
    /// By what right a kernel that comes on demand is served.
    pub faults: FaultRights,
    /// For the devices.
    pub devices: OpenDevices,
}

/// A spec that was checked, with everything that it names opened.
pub struct Prepared<'a> {
    /// What follows from it.
    pub draft: Draft<'a>,
    /// What it is made from.
    pub opened: Opened,
    /// How its readiness is known.
    pub readiness: Readiness,
}

/// Checks `spec` and opens what it names; what can be refused is refused here. Taps that it creates vanish when they
/// are dropped.
pub fn open<'a>(host: &KvmHost, library: &Library, spec: &'a SandboxSpec) -> Result<Prepared<'a>> {
    spec.validate()?;
    refuse_what_is_missing(host, spec)?;
    let kernel = library.kernel(spec)?;
    let plan = dialect::select(spec, kernel.image())?.plan(spec, kernel.image())?;
    let initrd = library.initrd(&plan)?;
    let draft = Draft::new(host, spec, plan, &kernel)?;
    let readiness = Readiness::new(spec.ready.as_ref())?;
    let devices = open_devices(spec)?;
    let opened = Opened {
        kernel,
        initrd,
        faults: FaultRights::Own,
        devices,
    };
    Ok(Prepared {
        draft,
        opened,
        readiness,
    })
}

/// Opens what the devices of `spec` need.
pub fn open_devices(spec: &SandboxSpec) -> Result<OpenDevices> {
    let disks = spec.disks.iter().enumerate();
    let networks = spec.networks.iter().enumerate();
    Ok(OpenDevices {
        disks: disks
            .map(|(index, disk)| disk::open(disk, &format!("disks[{index}]")))
            .collect::<Result<_>>()?,
        networks: networks
            .map(|(index, network)| network::open(network, &format!("networks[{index}]")))
            .collect::<Result<_>>()?,
        vsock: match &spec.vsock {
            Some(vsock) => Some(HostSockets::listen(&vsock.path).map_err(others::vsock_error)?),
            None => None,
        },
    })
}
