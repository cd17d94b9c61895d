//! When a sandbox counts as ready.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// When a sandbox counts as ready to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ReadyCheck {
    /// This text stands on the console.
    Console {
        /// The text, not empty.
        marker: String,
    },
    /// A TCP connection to this address is accepted.
    Tcp {
        /// Address and port of the guest.
        address: SocketAddr,
    },
    /// An HTTP GET is answered with status 200.
    Http {
        /// Address and port of the guest.
        address: SocketAddr,
        /// Path, beginning with `/`.
        path: String,
    },
    /// The guest itself sends an HTTP POST to this address of the host, where the SDK listens.
    Post {
        /// Address and port on the host.
        listen: SocketAddr,
        /// Path, beginning with `/`.
        path: String,
    },
    /// The guest connects to this vsock port of the host.
    Vsock {
        /// Port.
        port: u32,
    },
    /// The guest writes 123 to I/O port 0x3f0.
    BootPort,
    /// The first process runs, or the first guest instruction does.
    Started,
}
