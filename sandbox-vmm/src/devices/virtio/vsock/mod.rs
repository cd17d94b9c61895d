//! virtio-vsock in user space: guest ports meet Unix sockets of the host (virtio 1.3 §5.10).
//!
//! - A guest that connects to host port `N` reaches whoever listens at the Unix socket `<path>_N`.
//! - A host program that connects to the Unix socket `<path>` and sends `CONNECT N\n` reaches the guest's listener at
//!   port `N`: it is answered `OK M\n`, where `M` is the port that stands for it in the guest, and what follows is the
//!   connection. Where nobody listens it finds its connection closed.
//!
//! ```text
//! driver --tx--> Vsock --packet--> Muxer --by ports--> Connection --send----> Unix socket
//! driver <--rx-- Vsock <--packet-- Muxer <--in turn--- Connection <--readv--- Unix socket
//! ```
//!
//! Data goes between the driver's buffers and the sockets without a copy, except for what a socket does not take at
//! once: that waits in the connection, and as the guest is given credit for no more than `BUFFER_SIZE` bytes, no
//! reader of the host can be so slow that the guest fills the host's memory.

mod backlog;
mod config;
mod connection;
mod credit;
mod device;
mod greeting;
mod host;
mod identity;
mod muxer;
mod packet;
mod persist;
#[cfg(test)]
mod tests;
mod unix;
mod watcher;

pub use config::{ReadyPort, VsockConfig, VsockError};
pub use device::Vsock;
pub use host::{Connector, HostSockets, ListeningPath};
pub use identity::{IDENTITY_PORT, OnConfirmed};
pub use persist::VsockState;

/// The host's context identifier (§5.10.4).
const HOST_CID: u64 = 2;
/// Bytes that a connection holds for a host program that does not read: the guest is given credit for so many. With
/// the number of connections this bounds what a guest can make its host hold.
const BUFFER_SIZE: u32 = 64 << 10;
/// Connections at a time, those included that have not said yet where they want to go: a guest that opens connections
/// without end exhausts its own share of the host's descriptors and not the embedder's.
const MAX_CONNECTIONS: usize = 1023;
/// The longest payload of a packet to the guest, in bytes; a longer buffer is not filled. Linux offers 4 KiB.
const MAX_PAYLOAD: usize = 64 << 10;
/// The port that means any port (`VMADDR_PORT_ANY` of vsock(7)) and that nobody can be connected to.
const ANY_PORT: u32 = u32::MAX;
