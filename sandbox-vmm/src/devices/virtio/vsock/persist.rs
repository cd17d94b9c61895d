//! What a socket device leaves to the one that takes its place.

use serde::{Deserialize, Serialize};

/// What the driver knows of the device beyond its registers.
///
/// The host's ends of the connections stay with the original: one socket cannot be in two places. The guest is told so,
/// by the event that the transport was reset (virtio 1.3 §5.10.6.7), and by a reset of each connection for a driver that
/// does not look at events, or has one half open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockState {
    /// Connections that the guest may believe in: its port, and the host's.
    pub connections: Vec<(u32, u32)>,
    /// The port that stands for the next host program that connects: going on from there, the new device makes none
    /// that the guest still takes for an old connection.
    pub next_host_port: u32,
    /// The parts of an identity record that a program in the guest uses; 0 if there is no such program.
    pub identity_parts: u32,
}
