//! From a function to a running instance.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sandbox::snapshot::{Given, NetworkOverride, Overrides};
use sandbox::spec::{BridgeSpec, GuestSpec, NetworkSpec, SandboxSpec, TapSpec};
use sandbox::{Error, ErrorKind, RestoreOptions, Restored, Runtime, Sandbox};
use sandbox_net::{AddressLease, AddressPool};

use super::placeholders::Placeholders;
use super::template::Template;
use super::{Instance, ReadyBoard, TEARDOWN_PATIENCE, TemplateCell};
use crate::function::{FunctionSpec, Readiness, StartStrategy};

/// Lines of the console that a failed start is explained with.
const CONSOLE_LINES: usize = 10;
/// The name of an instance's network in its document.
const NETWORK: &str = "net";
/// The bridge that all containers share.
const BRIDGE: &str = "faas0";
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

/// Where instances get their addresses from.
pub struct Networks {
    /// Of micro-VMs, each of which has a tap and a subnet of its own.
    pub micro_vms: AddressPool,
    /// Of containers, which share a bridge.
    pub containers: AddressPool,
}

/// Starts instances.
pub struct Launcher {
    runtime: Runtime,
    networks: Networks,
    ready: ReadyBoard,
    /// Where instances are heard, on every address of the host.
    ready_port: u16,
    /// Where templates are written.
    snapshots: PathBuf,
    counter: AtomicU64,
    /// Starts that may run at a time.
    slots: Slots,
}

impl Launcher {
    /// A launcher whose instances have addresses of `networks`, and whose templates lie in `snapshots`.
    pub fn new(networks: Networks, ready: ReadyBoard, ready_port: u16, snapshots: PathBuf) -> Self {
        // Starts wait for the kernel as much as they compute; far more at a time only make each of them later.
        let at_a_time = std::thread::available_parallelism().map_or(1, usize::from) * 4;
        Self {
            runtime: Runtime::new(),
            networks,
            ready,
            ready_port,
            snapshots,
            counter: AtomicU64::new(0),
            slots: Slots::new(at_a_time),
        }
    }

    /// Starts an instance the way that `function` says and waits until it is ready; clones are made from what `template`
    /// holds, which the first of them fills. Blocks. On failure nothing is left of it.
    ///
    /// # Errors
    /// What the SDK says, and what the guest said.
    pub fn launch(&self, function: &FunctionSpec, template: &TemplateCell) -> Result<Instance, LaunchError> {
        match function.start {
            StartStrategy::Cold | StartStrategy::Warm => self.boot(function),
            StartStrategy::Fork => {
                let template = template.get(|| Template::parent(self.boot(function)?))?;
                self.clone_of(&template, function)
            }
            StartStrategy::Restore => {
                let folder = self.snapshots.join(&function.name);
                let template = template.get(|| Template::snapshot(self.boot(function)?, &folder))?;
                self.clone_of(&template, function)
            }
        }
    }

    fn boot(&self, function: &FunctionSpec) -> Result<Instance, LaunchError> {
        let place = self.place(function)?;
        let spec = self.spec(function, &place);
        let _slot = self.slots.take();
        let begin = Instant::now();
        let created = self.runtime.create(&spec);
        let sandbox: Arc<dyn Sandbox> = created.map_err(|error| LaunchError::new(&error, String::new()))?.into();
        let up = self.bring_up(&*sandbox, function, place.address.ip());
        Self::finish(sandbox, place, begin, up)
    }

    /// A clone, which has an address of its own and no other difference.
    fn clone_of(&self, template: &Template, function: &FunctionSpec) -> Result<Instance, LaunchError> {
        let place = self.place(function)?;
        let options = |id| RestoreOptions {
            overrides: Overrides {
                id,
                networks: BTreeMap::from([(NETWORK.to_owned(), place.network_override())]),
                ..Overrides::default()
            },
            start: true,
            ..RestoreOptions::default()
        };
        let _slot = self.slots.take();
        let begin = Instant::now();
        let cloned = match template {
            Template::Snapshot(folder) => self.runtime.restore(folder, &options(Some(place.name.clone()))),
            Template::Parent(parent) => fork(parent.as_ref(), &options(None)),
        };
        let Restored { sandbox, uniqueness } = cloned.map_err(|error| LaunchError::new(&error, String::new()))?;
        let own_address = match uniqueness.address {
            Given::NotGiven => Err(Error::unsupported(
                "start",
                "this guest cannot be told its new address, so that its clones all have the same: use cold or warm",
            )),
            _ => Ok(()),
        };
        Self::finish(sandbox.into(), place, begin, own_address)
    }

