//! Handing a sandbox over: from what the embedder opened to messages and descriptors, and back.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use sandbox_core::spec::SandboxSpec;
use sandbox_core::{Error, ErrorKind, Result};
use sandbox_net::{MacAddress, Tap};

use super::protocol::Launch;
use super::protocol::channel::Channel;
use crate::assemble::{OpenDevices, OpenNetwork, Opened};
use crate::boot::store::{InitrdParts, KernelParts};
use crate::devices::virtio::vsock::{Connector, HostSockets};

/// The message for a sandbox, and the descriptors that go with it. `broker` is the worker's end, for a sandbox with a
/// socket device.
pub fn hand_over<'a>(
    id: &str,
    spec: &SandboxSpec,
    opened: &'a Opened,
    broker: Option<&'a Channel>,
) -> (Launch, Vec<BorrowedFd<'a>>) {
    let mut fds = Vec::new();
    let (kernel, file) = KernelParts::of(&opened.kernel);
    fds.extend(file);
    let initrd = opened.initrd.as_deref().map(|initrd| {
        let (parts, file) = InitrdParts::of(initrd);
        fds.extend(file);
        parts
    });
    let devices = &opened.devices;
    fds.extend(devices.disks.iter().map(AsFd::as_fd));
    fds.extend(devices.networks.iter().map(|network| network.tap.as_fd()));
    if let (Some(sockets), Some(broker)) = (&devices.vsock, broker) {
        fds.push(sockets.listener.as_fd());
        fds.push(broker.as_fd());
    }
    let launch = Launch {
        id: id.to_owned(),
        spec: spec.to_json(),
        cpu_timeline: false,
        cpu_from_birth: false,
        kernel,
        initrd,
        macs: devices.networks.iter().map(|network| network.mac.octets()).collect(),
    };
    (launch, fds)
}

/// What the embedder opened, of the parts of a message and the descriptors that came with it.
pub fn take_over(
    spec: &SandboxSpec,
    kernel: KernelParts,
    initrd: Option<InitrdParts>,
    macs: &[[u8; 6]],
    fds: Vec<OwnedFd>,
) -> Result<Opened> {
    let mut fds = fds.into_iter();
    let kernel_file = kernel.has_file().then(|| fds.next()).flatten();
    let kernel = kernel.into_kernel(kernel_file).ok_or_else(incomplete)?;
    let initrd = match initrd {
        Some(parts) => {
            let file = parts.has_file().then(|| fds.next()).flatten();
            Some(Arc::new(parts.into_initrd(file).ok_or_else(incomplete)?))
        }
        None => None,
    };
    let mut next = || fds.next().ok_or_else(incomplete);
    let disks = spec
        .disks
        .iter()
        .map(|_| next().map(File::from))
        .collect::<Result<_>>()?;
    let mut networks = Vec::with_capacity(macs.len());
    for octets in macs {
        let tap = Tap::from_fd(next()?).map_err(|error| {
            let context = "the tap that was handed over cannot be used";
            Error::new(ErrorKind::HostFailure, context).with_source(error)
        })?;
        let mac = MacAddress::new(*octets);
        networks.push(OpenNetwork { tap, mac });
    }
    let vsock = match &spec.vsock {
        Some(_) => Some(HostSockets {
            listener: next()?.into(),
            connector: Box::new(Asker(Channel::from_fd(next()?))),
        }),
        None => None,
    };
    Ok(Opened {
        kernel: Arc::new(kernel),
        initrd,
        devices: OpenDevices { disks, networks, vsock },
    })
}

fn incomplete() -> Error {
    Error::new(ErrorKind::HostFailure, "the embedder handed over too few descriptors")
}

/// Has the embedder connect the guest to the host.
struct Asker(Channel);

impl Connector for Asker {
    fn connect(&mut self, port: u32) -> std::io::Result<std::os::unix::net::UnixStream> {
        use super::protocol::channel::ChannelError;
        let lost = |error: ChannelError| std::io::Error::other(error);
        self.0.send(&port, &[], LONGEST_ANSWER).map_err(lost)?;
        let (connected, fds): (bool, Vec<OwnedFd>) = self.0.receive_within(LONGEST_ANSWER).map_err(lost)?;
        match (connected, fds.into_iter().next()) {
            (true, Some(fd)) => Ok(fd.into()),
            _ => Err(std::io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

/// The guest's vCPU waits meanwhile. The embedder answers without waiting for anybody.
const LONGEST_ANSWER: std::time::Duration = std::time::Duration::from_secs(2);
