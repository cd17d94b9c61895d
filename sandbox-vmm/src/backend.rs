//! The KVM backend.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sandbox_core::timeline::Recorder;
use sandbox_core::{Backend, ConsoleLog, Error, Phase, Probe, RestoreOptions, Restored, Result, Sandbox, SandboxSpec};

use crate::assemble::{self, Library, Prepared};
use crate::dialect;
use crate::machine::host::KvmHost;
use crate::machine::kick::KickSignal;
use crate::machine::probe;
use crate::sandbox::confinement::Unconfined;
use crate::sandbox::life::Life;
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
pub struct KvmBackend {
    host: KvmHost,
    library: Library,
    kick_signal: KickSignal,
    cpu_timeline: bool,
    created: AtomicU64,
}

impl KvmBackend {
    /// Opens KVM and claims the kick signal.
    ///
    /// # Errors
    /// No KVM, no right to it, or a signal that is in use; each names its remedy.
    pub fn open(options: &KvmOptions) -> Result<Self> {
        Ok(Self {
            host: KvmHost::open(&options.device)?,
            library: Library::default(),
            kick_signal: KickSignal::claim(options.kick_signal)?,
            cpu_timeline: options.cpu_timeline,
            created: AtomicU64::new(0),
        })
    }

    /// Reads kernel and initrd of `spec` into the backend's store, so that the first sandbox made of them does not have
    /// to.
    ///
    /// # Errors
    /// Anything wrong with the spec or the files.
    pub fn preload(&self, spec: &SandboxSpec) -> Result<()> {
        spec.validate()?;
        self.library.preload(&dialect::select(spec)?.plan(spec)?)
    }

    fn name_for(&self, spec: &SandboxSpec) -> String {
        let number = self.created.fetch_add(1, Ordering::Relaxed);
        spec.id
            .clone()
            .unwrap_or_else(|| format!("vm-{}-{number}", std::process::id()))
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
            .push(("max_vcpus".to_owned(), self.host.max_vcpus().to_string()));
        match probe::try_instructions(&self.host) {
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
        let cpu_clock = self.cpu_timeline.then_some(process_cpu_nanoseconds as _);
        let recorder = Arc::new(Recorder::start(cpu_clock));
        let Prepared {
            draft,
            opened,
            readiness,
        } = assemble::open(&self.host, &self.library, spec)?;
        let outlets = Outlets::new(recorder, ConsoleLog::new(console_capacity(spec)));
        let parts = assemble::assemble(&self.host, &self.library, spec, &draft, opened, &outlets)?;
        outlets.recorder.record(Phase::Created);
        let life = Life::new(outlets, parts.assembly, self.kick_signal, Arc::new(Unconfined));
        let sandbox = KvmSandbox::new(self.name_for(spec), life, readiness, parts.counters);
        Ok(Box::new(sandbox))
    }

    fn restore(&self, _snapshot: &Path, _options: &RestoreOptions) -> Result<Restored> {
        let context = "micro-VMs cannot be restored yet";
        Err(Error::new(sandbox_core::ErrorKind::Unsupported, context))
    }
}

/// How much console output is kept, in bytes.
fn console_capacity(spec: &SandboxSpec) -> usize {
    usize::try_from(spec.limits.console_bytes).unwrap_or(usize::MAX)
}

/// Processor time of all threads of this process, in nanoseconds.
fn process_cpu_nanoseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the result is written to a variable of this function.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
