//! One `Sandbox` trait before every wall: KVM micro-VMs and the containers of OCI runtimes.
//!
//! ```no_run
//! use std::time::Duration;
//! use sandbox::{Runtime, SandboxSpec};
//!
//! # fn main() -> sandbox::Result<()> {
//! let spec = SandboxSpec::from_json(
//!     br#"{
//!         "guest": {"linux": {"kernel": "/boot/vmlinuz", "cmdline": "console=ttyS0"}},
//!         "isolation": "in_process",
//!         "ready": {"console": {"marker": "login:"}}
//!     }"#,
//! )?;
//! let runtime = Runtime::new();
//! let sandbox = runtime.create(&spec)?;
//! sandbox.start()?;
//! sandbox.wait_ready(Duration::from_secs(30))?;
//! let exit = sandbox.wait(None)?;
//! println!("ended by {exit}");
//! sandbox.teardown().wait(Duration::from_secs(5))?;
//! # Ok(())
//! # }
//! ```
//!
//! The contract stands in [`sandbox_core`], re-exported here; [`Runtime`] picks the backend that a spec asks for.

mod containers;
pub mod worker;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

pub use sandbox_container::{ContainerBackend, ContainerOptions, image, sweep};
pub use sandbox_core::{
    Backend, Capability, ConsoleChunk, ConsoleLog, Error, ErrorKind, Exec, ExecSession, Exit, FaultReport, Fork,
    Lifecycle, Manifest, NetworkState, Phase, Probe, Registers, Renewed, RestoreOptions, Restored, Result, Sandbox,
    SandboxSpec, SnapshotOptions, State, Stats, Teardown, Timeline, Uniqueness, Verb, Weakness, console, error, exit,
    lifecycle, limits, network, pool, snapshot, spec, stats, timeline,
};
pub use sandbox_core::{document, listeners};
pub use sandbox_net as net;
pub use sandbox_vmm::{Identification, KvmBackend, KvmOptions, WorkerOptions};

use containers::{Containers, unusable};
use spec::GuestSpec;

/// All backends of this host, each opened when a spec first asks for it.
#[derive(Default)]
pub struct Runtime {
    kvm_options: KvmOptions,
    kvm: Mutex<Option<Arc<KvmBackend>>>,
    containers: Containers,
}

impl Runtime {
    /// A runtime with defaults. Opens nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A runtime whose KVM backend is set up by `options`.
    pub fn with_kvm_options(options: KvmOptions) -> Self {
        Self {
            kvm_options: options,
            ..Self::default()
        }
    }

    /// The same runtime, with containers made as `options` say.
    #[must_use]
    pub fn with_container_options(mut self, options: ContainerOptions) -> Self {
        self.containers = Containers::new(options);
        self
    }

    /// Makes the sandbox that `spec` describes, in state [`State::Created`].
    ///
    /// # Errors
    /// Anything wrong with the spec, or with the host for this kind of guest. Nothing is left behind then.
    pub fn create(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>> {
        match &spec.guest {
            GuestSpec::Linux(_) | GuestSpec::Unikernel(_) => self.kvm()?.create(spec),
            GuestSpec::Container(container) => self.container(&container.runtime)?.create(spec),
            _ => Err(Error::unsupported("guest", "no backend is for this kind of guest")),
        }
    }

    /// Makes a sandbox from a snapshot folder, in state [`State::Paused`], or running if the options say start.
    ///
    /// # Errors
    /// Anything wrong with the snapshot, the options or the host. Nothing is left behind then.
    pub fn restore(&self, snapshot: &Path, options: &RestoreOptions) -> Result<Restored> {
        match sandbox_container::runtime_of_snapshot(snapshot)? {
            Some(runtime) => self.container(&runtime)?.restore(snapshot, options),
            None => self.kvm()?.restore(snapshot, options),
        }
    }

    /// The KVM backend, opened on first use.
    ///
    /// # Errors
    /// No KVM, or no right to it. A later call tries again.
    pub fn kvm(&self) -> Result<Arc<KvmBackend>> {
        let mut kvm = self.kvm.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backend) = &*kvm {
            return Ok(Arc::clone(backend));
        }
        let backend = Arc::new(KvmBackend::open(&self.kvm_options)?);
        *kvm = Some(Arc::clone(&backend));
        Ok(backend)
    }

    /// The backend of an OCI runtime, a name on `PATH` or a path, opened on first use.
    ///
    /// # Errors
    /// No such program, or none that is a known runtime. A later call tries again.
    pub fn container(&self, runtime: &str) -> Result<Arc<ContainerBackend>> {
        self.containers.backend(runtime)
    }

    /// What this host can do, by backend. Tries things out, which takes a moment.
    pub fn probe(&self) -> Vec<(&'static str, Probe)> {
        let kvm = match self.kvm() {
            Ok(backend) => backend.probe(),
            Err(error) => unusable(&error),
        };
        let mut probes = vec![("kvm", kvm)];
        probes.extend(self.containers.probe());
        probes
    }
}
