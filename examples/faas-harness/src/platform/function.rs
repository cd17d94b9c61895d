//! A deployed function.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use sandbox::Sandbox;
use tokio::sync::watch;

use crate::function::{FunctionSpec, StartStrategy};
use crate::instance::{Instance, LaunchError, Launcher, Sources};
use crate::metrics::FunctionMetrics;
use crate::output::complain;
use crate::pool::{Instances, Lease, Pool};

/// An instance that serves one request.
pub type InstanceLease = Lease<Starter>;

/// A deployed function.
pub struct Function {
    spec: Arc<FunctionSpec>,
    pool: Arc<Pool<Starter>>,
    metrics: Arc<FunctionMetrics>,
    deployed: SystemTime,
}

impl Function {
    pub(super) fn new(spec: FunctionSpec, launcher: Arc<Launcher>, leaving: watch::Sender<usize>) -> Self {
        let spec = Arc::new(spec);
        let metrics = Arc::new(FunctionMetrics::default());
        let starter = Starter {
            spec: Arc::clone(&spec),
            launcher,
            sources: Arc::default(),
            metrics: Arc::clone(&metrics),
            running: Mutex::default(),
            changes: watch::Sender::new(false),
            leaving,
        };
        if spec.start == StartStrategy::Pool {
            starter.stand_by();
        }
        Self {
            pool: Pool::new(starter, spec.scale.clone(), spec.warm()),
            spec,
            metrics,
            deployed: SystemTime::now(),
        }
    }

    /// As it was deployed.
    pub fn spec(&self) -> &FunctionSpec {
        &self.spec
    }

    /// Its instances.
    pub fn pool(&self) -> &Arc<Pool<Starter>> {
        &self.pool
    }

    /// Gives up what is idle, and refuses requests from now on.
    pub(super) fn close(&self) {
        self.pool.close();
        let starter = self.pool.instances();
        starter.changes.send_replace(true);
        let sources = Arc::clone(&starter.sources);
        starter.leave(move || sources.close());
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<FunctionMetrics> {
        &self.metrics
    }

    /// When it was deployed.
    pub fn deployed(&self) -> SystemTime {
        self.deployed
    }

    /// The sandboxes of its instances, in no order.
    pub fn sandboxes(&self) -> Vec<Arc<dyn Sandbox>> {
        let running = self.pool.instances().running();
        running
            .values()
            .filter_map(|instance| instance.sandbox.upgrade())
            .collect()
    }

    /// Changes whenever an instance has come; true once the function is closed.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.pool.instances().changes.subscribe()
    }

    /// How many sandboxes are ready to be let run.
    pub fn standing_by(&self) -> usize {
        self.pool.instances().sources.standing_by()
    }

    /// Waits until all are ready that are to be; false when `timeout` is over first, or one could not be made.
    pub fn await_standing_by(&self, timeout: Duration) -> bool {
        self.pool.instances().sources.await_standing_by(timeout)
    }

    /// Where one of its instances serves, if there is one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.pool
            .instances()
            .running()
            .values()
            .map(|instance| instance.address)
            .next()
    }
}

/// An instance, for whoever wants to look at it.
struct Running {
    sandbox: Weak<dyn Sandbox>,
    address: SocketAddr,
}

/// Starts and ends the instances of one function.
pub struct Starter {
    spec: Arc<FunctionSpec>,
    launcher: Arc<Launcher>,
    sources: Arc<Sources>,
    metrics: Arc<FunctionMetrics>,
    running: Mutex<HashMap<String, Running>>,
    /// See [`Function::changes`].
    changes: watch::Sender<bool>,
    leaving: watch::Sender<usize>,
}

impl Starter {
    /// Begins to make the sandboxes that stand by without running.
    fn stand_by(&self) {
        let (launcher, spec, sources) = (
            Arc::clone(&self.launcher),
            Arc::clone(&self.spec),
            Arc::clone(&self.sources),
        );
        tokio::task::spawn_blocking(move || {
            if let Err(error) = sources.stand_by(&launcher, &spec) {
                complain(format_args!("nothing stands by for {:?}: {error}", spec.name));
            }
        });
    }

    /// Gives something back on a thread that may block, and counts it until that is done.
    fn leave(&self, give_back: impl FnOnce() + Send + 'static) {
        let leaving = self.leaving.clone();
        leaving.send_modify(|count| *count += 1);
        tokio::task::spawn_blocking(move || {
            give_back();
            leaving.send_modify(|count| *count -= 1);
        });
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Instances for Starter {
    type Instance = Instance;
    type Error = LaunchError;

    async fn start(&self) -> Result<Instance, LaunchError> {
        let (launcher, spec) = (Arc::clone(&self.launcher), Arc::clone(&self.spec));
        let sources = Arc::clone(&self.sources);
        let launched = tokio::task::spawn_blocking(move || launcher.launch(&spec, &sources)).await;
        let launched = launched.unwrap_or_else(|panic| Err(LaunchError::internal(&panic)));
        match &launched {
            Ok(instance) => {
                self.metrics.started(instance.initialisation);
                let running = Running {
                    sandbox: Arc::downgrade(instance.sandbox()),
                    address: instance.address(),
                };
                self.running().insert(instance.id().to_owned(), running);
                self.changes.send_modify(|_| {});
            }
            Err(_) => self.metrics.start_failed(),
        }
        launched
    }

    fn is_alive(&self, instance: &Instance) -> bool {
        instance.is_alive()
    }

    fn discard(&self, instance: Instance) {
        self.running().remove(instance.id());
        self.leave(move || drop(instance));
    }
}
