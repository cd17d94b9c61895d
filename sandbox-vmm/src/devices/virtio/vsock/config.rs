//! What the device is made of.

use std::io;
use std::path::PathBuf;

use super::host::HostSockets;
use super::identity::OnConfirmed;

/// The first context identifier that is a guest's; those below have a meaning of their own (§5.10.4).
pub(super) const FIRST_GUEST_CID: u32 = 3;
/// `VMADDR_CID_ANY` of vsock(7).
pub(super) const ANY_CID: u32 = u32::MAX;

/// A virtio-vsock device.
pub struct VsockConfig {
    /// The guest's context identifier, 3 to 4294967294.
    pub guest_cid: u32,
    /// The host's side.
    pub sockets: HostSockets,
    /// What tells that the guest is ready.
    pub ready: Option<ReadyPort>,
    /// Who is told that the guest has confirmed its identity; called under the device's lock, on the event loop.
    pub confirmed: OnConfirmed,
}

/// A host port by connecting to which the guest tells that it is ready.
///
/// Who listens at the port's Unix socket gets the connection as always; if nobody does, it is accepted and closed.
pub struct ReadyPort {
    /// The port.
    pub port: u32,
    /// Called on the first connection to it and never again, under the device's lock, on a vCPU's thread.
    pub notify: Box<dyn FnOnce() + Send>,
}

/// Why the device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The identifier is not a guest's.
    #[error("vsock.cid {cid} is reserved: give 3 to 4294967294")]
    ReservedCid {
        /// The identifier.
        cid: u32,
    },
    /// A socket's path has an end.
    #[error("vsock.path {path:?} is too long: give at most {limit} bytes")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// The longest that leaves room for a port, in bytes.
        limit: usize,
    },
    /// Something is there already.
    #[error("vsock.path {path:?} exists already: remove it or give every sandbox a path of its own")]
    PathExists {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made there.
    #[error("cannot listen at vsock.path {path:?}: its directory must exist and be writable")]
    Listen {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host has no descriptor left.
    #[error("cannot watch the vsock's sockets")]
    Watch(#[source] io::Error),
}
