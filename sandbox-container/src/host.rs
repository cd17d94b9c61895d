//! What all container backends of a process share: the reaper, the thread that waits for things, the folder on disk.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use sandbox_core::{Error, ErrorKind, Result, SandboxSpec};
use sandbox_net::{ContainerNetworks, DEFAULT_RECORDS, NetError, NetNamespace, Networks};

use crate::cgroup::{Hierarchy, Mode};
use crate::error::host;
use crate::image::{Store, UnpackLimits};
use crate::reactor::Reactor;
use crate::reaper::Reaper;
use crate::runtime::{self, OciRuntime, ROOT_NETWORK_SIGN, mistakes_namespaces};
use crate::state::{self, Home};
use crate::sweep;

/// The variable that names the program to use as reaper.
const VARIABLE: &str = "SANDBOX_WORKER";
/// Its usual name.
const PROGRAM: &str = "sandbox-worker";

/// How containers are made.
#[derive(Clone, Debug)]
pub struct ContainerOptions {
    /// The folder for what stands on disk; see [`crate::sweep`].
    pub state: PathBuf,
    /// The folder of unpacked images; see [`Store`].
    pub store: PathBuf,
    /// The folder of what is written down about networks; see [`Networks`].
    pub networks: PathBuf,
    /// The program to start as reaper, instead of this one or an installed `sandbox-worker`.
    pub reaper: Option<PathBuf>,
    /// How long one command of a runtime may take before it is killed.
    pub call_limit: Duration,
    /// The platform that runsc is told to use; its own choice if left out.
    pub runsc_platform: Option<String>,
}

impl Default for ContainerOptions {
    fn default() -> Self {
        Self {
            state: state::default_root(),
            store: Store::default_path(),
            networks: DEFAULT_RECORDS.into(),
            reaper: None,
            call_limit: Duration::from_secs(60),
            runsc_platform: None,
        }
    }
}

/// Whether what older versions of runsc tell the host's own namespace by is seen in that of a container.
fn shows_root_sign(networks: &ContainerNetworks) -> std::result::Result<bool, NetError> {
    NetNamespace::open(networks.namespace())?.run(|| Ok(Path::new(ROOT_NETWORK_SIGN).exists()))
}

/// What backends share. It ends, and its folder goes, with the last container.
pub struct Host {
    /// How containers are made.
    pub options: ContainerOptions,
    /// The folder on disk.
    pub home: Home,
    /// The host's cgroups.
    pub hierarchy: Hierarchy,
    /// Whether everything is done without root's rights.
    pub is_rootless: bool,
    /// Nothing to read, nowhere to write.
    pub null: File,
    // Before the thread that it needs.
    reaper: Mutex<Option<Arc<Reaper>>>,
    store: Mutex<Option<Store>>,
    networks: OnceLock<Networks>,
    /// The thread that waits.
    pub reactor: Reactor,
    made: AtomicU64,
}

impl Host {
    /// Removes what dead processes left, and makes this one's folder.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn open(options: ContainerOptions) -> Result<Arc<Self>> {
        let swept = sweep::sweep(&options.state);
        for left in &swept.failed {
            tracing::warn!("left behind by a process that is gone: {left}");
        }
        let context = || format!("cannot use the folder {}", options.state.display());
        let home = Home::create(&options.state).map_err(host(context()))?;
        Ok(Arc::new(Self {
            home,
            hierarchy: Hierarchy::of_this_host(),
            is_rootless: !rustix::process::geteuid().is_root(),
            null: File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map_err(host("cannot open /dev/null"))?,
            reaper: Mutex::default(),
            store: Mutex::default(),
            networks: OnceLock::new(),
            reactor: Reactor::start().map_err(host("cannot start the thread that waits for containers"))?,
            made: AtomicU64::new(0),
            options,
        }))
    }

    /// Makes the networks that `spec` asks for, by the name that the sandbox has on the host.
    pub fn networks_of(
        &self,
        name: &str,
        spec: &SandboxSpec,
        runtime: &OciRuntime,
    ) -> Result<Option<ContainerNetworks>> {
        if spec.networks.is_empty() {
            return Ok(None);
        }
        let networks = self.networks().for_container(name, &spec.networks)?;
        if let Some(networks) = &networks
            && mistakes_namespaces(runtime)
            && shows_root_sign(networks).map_err(|error| error.about("networks[0]"))?
        {
            let context = format!(
                "runsc {} takes every network namespace of this host's kernel for the host's own; use a newer runsc",
                runtime.version
            );
            return Err(Error::unsupported("networks[0]", context));
        }
        Ok(networks)
    }

    /// The networks that the SDK manages. What dead processes left of them goes when they are first asked for.
    fn networks(&self) -> &Networks {
        self.networks.get_or_init(|| {
            let networks = Networks::new(&self.options.networks);
            if let Err(error) = networks.sweep() {
                tracing::warn!(%error, "left behind by a process that is gone");
            }
            networks
        })
    }

    /// The store of root file systems, opened when it is first needed.
    ///
    /// # Errors
    /// A folder that cannot be made or used.
    pub fn store(&self) -> Result<Store> {
        let mut slot = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = &*slot {
            return Ok(store.clone());
        }
        let open = || {
            let store = Store::open(&self.options.store, UnpackLimits::default())?;
            store.sweep()?;
            Ok(store)
        };
        let store = open().map_err(|error: crate::image::ImageError| error.about("store"))?;
        *slot = Some(store.clone());
        Ok(store)
    }

    /// The reaper, started when it is first needed, and again if it is gone.
    ///
    /// # Errors
    /// There is no program to be one, or it does not start.
    pub fn reaper(&self) -> Result<Arc<Reaper>> {
        let mut slot = self.reaper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reaper) = &*slot
            && !reaper.is_gone()
        {
            return Ok(Arc::clone(reaper));
        }
        let program = self.reaper_program()?;
        let context = format!("cannot start the reaper {}", program.display());
        let reaper =
            Reaper::start(&program, self.home.path(), &self.reactor, self.options.call_limit).map_err(host(context))?;
        *slot = Some(Arc::clone(&reaper));
        Ok(reaper)
    }

    fn reaper_program(&self) -> Result<PathBuf> {
        if let Some(program) = &self.options.reaper {
            return Ok(program.clone());
        }
        if let Some(program) = std::env::var_os(VARIABLE) {
            return Ok(PathBuf::from(program));
        }
        if Reaper::is_offered_by_this_program() {
            return Ok(PathBuf::from("/proc/self/exe"));
        }
        let beside = std::env::current_exe()
            .ok()
            .map(|program| program.with_file_name(PROGRAM));
        let installed = beside
            .filter(|path| path.is_file())
            .or_else(|| runtime::on_path(PROGRAM));
        installed.ok_or_else(|| {
            let context = format!(
                "containers need a process that is their parent: call sandbox::worker::run_if_worker() first in main, \
                 or install {PROGRAM} beside the program or on PATH, or name it in {VARIABLE}"
            );
            Error::new(ErrorKind::NotFound, context)
        })
    }

    /// A name for a container whose spec has none.
    pub fn next_name(&self, kind: &str) -> String {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        format!("{kind}-{}-{number}", std::process::id())
    }

    /// Whether limits can be held by cgroups.
    pub fn has_cgroups(&self) -> bool {
        self.hierarchy.mode != Mode::None && !self.is_rootless && self.hierarchy.is_writable()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let reaper = self.reaper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reaper) = reaper {
            reaper.end();
        }
    }
}
