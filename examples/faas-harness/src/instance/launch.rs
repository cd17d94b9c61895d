//! From a function to a running instance.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sandbox::spec::{GuestSpec, SandboxSpec, UnikernelFamily};
use sandbox::{Backend, Error, ErrorKind, Runtime};
use sandbox_net::AddressPool;

use super::lazy::Lazy;
use super::placeholders::Placeholders;
use super::prepared::Prepared;
use super::template::{Addressing, Template};
use super::{Home, Instance, Networks, Place, ReadyBoard, Sources};
use crate::function::{FunctionSpec, StartStrategy};

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

    pub(super) fn new(error: &Error, console: String) -> Self {
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

    /// Whether this host's KVM runs stock Linux.
    ///
    /// # Errors
    /// It does not, or there is none.
    pub fn runs_linux(&self) -> anyhow::Result<()> {
        let facts = self.runtime.kvm()?.probe().facts;
        let is_complete = |(fact, value): &(String, String)| fact == "kvm" && value == "complete";
        match facts.iter().any(is_complete) {
            true => Ok(()),
            false => anyhow::bail!("this host's KVM does not execute every instruction, as Linux needs"),
        }
    }

    /// Starts an instance the way that `function` says and waits until it is ready. Blocks. On failure nothing is left of
    /// it.
    ///
    /// # Errors
    /// What the SDK says, and what the guest said.
    pub fn launch(self: &Arc<Self>, function: &Arc<FunctionSpec>, sources: &Sources) -> Result<Instance, LaunchError> {
        match function.start {
            StartStrategy::Cold | StartStrategy::Warm => self.boot(function),
            StartStrategy::Fork | StartStrategy::Restore => {
                let template = self.template(function, &sources.template)?;
                let place = self.clones_place(function, &template)?;
                let _slot = self.slots.take();
                let begin = Instant::now();
                let clone = Prepared::new(self.clone_of(&template, place)?);
                clone.run(function, &self.ready, begin)
            }
            StartStrategy::Pool => {
                let ready_made = sources.take(self, function)?;
                let _slot = self.slots.take();
                let begin = Instant::now();
                let prepared = match ready_made {
                    Some(prepared) => prepared,
                    None => self.prepare(function, &sources.template)?,
                };
                prepared.run(function, &self.ready, begin)
            }
        }
    }

    /// Makes a sandbox that only has to be let run: a clone where the guest and its wall allow that, a new one otherwise.
    pub(super) fn prepare(&self, function: &FunctionSpec, template: &Lazy<Template>) -> Result<Prepared, LaunchError> {
        if !function.can_be_cloned() {
            return self.create(function, self.place(function)?).map(Prepared::new);
        }
        let template = self.template(function, template)?;
        let place = self.clones_place(function, &template)?;
        self.clone_of(&template, place).map(Prepared::new)
    }

    fn boot(&self, function: &FunctionSpec) -> Result<Instance, LaunchError> {
        self.boot_in(function, self.place(function)?)
    }

    fn boot_in(&self, function: &FunctionSpec, place: Place) -> Result<Instance, LaunchError> {
        let _slot = self.slots.take();
        let begin = Instant::now();
        let created = Prepared::new(self.create(function, place)?);
        created.run(function, &self.ready, begin)
    }

    fn create(&self, function: &FunctionSpec, place: Place) -> Result<Home, LaunchError> {
        let created = self.runtime.create(&self.spec(function, &place));
        let sandbox = created.map_err(|error| LaunchError::new(&error, String::new()))?.into();
        Ok(Home { sandbox, place })
    }

    /// What clones of `function` are made from; the first one who asks boots it.
    fn template(&self, function: &FunctionSpec, template: &Lazy<Template>) -> Result<Arc<Template>, LaunchError> {
        let make = || {
            let mut place = self.place(function)?;
            let told = self.can_be_told(function)?;
            if !told {
                let number = self.counter.fetch_add(1, Ordering::Relaxed);
                place.tap_name = Some(format!("ft{:x}t{number:x}", std::process::id()));
            }
            let instance = self.boot_in(function, place)?;
            let addressing = match told {
                true => Addressing::Told,
                false => Addressing::translated(&instance.home.place)?,
            };
            match function.start {
                StartStrategy::Restore => {
                    // A function that takes the place of one of the same name must not find that one's snapshot.
                    let number = self.counter.fetch_add(1, Ordering::Relaxed);
                    let folder = self.snapshots.join(format!("{}-{number}", function.name));
                    Template::snapshot(&instance, addressing, &folder)
                }
                _ => Template::parent(instance, addressing),
            }
        };
        template.get(Template::is_sound, make)
    }

    /// Whether a clone's guest can be told another address than the original's.
    fn can_be_told(&self, function: &FunctionSpec) -> Result<bool, LaunchError> {
        let GuestSpec::Unikernel(guest) = &function.sandbox.guest else {
            return Ok(false);
        };
        if guest.family != UnikernelFamily::Auto {
            return Ok(guest.family == UnikernelFamily::Bare);
        }
        let identified = self.runtime.kvm().and_then(|kvm| kvm.identify(&function.sandbox));
        let identified = identified.map_err(|error| LaunchError::new(&error, String::new()))?;
        Ok(identified.family == UnikernelFamily::Bare)
    }

    fn clone_of(&self, template: &Template, place: Place) -> Result<Home, LaunchError> {
        template.clone_into(&self.runtime, place)
    }

    fn clones_place(&self, function: &FunctionSpec, template: &Template) -> Result<Place, LaunchError> {
        match template.addressing() {
            Addressing::Told => self.place_of(function, &self.networks.micro_vms),
            Addressing::Translated(known) => {
                let mut place = self.place_of(function, &self.networks.containers)?;
                let made = place.translate(&self.networks, known);
                made.map_err(|error| LaunchError::internal(&error))?;
                Ok(place)
            }
        }
    }

    fn place(&self, function: &FunctionSpec) -> Result<Place, LaunchError> {
        match &function.sandbox.guest {
            GuestSpec::Container(_) => self.place_of(function, &self.networks.containers),
            _ => self.place_of(function, &self.networks.micro_vms),
        }
    }

    fn place_of(&self, function: &FunctionSpec, addresses: &AddressPool) -> Result<Place, LaunchError> {
        let lease = addresses.lease().map_err(|error| LaunchError::internal(&error))?;
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        Ok(Place::new(format!("{}-{number}", function.name), function.port, lease))
    }

    fn spec(&self, function: &FunctionSpec, place: &Place) -> SandboxSpec {
        let mut spec = function.sandbox.clone();
        let gateway = place.host().address();
        let values = Placeholders {
            guest_address: place.guest().to_string(),
            gateway: gateway.into(),
            instance: place.name.clone(),
            ready_url: format!("http://{gateway}:{}/ready", self.ready_port),
        };
        values.fill(&mut spec);
        spec.id = Some(place.name.clone());
        spec.networks = vec![place.network_spec(&spec.guest, &self.networks)];
        spec
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
