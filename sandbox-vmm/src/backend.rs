//! The KVM backend.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sandbox_core::pool::PoolMetrics;
use sandbox_core::spec::Isolation;
use sandbox_core::timeline::CpuClock;
use sandbox_core::{Backend, ConsoleLog, Error, Phase, Probe, RestoreOptions, Restored, Result, Sandbox, SandboxSpec};

use crate::assemble::{self, Prepared};
use crate::dialect::Identification;
use crate::machine::host::KvmHost;
use crate::machine::kick::KickSignal;
use crate::machine::probe;
use crate::memory::userfault::open_device;
use crate::networks;
use crate::sandbox::confinement::Unconfined;
use crate::sandbox::life::Life;
use crate::sandbox::shared::Shared;
use crate::sandbox::snapshot::{Reopened, restore};
use crate::sandbox::{CAPABILITIES, KvmSandbox, Outlets};
use crate::worker::{self, Cargo, Home, Order, WorkerOptions, Workers};

/// How the KVM backend is set up.
#[derive(Clone, Debug)]
pub struct KvmOptions {
    /// The KVM device.
    pub device: PathBuf,
    /// Number of the real-time signal that vCPU threads are kicked with; the last but one if left out. One process has
    /// one.
    pub kick_signal: Option<i32>,
    /// Stamp timelines with processor time as well, at the price of a system call per phase.
    pub cpu_timeline: bool,
    /// How worker processes are made.
    pub worker: WorkerOptions,
}

impl Default for KvmOptions {
    fn default() -> Self {
        Self {
            device: PathBuf::from("/dev/kvm"),
            kick_signal: None,
            cpu_timeline: false,
            worker: WorkerOptions::default(),
        }
    }
}

/// Makes micro-VMs on the host's KVM.
pub struct KvmBackend {
    shared: Arc<Shared>,
    worker_options: WorkerOptions,
    /// From the first sandbox on that wants one.
    workers: Mutex<Option<Arc<Workers>>>,
}

impl KvmBackend {
    /// Opens KVM and claims the kick signal.
    ///
    /// # Errors
    /// No KVM, no right to it, or a signal that is in use; each names its remedy.
    pub fn open(options: &KvmOptions) -> Result<Self> {
        let host = KvmHost::open(&options.device)?;
        let kick_signal = KickSignal::claim(options.kick_signal)?;
        let cpu_clock = options.cpu_timeline.then_some(process_cpu_nanoseconds as CpuClock);
        Ok(Self {
            shared: Arc::new(Shared::new(host, kick_signal, cpu_clock)),
            worker_options: options.worker.clone(),
            workers: Mutex::new(None),
        })
    }

    /// Sets up what worker processes need, and makes the idle ones that the options ask for, so that the first sandbox
    /// does not have to wait for it.
    ///
    /// # Errors
    /// No worker program, or a host without threads or descriptors left.
    pub fn prepare_workers(&self) -> Result<()> {
        self.workers().map(drop)
    }

    /// Where sandboxes in workers are made.
    fn home(&self) -> Result<Home> {
        Ok(Home {
            shared: Arc::clone(&self.shared),
            workers: self.workers()?,
        })
    }

    fn workers(&self) -> Result<Arc<Workers>> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(workers) = &*workers {
            return Ok(Arc::clone(workers));
        }
        let made = Workers::new(&self.shared.host, &self.worker_options)?;
        *workers = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Reads kernel and initrd of `spec` into the backend's store, so that the first sandbox made of them does not have
    /// to.
    ///
    /// # Errors
    /// Anything wrong with the spec or the files.
    pub fn preload(&self, spec: &SandboxSpec) -> Result<()> {
        spec.validate()?;
        self.shared.library.preload(spec)
    }

    /// Keeps `count` VMs ready from now on in which a guest by `spec` can be started or restored, in place of as many as
    /// before; none with 0. They are made on a thread of their own, and whenever one is taken another is made. A sandbox
    /// takes one if it fits, in memory size, vCPUs, chipset and huge pages, whatever its kernel, and is made from nothing
    /// otherwise: nobody waits for the pool.
    ///
    /// # Errors
    /// Anything wrong with the spec or its kernel file, more than [`sandbox_core::pool::MAX_SIZE`], or a host without
    /// threads left. [`ErrorKind::Unsupported`](sandbox_core::ErrorKind::Unsupported) for a spec whose sandboxes live in
    /// workers: these are kept ready by [`WorkerOptions::idle`].
    pub fn keep_shells(&self, spec: &SandboxSpec, count: usize) -> Result<()> {
        spec.validate()?;
        if spec.isolation == Isolation::Worker {
            let context = "is a worker's, which has a VM of its own; keep workers ready by WorkerOptions::idle";
            return Err(Error::unsupported("isolation", context));
        }
        let kind = self.shared.library.shell_kind(spec)?;
        self.shared.library.shells.keep(&self.shared.host, kind, count)
    }

