//! An instance: a running sandbox with an address, and the connection that is kept to it.

mod launch;
mod placeholders;
mod ready;
mod template;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use sandbox::{Sandbox, State};
use sandbox_net::AddressLease;

pub use launch::{LaunchError, Launcher, Networks};
pub use ready::ReadyBoard;
pub use template::TemplateCell;

use crate::http::body::Body;

/// Time that giving back an instance may take before it is said in the log.
const TEARDOWN_PATIENCE: Duration = Duration::from_secs(30);

/// A running sandbox that serves HTTP.
pub struct Instance {
    sandbox: Arc<dyn Sandbox>,
    /// Where it serves.
    pub address: SocketAddr,
    /// The connection that its last request left open.
    pub connection: Option<SendRequest<Body>>,
    /// From the call of the SDK until it was ready.
    pub initialisation: Duration,
    lease: AddressLease,
}

impl Instance {
    /// Its name.
    pub fn id(&self) -> &str {
        self.sandbox.id()
    }

    /// The sandbox.
    pub fn sandbox(&self) -> &Arc<dyn Sandbox> {
        &self.sandbox
    }

    /// Whether its guest runs.
    pub fn is_alive(&self) -> bool {
        self.sandbox.state() == State::Running
    }

    /// Gives everything back, and its address last. Blocks until the kernel has let go.
    pub fn give_back(self) {
        if let Err(error) = self.sandbox.teardown().wait(TEARDOWN_PATIENCE) {
            eprintln!("faas-harness: {}: {}", self.sandbox.id(), error.report());
        }
        drop(self.lease);
    }
}
