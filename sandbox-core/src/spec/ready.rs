//! When a sandbox counts as ready.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::network::NetworkState;

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
        /// Address and port of the guest; 0.0.0.0 for the address that its first bridge or CNI network gave it.
        address: SocketAddr,
    },
    /// An HTTP GET is answered with status 200.
    Http {
        /// Address and port of the guest; 0.0.0.0 as above.
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

impl ReadyCheck {
    /// The guest's address that is asked, if that is left to the sandbox's networks.
    fn open_address(&mut self) -> Option<&mut SocketAddr> {
        match self {
            Self::Tcp { address } | Self::Http { address, .. } if address.ip().is_unspecified() => Some(address),
            _ => None,
        }
    }

    /// Fills in the guest's address where the check leaves it to the sandbox's networks, from what they turned out to
    /// be.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidSpec`] if none of them has an address.
    pub fn fill_in(&mut self, networks: &[NetworkState]) -> Result<()> {
        let Some(open) = self.open_address() else {
            return Ok(());
        };
        let addresses = networks.iter().filter_map(|network| network.address.as_deref());
        let mut addresses = addresses.filter_map(|address| address.split('/').next()?.parse::<IpAddr>().ok());
        match addresses.next() {
            Some(address) => {
                open.set_ip(address);
                Ok(())
            }
            None => {
                let context =
                    "leaves the address to a bridge or CNI network, and there is none; give the guest's address";
                Err(Error::invalid("ready", context))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_left_open_is_that_of_the_first_network_that_has_one() {
        let network = |address: Option<&str>| NetworkState {
            address: address.map(str::to_owned),
            ..NetworkState::default()
        };
        let networks = [
            network(None),
            network(Some("10.1.2.3/24")),
            network(Some("10.9.9.9/24")),
        ];
        let check = |address: &str| ReadyCheck::Tcp {
            address: address.parse().unwrap(),
        };
        let mut open = check("0.0.0.0:80");
        open.fill_in(&networks).unwrap();
        assert_eq!(open, check("10.1.2.3:80"));
        let mut given = check("10.0.0.1:80");
        given.fill_in(&networks).unwrap();
        assert_eq!(given, check("10.0.0.1:80"));
        let error = check("0.0.0.0:80").fill_in(&networks[..1]).unwrap_err();
        assert_eq!(error.field(), Some("ready"));
    }
}
