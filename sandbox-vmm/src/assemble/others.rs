//! Socket device, entropy device and balloon.

use std::sync::Arc;

use sandbox_core::spec::{BalloonSpec, ReadyCheck, VsockSpec};
use sandbox_core::{Error, ErrorKind, Result};

use crate::devices::virtio::balloon::{BALLOON_PAGE_SIZE, Balloon, BalloonConfig};
use crate::devices::virtio::rng::{RngConfig, RngDevice};
use crate::devices::virtio::vsock::{HostSockets, ReadyPort, Vsock, VsockConfig, VsockError};
use crate::error::{kind_of, with_cause};
use crate::sandbox::Outlets;

/// The socket device before `sockets`; a guest's connection to the port of `check` makes it ready.
pub(super) fn vsock(
    vsock: &VsockSpec,
    sockets: HostSockets,
    check: Option<&ReadyCheck>,
    outlets: &Outlets,
) -> Result<Vsock> {
    let ready = match check {
        Some(ReadyCheck::Vsock { port }) => {
            let signal = outlets.ready.clone();
            Some(ReadyPort {
                port: *port,
                notify: Box::new(move || signal.give()),
            })
        }
        _ => None,
    };
    let confirmation = Arc::clone(&outlets.confirmation);
    let config = VsockConfig {
        guest_cid: vsock.cid,
        sockets,
        ready,
        confirmed: Box::new(move |generation| confirmation.confirm(generation)),
    };
    Vsock::new(config).map_err(vsock_error)
}

pub(super) fn vsock_error(error: VsockError) -> Error {
    let (kind, field) = match &error {
        VsockError::ReservedCid { .. } => (ErrorKind::InvalidSpec, "vsock.cid"),
        VsockError::PathTooLong { .. } => (ErrorKind::InvalidSpec, "vsock.path"),
        VsockError::PathExists { .. } => (ErrorKind::AlreadyExists, "vsock.path"),
        VsockError::Listen { source, .. } => (kind_of(source), "vsock.path"),
        VsockError::Watch(_) => (ErrorKind::HostExhausted, "vsock"),
    };
    with_cause(kind, error).with_field(field)
}

/// The entropy device.
pub(super) fn rng() -> Result<RngDevice> {
    let device = RngDevice::new(RngConfig::default());
    device.map_err(|error| with_cause(ErrorKind::HostExhausted, error).with_field("rng"))
}

/// The balloon of a guest with `memory` bytes.
pub(super) fn balloon(balloon: &BalloonSpec, memory: u64) -> Result<Balloon> {
    let target = u32::try_from(balloon.size / BALLOON_PAGE_SIZE);
    let config = BalloonConfig {
        target: target.map_err(|_| Error::invalid("balloon.size", "is more than a balloon can count"))?,
        deflate_on_oom: balloon.deflate_on_oom,
        free_page_reporting: balloon.free_page_reporting,
        statistics: balloon.statistics,
    };
    Balloon::new(config, memory).map_err(|error| {
        let context = "the host has no descriptor left for the balloon";
        Error::new(ErrorKind::HostExhausted, context)
            .with_field("balloon")
            .with_source(error)
    })
}