    /// What has become of the VMs that are kept ready for guests like that of `spec`; `None` if none are.
    ///
    /// # Errors
    /// Anything wrong with the spec or its kernel file.
    pub fn shell_metrics(&self, spec: &SandboxSpec) -> Result<Option<PoolMetrics>> {
        let kind = self.shared.library.shell_kind(spec)?;
        Ok(self.shared.library.shells.metrics(&kind))
    }

    /// Waits until `count` VMs are ready that are made ahead of time for guests like that of `spec`; false when `timeout`
    /// is over first, one cannot be made, or not as many are kept.
    ///
    /// # Errors
    /// Anything wrong with the spec or its kernel file.
    pub fn wait_for_shells(&self, spec: &SandboxSpec, count: usize, timeout: Duration) -> Result<bool> {
        let kind = self.shared.library.shell_kind(spec)?;
        Ok(self.shared.library.shells.wait_ready(&kind, count, timeout))
    }

    /// What the unikernel of `spec` is recognised as, and by what in its file, whatever family the spec says.
    ///
    /// # Errors
    /// A spec without a kernel file, or a file that is no unikernel.
    pub fn identify(&self, spec: &SandboxSpec) -> Result<Identification> {
        self.shared.library.identify(spec)
    }
}

impl Backend for KvmBackend {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn probe(&self) -> Probe {
        let mut probe = Probe {
            usable: true,
            capabilities: CAPABILITIES.into(),
            ..Probe::default()
        };
        probe
            .facts
            .push(("max_vcpus".to_owned(), self.shared.host.max_vcpus().to_string()));
        match probe::try_instructions(&self.shared.host) {
            Ok(probe::Findings { missing }) if missing.is_empty() => {
                probe.facts.push(("kvm".to_owned(), "complete".to_owned()));
            }
            Ok(probe::Findings { missing }) => {
                probe.facts.push(("kvm".to_owned(), "software".to_owned()));
                probe.reasons.push(format!(
                    "this host's KVM cannot execute {}, so only guests built with general-purpose registers run; use a \
                     host with VT-x or SVM for others",
                    missing.join(", ")
                ));
            }
            Err(error) => {
                probe.usable = false;
                probe.reasons.push(Error::from(error).report());
            }
        }
        probe
    }

    fn create(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>> {
        networks::create(spec, |spec| self.create_machine(spec))
    }

    fn restore(&self, snapshot: &Path, options: &RestoreOptions) -> Result<Restored> {
        let reopened = Reopened::open(&self.shared, snapshot, options)?;
        let restored = match reopened.berth.isolation() {
            Isolation::Worker => worker::restore(&self.home()?, reopened, options)?,
            Isolation::InProcess => restore(&self.shared, reopened, options)?,
        };
        if options.start {
            restored.sandbox.resume()?;
        }
        Ok(restored)
    }
}

impl KvmBackend {
    /// A micro-VM before networks that are there.
    fn create_machine(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>> {
        let shared = &self.shared;
        let recorder = shared.recorder();
        let prepared = assemble::open(&shared.host, &shared.library, spec)?;
        let name = shared.claim_name(spec.id.as_deref())?;
        let outlets = Outlets::new(recorder, ConsoleLog::new(assemble::console_capacity(spec)));
        if spec.isolation == Isolation::Worker {
            outlets.recorder.record(Phase::SpecChecked);
            let Prepared {
                draft,
                opened,
                readiness,
            } = prepared;
            let order = Order {
                name,
                origin: draft.origin(spec),
                hypercalls_only: draft.has_hypercalls_only(),
                readiness,
                outlets,
                list: None,
            };
            let on_demand = draft.is_loaded_on_demand(spec);
            let cargo = Cargo::Boot {
                kernel: opened.kernel,
                initrd: opened.initrd,
                // Without one the kernel is copied.
                faults: on_demand.then(open_device).transpose().ok().flatten(),
            };
            let pending = worker::begin(&self.home()?, order, &cargo, opened.devices)?;
            return Ok(Box::new(pending.complete()?));
        }
        let Prepared {
            draft,
            opened,
            readiness,
        } = prepared;
        let parts = assemble::assemble(&shared.host, &shared.library, spec, &draft, opened, &outlets)?;
        outlets.recorder.record(Phase::Created);
        let life = Life::new(outlets, parts.assembly, shared.kick_signal, Arc::new(Unconfined));
        let sandbox = KvmSandbox::new(Arc::clone(shared), name, life, readiness, parts.counters);
        Ok(Box::new(sandbox))
    }
}

/// Processor time of all threads of this process, in nanoseconds.
pub(crate) fn process_cpu_nanoseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the result is written to a variable of this function.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
