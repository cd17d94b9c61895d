//! From a function to a running instance.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sandbox::spec::{GuestSpec, NetworkSpec, SandboxSpec, TapSpec};
use sandbox::{Error, ErrorKind, Runtime, Sandbox};
use sandbox_net::{AddressLease, AddressPool};

use super::placeholders::Placeholders;
use super::{Instance, ReadyBoard, TEARDOWN_PATIENCE};
use crate::function::{FunctionSpec, Readiness};

/// Lines of the console that a failed start is explained with.
const CONSOLE_LINES: usize = 10;
/// How often a wait for an instance's own POST looks whether its guest still runs.
const GUEST_CHECK: Duration = Duration::from_millis(50);

/// Why an instance did not come to life.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct LaunchError {
    /// What went wrong.
    pub reason: String,
    /// Whether it was not ready in time.
    pub timed_out: bool,
    /// What it last said on its console.
    pub console: String,
}

impl LaunchError {
    /// The harness itself failed.
    pub fn internal(error: &impl std::fmt::Display) -> Self {
        Self {
            reason: error.to_string(),
            timed_out: false,
            console: String::new(),
        }
    }

    fn new(error: &Error, console: String) -> Self {
        Self {
            reason: error.report(),
            timed_out: error.kind() == ErrorKind::Timeout,
            console,
        }
    }
}

/// Starts instances.
pub struct Launcher {
    runtime: Runtime,
    addresses: AddressPool,
    ready: ReadyBoard,
    /// Where instances are heard, on every address of the host.
    ready_port: u16,
    counter: AtomicU64,
    /// Starts that may run at a time.
    slots: Slots,
}

impl Launcher {
    /// A launcher whose instances have addresses of `addresses`.
    pub fn new(addresses: AddressPool, ready: ReadyBoard, ready_port: u16) -> Self {
        // Starts wait for the kernel as much as they compute; far more at a time only make each of them later.
        let at_a_time = std::thread::available_parallelism().map_or(1, usize::from) * 4;
        Self {
            runtime: Runtime::new(),
            addresses,
            ready,
            ready_port,
            counter: AtomicU64::new(0),
            slots: Slots::new(at_a_time),
        }
    }

    /// Starts an instance and waits until it is ready. Blocks. On failure nothing is left of it.
    ///
    /// # Errors
    /// What the SDK says, and what the guest said.
    pub fn launch(&self, function: &FunctionSpec) -> Result<Instance, LaunchError> {
        let lease = self.addresses.lease().map_err(|error| LaunchError::internal(&error))?;
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let spec = self.spec(function, &lease, number);
        let address = SocketAddr::from((lease.guest().address(), function.port));
        let begin = Instant::now();
        let _slot = self.slots.take();
        let sandbox: Arc<dyn Sandbox> = self
            .runtime
            .create(&spec)
            .map_err(|error| LaunchError::new(&error, String::new()))?
            .into();
        match self.bring_up(&*sandbox, function, address.ip()) {
            Ok(()) => Ok(Instance {
                sandbox,
                address,
                connection: None,
                initialisation: begin.elapsed(),
                lease,
            }),
            Err(error) => {
                let error = LaunchError::new(&error, sandbox.console().tail(CONSOLE_LINES));
                // The address must not be given to the next one while this one's tap has it.
                let _ = sandbox.teardown().wait(TEARDOWN_PATIENCE);
                Err(error)
            }
        }
    }

    fn bring_up(&self, sandbox: &dyn Sandbox, function: &FunctionSpec, guest: IpAddr) -> sandbox::Result<()> {
        let patience = function.scale.start_wait();
        match function.ready {
            Readiness::Check => {
                sandbox.start()?;
                sandbox.wait_ready(patience)
            }
            Readiness::Post => {
                // Listened for from before the start, so that nothing is said to nobody.
                let awaited = self.ready.await_instance(guest);
                sandbox.start()?;
                let deadline = Instant::now() + patience;
                loop {
                    let left = deadline.saturating_duration_since(Instant::now());
                    match awaited.ready.recv_timeout(left.min(GUEST_CHECK)) {
                        Ok(()) => return Ok(()),
                        Err(RecvTimeoutError::Disconnected) => return Err(Error::timeout("the instance's POST")),
                        Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                            return Err(Error::timeout("the instance's POST"));
                        }
                        Err(RecvTimeoutError::Timeout) => sandbox.wait_ready(Duration::ZERO).or_else(still_running)?,
                    }
                }
            }
        }
    }

    fn spec(&self, function: &FunctionSpec, lease: &AddressLease, number: u64) -> SandboxSpec {
        let mut spec = function.sandbox.clone();
        let name = format!("{}-{number}", function.name);
        let (host, guest) = (lease.host(), lease.guest());
        let values = Placeholders {
            guest_address: guest.to_string(),
            gateway: host.address().into(),
            instance: name.clone(),
            ready_url: format!("http://{}:{}/ready", host.address(), self.ready_port),
        };
        values.fill(&mut spec);
        spec.id = Some(name);
        // Only a unikernel's family can be told its address by the SDK; others find it among the words filled in above.
        let can_be_told = matches!(spec.guest, GuestSpec::Unikernel(_));
        spec.networks = vec![NetworkSpec {
            id: "net".to_owned(),
            tap: TapSpec::Create {
                name: None,
                host_address: Some(host.to_string()),
            },
            guest_address: can_be_told.then(|| guest.to_string()),
            gateway: can_be_told.then(|| host.address()),
            ..NetworkSpec::default()
        }];
        spec
    }
}

/// A guest that is not ready is no failure, one that has ended is.
fn still_running(error: Error) -> sandbox::Result<()> {
    match error.kind() {
        ErrorKind::Timeout => Ok(()),
        _ => Err(error),
    }
}

/// A counting semaphore for threads that may block.
struct Slots {
    free: Mutex<usize>,
    returned: Condvar,
}

struct Slot<'a>(&'a Slots);

impl Slots {
    fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count),
            returned: Condvar::new(),
        }
    }

    fn take(&self) -> Slot<'_> {
        let mut free = self
            .returned
            .wait_while(self.lock(), |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Slot(self)
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.lock() += 1;
        self.0.returned.notify_one();
    }
}