    /// An instance if `up`, and nothing otherwise.
    fn finish(
        sandbox: Arc<dyn Sandbox>,
        place: Place,
        begin: Instant,
        up: sandbox::Result<()>,
    ) -> Result<Instance, LaunchError> {
        match up {
            Ok(()) => Ok(Instance {
                sandbox,
                address: place.address,
                connection: None,
                initialisation: begin.elapsed(),
                lease: place.lease,
            }),
            Err(error) => {
                let error = LaunchError::new(&error, sandbox.console().tail(CONSOLE_LINES));
                // The address must not be given to the next one while this one's tap has it.
                let _ = sandbox.teardown().wait(TEARDOWN_PATIENCE);
                Err(error)
            }
        }
    }

    fn place(&self, function: &FunctionSpec) -> Result<Place, LaunchError> {
        let addresses = match &function.sandbox.guest {
            GuestSpec::Container(_) => &self.networks.containers,
            _ => &self.networks.micro_vms,
        };
        let lease = addresses.lease().map_err(|error| LaunchError::internal(&error))?;
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        Ok(Place {
            name: format!("{}-{number}", function.name),
            address: SocketAddr::from((lease.guest().address(), function.port)),
            lease,
        })
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

    /// A place on the bridge that all containers share.
    fn container_network(&self, place: &Place) -> NetworkSpec {
        NetworkSpec {
            id: NETWORK.to_owned(),
            bridge: Some(BridgeSpec {
                name: BRIDGE.to_owned(),
                subnet: Some(self.networks.containers.network().to_string()),
                isolated: true,
                ports: Vec::new(),
            }),
            guest_address: Some(place.lease.guest().to_string()),
            ..NetworkSpec::default()
        }
    }

    fn spec(&self, function: &FunctionSpec, place: &Place) -> SandboxSpec {
        let mut spec = function.sandbox.clone();
        let (host, guest) = (place.lease.host(), place.lease.guest());
        let values = Placeholders {
            guest_address: guest.to_string(),
            gateway: host.address().into(),
            instance: place.name.clone(),
            ready_url: format!("http://{}:{}/ready", host.address(), self.ready_port),
        };
        values.fill(&mut spec);
        spec.id = Some(place.name.clone());
        spec.networks = vec![match &spec.guest {
            GuestSpec::Container(_) => self.container_network(place),
            guest => micro_vm_network(guest, place),
        }];
        spec
    }
}

/// A tap with a subnet of its own. Only a unikernel's family can be told its address by the SDK; others find it among
/// the words of their documents.
fn micro_vm_network(guest: &GuestSpec, place: &Place) -> NetworkSpec {
    let can_be_told = matches!(guest, GuestSpec::Unikernel(_));
    NetworkSpec {
        id: NETWORK.to_owned(),
        tap: place.tap(),
        guest_address: can_be_told.then(|| place.lease.guest().to_string()),
        gateway: can_be_told.then(|| place.lease.host().address()),
        ..NetworkSpec::default()
    }
}

/// Where an instance has its place: what only one at a time can have.
struct Place {
    name: String,
    address: SocketAddr,
    lease: AddressLease,
}

impl Place {
    fn tap(&self) -> TapSpec {
        TapSpec::Create {
            name: None,
            host_address: Some(self.lease.host().to_string()),
        }
    }

    fn network_override(&self) -> NetworkOverride {
        NetworkOverride {
            tap: Some(self.tap()),
            mac: None,
            address: Some(self.lease.guest().to_string()),
        }
    }
}

/// One clone of a parent.
fn fork(parent: Option<&Instance>, options: &RestoreOptions) -> sandbox::Result<Restored> {
    let parent = parent.map(|parent| parent.sandbox().as_fork());
    let Some(Some(parent)) = parent else {
        return Err(Error::unsupported(
            "start",
            "this kind of sandbox cannot be forked: use cold or warm",
        ));
    };
    let mut clones = parent.fork(1, options)?;
    clones
        .pop()
        .ok_or_else(|| Error::new(ErrorKind::HostFailure, "a fork made no clone"))
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
