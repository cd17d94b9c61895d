//! A micro-VM, and the networks that were made for it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use sandbox_core::gate::Gate;
use sandbox_core::sandbox::PendingTeardown;
use sandbox_core::{
    Capability, ConsoleLog, Exec, Exit, Fork, Manifest, NetworkState, Renewed, Result, Sandbox, SnapshotOptions, State,
    Stats, Teardown, Timeline,
};

use super::Made;

/// The micro-VM with its networks, which are given back when it is gone.
pub(super) struct Networked {
    sandbox: Box<dyn Sandbox>,
    made: Arc<Made>,
    teardown: OnceLock<Teardown>,
}

/// A teardown of the micro-VM, and of its networks behind it.
#[derive(Default)]
struct Pending {
    done: Gate<()>,
}

impl PendingTeardown for Pending {
    fn wait(&self, timeout: Duration) -> bool {
        self.done.wait(Some(timeout)).is_some()
    }
}

impl Networked {
    pub(super) fn new(sandbox: Box<dyn Sandbox>, made: Made) -> Self {
        Self {
            sandbox,
            made: Arc::new(made),
            teardown: OnceLock::new(),
        }
    }

    /// The networks go when the machine has let go of them, on a thread that waits for that.
    fn begin_teardown(&self) -> Teardown {
        let machine = self.sandbox.teardown();
        let pending = Arc::new(Pending::default());
        let (made, done) = (Arc::clone(&self.made), Arc::clone(&pending));
        let give_back = move || {
            // For ever: the machine's own teardown ends.
            let _ = machine.wait(Duration::MAX);
            made.teardown();
            done.done.open(());
        };
        let spawned = thread::Builder::new()
            .name("sandbox-net-end".to_owned())
            .spawn(give_back.clone());
        if spawned.is_err() {
            give_back();
        }
        Teardown::new(pending)
    }
}

impl Drop for Networked {
    fn drop(&mut self) {
        self.teardown();
    }
}

impl Sandbox for Networked {
    fn id(&self) -> &str {
        self.sandbox.id()
    }

    fn state(&self) -> State {
        self.sandbox.state()
    }

    fn capabilities(&self) -> BTreeSet<Capability> {
        self.sandbox.capabilities()
    }

    fn start(&self) -> Result<()> {
        self.sandbox.start()
    }

    fn wait_ready(&self, timeout: Duration) -> Result<()> {
        self.sandbox.wait_ready(timeout)
    }

    fn pause(&self) -> Result<()> {
        self.sandbox.pause()
    }

    fn resume(&self) -> Result<()> {
        self.sandbox.resume()
    }

    fn snapshot(&self, directory: &Path, options: &SnapshotOptions) -> Result<Manifest> {
        self.sandbox.snapshot(directory, options)
    }

    fn stats(&self) -> Result<Stats> {
        self.sandbox.stats()
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<Exit> {
        self.sandbox.wait(timeout)
    }

    fn stop(&self, grace: Duration) -> Result<Exit> {
        self.sandbox.stop(grace)
    }

    fn teardown(&self) -> Teardown {
        self.teardown.get_or_init(|| self.begin_teardown()).clone()
    }

    fn networks(&self) -> Vec<NetworkState> {
        self.made.states()
    }

    fn timeline(&self) -> Timeline {
        self.sandbox.timeline()
    }

    fn console(&self) -> Arc<ConsoleLog> {
        self.sandbox.console()
    }

    fn console_write(&self, bytes: &[u8]) -> Result<usize> {
        self.sandbox.console_write(bytes)
    }

    fn as_renewed(&self) -> Option<&dyn Renewed> {
        self.sandbox.as_renewed()
    }

    fn as_fork(&self) -> Option<&dyn Fork> {
        self.sandbox.as_fork()
    }

    fn as_exec(&self) -> Option<&dyn Exec> {
        self.sandbox.as_exec()
    }
}
