//! Ports of the host that lead to a sandbox.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

use crate::NetError;

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host, and the port of the sandbox that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PublishedPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address at which it is published; all of them if left out, 127.0.0.1 included.
    pub host_address: Option<Ipv4Addr>,
    /// The host's port. 0 is replaced by a free one.
    pub host_port: u16,
    /// The sandbox's port.
    pub guest_port: u16,
}

/// Ports that are held: nobody else on the host can take them for its own.
///
/// What comes for them is led away before it gets to these sockets. They are there so that a program that has the port
/// is noticed, and one that wants it is told.
#[derive(Debug, Default)]
pub(crate) struct HeldPorts {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl HeldPorts {
    /// Takes the ports, and fills in those that are 0.
    pub(crate) fn take(ports: &mut [PublishedPort]) -> Result<Self, NetError> {
        let mut held = Self::default();
        for (index, port) in ports.iter_mut().enumerate() {
            held.take_one(port).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => NetError::PortTaken {
                    index,
                    protocol: port.protocol,
                    port: port.host_port,
                },
                _ => NetError::Os {
                    name: format!("{} port {}", port.protocol, port.host_port),
                    action: "take the port of the host",
                    source: error,
                },
            })?;
        }
        Ok(held)
    }

    fn take_one(&mut self, port: &mut PublishedPort) -> io::Result<()> {
        let address = SocketAddrV4::new(port.host_address.unwrap_or(Ipv4Addr::UNSPECIFIED), port.host_port);
        match port.protocol {
            Protocol::Tcp => {
                let socket = TcpListener::bind(address)?;
                port.host_port = socket.local_addr()?.port();
                self.tcp.push(socket);
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(address)?;
                port.host_port = socket.local_addr()?.port();
                self.udp.push(socket);
            }
        }
        Ok(())
    }
}
