//! The platform: functions, each with its instances.

mod function;
mod invoke;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::watch;

use crate::function::{Builtins, FunctionError, FunctionSpec};
use crate::instance::{Launcher, Networks, ReadyBoard};
use crate::output::complain;
pub use function::{Function, InstanceLease};
pub use invoke::InvokeError;
use store::Store;

/// How often functions are looked after: idle instances given up, warm ones replaced.
const TENDING: Duration = Duration::from_millis(500);

/// Why a deployment was not done.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The function is not what it should be.
    #[error(transparent)]
    Invalid(#[from] FunctionError),
    /// There is a function of this name.
    #[error("there is a function {0:?} already; update it with PUT")]
    Exists(String),
    /// There is none.
    #[error("there is no function {0:?}")]
    Unknown(String),
    /// The list of functions could not be written.
    #[error("cannot keep the list of functions: {0}")]
    Store(String),
}

/// What is made when the platform starts.
pub struct Setup<'a> {
    /// Where the platform keeps what outlives it.
    pub state: &'a Path,
    /// Where instances get their addresses from.
    pub networks: Networks,
    /// The port on which instances are heard, on every address of the host.
    pub ready_port: u16,
}

/// The platform.
pub struct Platform {
    functions: RwLock<BTreeMap<String, Arc<Function>>>,
    /// Held while functions are deployed or removed, which includes writing the list of them.
    changing: Mutex<()>,
    launcher: Arc<Launcher>,
    builtins: Builtins,
    ready: ReadyBoard,
    store: Store,
    host_memory: u64,
    /// How many instances and templates are being given back.
    leaving: watch::Sender<usize>,
    /// Whether the platform was told to end.
    ending: watch::Sender<bool>,
}

impl Platform {
    /// A platform with the functions that `setup.state` remembers.
    ///
    /// # Errors
    /// The state folder cannot be used.
    pub fn open(setup: Setup<'_>) -> anyhow::Result<Arc<Self>> {
        let builtins = Builtins::install(&setup.state.join("guests"))?;
        let store = Store::open(setup.state)?;
        let ready = ReadyBoard::default();
        let platform = Arc::new(Self {
            functions: RwLock::default(),
            changing: Mutex::default(),
            launcher: Arc::new(Launcher::new(
                setup.networks,
                ready.clone(),
                setup.ready_port,
                Self::snapshots(setup.state),
            )),
            builtins,
            ready,
            store,
            host_memory: host_memory()?,
            leaving: watch::Sender::new(0),
            ending: watch::Sender::new(false),
        });
        for spec in platform.store.load()? {
            let name = spec.name.clone();
            match spec.validate(platform.host_memory) {
                Ok(()) => platform.put(spec),
                Err(error) => complain(format_args!("function {name:?} is no longer deployed: {error}")),
            }
        }
        Ok(platform)
    }

    /// Where the platform whose state folder is `state` keeps snapshots, which are of no use to a later one.
    pub fn snapshots(state: &Path) -> PathBuf {
        state.join("snapshots")
    }

    /// The functions that come with the harness.
    pub fn builtins(&self) -> &Builtins {
        &self.builtins
    }

    /// Whether this host's KVM runs stock Linux.
    ///
    /// # Errors
    /// It does not, or there is none.
    pub fn runs_linux(&self) -> anyhow::Result<()> {
        self.launcher.runs_linux()
    }

    /// Instances that say themselves that they are ready.
    pub fn ready(&self) -> &ReadyBoard {
        &self.ready
    }

    /// Deploys a new function.
    ///
    /// # Errors
    /// See [`DeployError`]; nothing is changed then.
    pub fn deploy(&self, spec: FunctionSpec) -> Result<(), DeployError> {
        let _changing = self.changing();
        match self.function(&spec.name) {
            Some(_) => Err(DeployError::Exists(spec.name)),
            None => self.put_and_save(spec),
        }
    }

    /// Replaces a function; instances of the old one end with their requests.
    ///
    /// # Errors
    /// See [`DeployError`]; nothing is changed then.
    pub fn update(&self, spec: FunctionSpec) -> Result<(), DeployError> {
        let _changing = self.changing();
        match self.function(&spec.name) {
            Some(_) => self.put_and_save(spec),
            None => Err(DeployError::Unknown(spec.name)),
        }
    }

    /// Removes a function; its instances end with their requests.
    ///
    /// # Errors
    /// See [`DeployError`]; nothing is changed then.
    pub fn remove(&self, name: &str) -> Result<(), DeployError> {
        let _changing = self.changing();
        if self.function(name).is_none() {
            return Err(DeployError::Unknown(name.to_owned()));
        }
        self.save(|specs| specs.retain(|spec| spec.name != name))?;
        if let Some(function) = self.write().remove(name) {
            function.close();
        }
        Ok(())
    }

    /// The function of this name.
    pub fn function(&self, name: &str) -> Option<Arc<Function>> {
        self.read().get(name).cloned()
    }

    /// All functions, by name.
    pub fn functions(&self) -> Vec<Arc<Function>> {
        self.read().values().cloned().collect()
    }

    /// Ends answers that would go on for ever.
    pub fn begin_to_end(&self) {
        self.ending.send_replace(true);
    }

    /// Becomes true when the platform was told to end.
    pub fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// Looks after the functions for ever: gives up idle instances, replaces warm ones.
    pub async fn tend(self: Arc<Self>) {
        let mut interval = tokio::time::interval(TENDING);
        loop {
            interval.tick().await;
            for function in self.functions() {
                function.pool().tend();
            }
        }
    }

    /// Waits until everything is given back that was given up.
    pub async fn given_back(&self) {
        // The sender is this platform's own, so that it cannot go first.
        let _ = self.leaving.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Ends all functions and waits until every instance is given back, those that still serve a request included.
    pub async fn close(&self) {
        let functions = self.functions();
        for function in &functions {
            function.close();
        }
        for function in &functions {
            function.pool().emptied().await;
        }
        self.given_back().await;
    }

    fn put_and_save(&self, spec: FunctionSpec) -> Result<(), DeployError> {
        spec.validate(self.host_memory)?;
        self.save(|specs| {
            specs.retain(|other| other.name != spec.name);
            specs.push(spec.clone());
        })?;
        self.put(spec);
        Ok(())
    }

    fn put(&self, spec: FunctionSpec) {
        let name = spec.name.clone();
        let function = Function::new(spec, Arc::clone(&self.launcher), self.leaving.clone());
        let replaced = self.write().insert(name, Arc::new(function));
        if let Some(old) = replaced {
            old.close();
        }
    }

    /// Writes the list of functions, changed by `change`.
    fn save(&self, change: impl FnOnce(&mut Vec<FunctionSpec>)) -> Result<(), DeployError> {
        let mut specs = self
            .functions()
            .iter()
            .map(|function| function.spec().clone())
            .collect();
        change(&mut specs);
        self.store
            .save(&specs)
            .map_err(|error| DeployError::Store(error.to_string()))
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Arc<Function>>> {
        self.functions.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Function>>> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This host's memory, in bytes.
fn host_memory() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes: Option<u64> = total.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
    let kibibytes = kibibytes.ok_or_else(|| anyhow::anyhow!("/proc/meminfo has no MemTotal"))?;
    Ok(kibibytes << 10)
}
