//! An instance: a running sandbox with an address, and the connection that is kept to it.

mod end;
mod launch;
mod lazy;
mod place;
mod placeholders;
mod prepared;
mod ready;
mod standby;
mod template;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use sandbox::{Sandbox, State};

pub use launch::{LaunchError, Launcher};
pub use place::Networks;
pub use ready::ReadyBoard;
pub use standby::Sources;

use crate::http::body::Body;
use crate::output::complain;
use end::End;
use place::Place;

/// Time that giving back a sandbox may take before it is said in the log.
const TEARDOWN_PATIENCE: Duration = Duration::from_secs(30);

/// A running sandbox that serves HTTP. Dropping it blocks until the kernel has let go of it.
pub struct Instance {
    home: Home,
    end: End,
    /// The connection that its last request left open.
    pub connection: Option<SendRequest<Body>>,
    /// From the call of the SDK until it was ready.
    pub initialisation: Duration,
}

impl Instance {
    fn new(home: Home, initialisation: Duration) -> Self {
        Self {
            end: End::of(home.sandbox.console()),
            home,
            connection: None,
            initialisation,
        }
    }

    /// Its name.
    pub fn id(&self) -> &str {
        self.home.sandbox.id()
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.home.place.address
    }

    /// The sandbox.
    pub fn sandbox(&self) -> &Arc<dyn Sandbox> {
        &self.home.sandbox
    }

    /// Whether its guest runs.
    pub fn is_alive(&self) -> bool {
        self.home.sandbox.state() == State::Running
    }

    /// Is over when its guest has ended. To be awaited while the instance exists.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + Sync + 'static {
        self.end.reached()
    }
}

/// A sandbox in its place.
struct Home {
    sandbox: Arc<dyn Sandbox>,
    place: Place,
}

impl Drop for Home {
    fn drop(&mut self) {
        // The place must not be given to the next one while this one's tap has it.
        if let Err(error) = self.sandbox.teardown().wait(TEARDOWN_PATIENCE) {
            complain(format_args!("{}: {}", self.sandbox.id(), error.report()));
        }
    }
}
