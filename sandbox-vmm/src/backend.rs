//! The KVM backend.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandbox_core::timeline::CpuClock;
use sandbox_core::{Backend, ConsoleLog, Error, Phase, Probe, RestoreOptions, Restored, Result, Sandbox, SandboxSpec};

use crate::assemble::{self, Prepared};
use crate::dialect::Identification;
use crate::machine::host::KvmHost;
use crate::machine::kick::KickSignal;
use crate::machine::probe;
use crate::sandbox::confinement::Unconfined;
use crate::sandbox::life::Life;
use crate::sandbox::shared::Shared;
use crate::sandbox::snapshot::restore;
use crate::sandbox::{CAPABILITIES, KvmSandbox, Outlets};

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
}

impl Default for KvmOptions {
    fn default() -> Self {
        Self {
            device: PathBuf::from("/dev/kvm"),
            kick_signal: None,
            cpu_timeline: false,
        }
    }
}

/// Makes micro-VMs on the host's KVM.
pub struct KvmBackend(Arc<Shared>);

impl KvmBackend {
    /// Opens KVM and claims the kick signal.
    ///
    /// # Errors
    /// No KVM, no right to it, or a signal that is in use; each names its remedy.
    pub fn open(options: &KvmOptions) -> Result<Self> {
        let host = KvmHost::open(&options.device)?;
        let kick_signal = KickSignal::claim(options.kick_signal)?;
        let cpu_clock = options.cpu_timeline.then_some(process_cpu_nanoseconds as CpuClock);
        Ok(Self(Arc::new(Shared::new(host, kick_signal, cpu_clock))))
    }

    /// Reads kernel and initrd of `spec` into the backend's store, so that the first sandbox made of them does not have
    /// to.
    ///
    /// # Errors
    /// Anything wrong with the spec or the files.
    pub fn preload(&self, spec: &SandboxSpec) -> Result<()> {
        spec.validate()?;
        self.0.library.preload(spec)
    }

    /// What the unikernel of `spec` is recognised as, and by what in its file, whatever family the spec says.
    ///
    /// # Errors
    /// A spec without a kernel file, or a file that is no unikernel.
    pub fn identify(&self, spec: &SandboxSpec) -> Result<Identification> {
        self.0.library.identify(spec)
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
            .push(("max_vcpus".to_owned(), self.0.host.max_vcpus().to_string()));
        match probe::try_instructions(&self.0.host) {
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
        let shared = &self.0;
        let recorder = shared.recorder();
        let Prepared {
            draft,
            opened,
            readiness,
        } = assemble::open(&shared.host, &shared.library, spec)?;
        let name = shared.claim_name(spec.id.as_deref())?;
        let outlets = Outlets::new(recorder, ConsoleLog::new(assemble::console_capacity(spec)));
        let parts = assemble::assemble(&shared.host, &shared.library, spec, &draft, opened, &outlets)?;
        outlets.recorder.record(Phase::Created);
        let life = Life::new(outlets, parts.assembly, shared.kick_signal, Arc::new(Unconfined));
        let sandbox = KvmSandbox::new(Arc::clone(shared), name, life, readiness, parts.counters);
        Ok(Box::new(sandbox))
    }

    fn restore(&self, snapshot: &Path, options: &RestoreOptions) -> Result<Restored> {
        restore(&self.0, snapshot, options)
    }
}

/// Processor time of all threads of this process, in nanoseconds.
fn process_cpu_nanoseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the result is written to a variable of this function.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
