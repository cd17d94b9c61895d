//! The runtime: the backends of this host.

use std::ffi::c_char;
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use sandbox::{ContainerOptions, KvmOptions, Runtime, WorkerOptions, worker};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::argument;
use crate::cancel::{sandbox_cancel_t, token};
use crate::entry::{Outcome, entry};
use crate::error::sandbox_error_t;
use crate::handle::{Kind, Table};
use crate::object::Threads;
use crate::spec::{sandbox_spec_t, spec_of};
use crate::text::{self, sandbox_text_t};

/// The backends of this host, each opened when a spec first asks for it. Most programs need one. Sandboxes outlive the
/// runtime that they came from.
pub type sandbox_runtime_t = u64;

/// What a runtime's handle names.
pub(crate) struct RuntimeObject {
    pub runtime: Arc<Runtime>,
    pub threads: Threads,
}

pub(crate) static RUNTIMES: Table<RuntimeObject> = Table::new(Kind::Runtime);

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    kvm_device: Option<PathBuf>,
    kick_signal: Option<i32>,
    cpu_timeline: bool,
    worker: Worker,
    container: Container,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Worker {
    program: Option<PathBuf>,
    user: Option<(u32, u32)>,
    seccomp: Option<bool>,
    idle: usize,
    patience_ms: Option<u64>,
    cgroup: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Container {
    state: Option<PathBuf>,
    store: Option<PathBuf>,
    networks: Option<PathBuf>,
    call_limit_ms: Option<u64>,
    runsc_platform: Option<String>,
}

impl Options {
    fn open(self) -> Runtime {
        let reaper = self.worker.program.clone().or_else(installed_worker);
        let mut kvm = KvmOptions {
            kick_signal: self.kick_signal,
            cpu_timeline: self.cpu_timeline,
            worker: self.worker.into(),
            ..KvmOptions::default()
        };
        put(&mut kvm.device, self.kvm_device);
        let runtime = Runtime::with_kvm_options(kvm);
        runtime.with_container_options(self.container.with_reaper(reaper))
    }
}

/// The worker's program beside the library, unless a variable names another.
fn installed_worker() -> Option<PathBuf> {
    match std::env::var_os("SANDBOX_WORKER") {
        Some(_) => None,
        None => worker::beside_library(),
    }
}

/// Replaces a default, where something else was given.
fn put<T>(default: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *default = given;
    }
}

impl From<Worker> for WorkerOptions {
    fn from(given: Worker) -> Self {
        let mut options = WorkerOptions {
            program: given.program,
            idle: given.idle,
            cgroup: given.cgroup,
            ..WorkerOptions::default()
        };
        put(&mut options.user, given.user);
        put(&mut options.seccomp, given.seccomp);
        put(&mut options.patience, given.patience_ms.map(Duration::from_millis));
        options
    }
}

impl Container {
    fn with_reaper(self, reaper: Option<PathBuf>) -> ContainerOptions {
        let mut options = ContainerOptions {
            reaper,
            runsc_platform: self.runsc_platform,
            ..ContainerOptions::default()
        };
        put(&mut options.state, self.state);
        put(&mut options.store, self.store);
        put(&mut options.networks, self.networks);
        put(&mut options.call_limit, self.call_limit_ms.map(Duration::from_millis));
        options
    }
}

/// Makes a runtime. Opens nothing yet. The caller frees it with `sandbox_runtime_free`.
///
/// `options` is a JSON object, or NULL for the defaults:
///
/// - `"kvm_device"`: path of the KVM device, `/dev/kvm` by default.
/// - `"kick_signal"`: number of the real-time signal that threads of virtual processors are kicked with; the last but
///   one by default. Its handler is empty and has SA_ONSTACK; it is the only disposition that the library changes, and
///   it is refused if the process handles that signal already. One process has one. Programs in Go, whose runtime
///   handles all others, give 34.
/// - `"cpu_timeline"`: true to stamp timelines with processor time as well.
/// - `"worker"`: how the processes are made that hold micro-VMs: `"program"`, by default `sandbox-worker` beside the
///   library, which is also the parent of containers; `"user"`, the `[uid, gid]` that they become where the program is
///   root; `"seccomp"`, false to leave their system calls unfiltered; `"idle"`, how many are kept ready;
///   `"patience_ms"`, how long one may take for a call; `"cgroup"`, below which each gets its own.
/// - `"container"`: how containers are made: `"state"`, `"store"` and `"networks"`, folders; `"call_limit_ms"`, how
///   long one command of a runtime may take; `"runsc_platform"`.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_runtime_open(
    options: *const c_char,
    runtime: *mut sandbox_runtime_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(runtime, "runtime")?;
            let options: Options = argument::options(options, "options")?;
            *place = RUNTIMES.insert(RuntimeObject {
                runtime: Arc::new(options.open()),
                threads: Threads::default(),
            })?;
            Ok(())
        })
    }
}

/// Finds out what this host can do. `*report` is a JSON array with an object for each backend: `"backend"`, `"usable"`,
/// `"reasons"` why not or what is weaker than it could be, `"capabilities"` by name, and `"facts"`. The caller frees it
/// with `sandbox_text_free`.
///
/// Thread-safety: any thread, any time. Takes milliseconds: it tries things out. Each try has a deadline.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_runtime_probe(
    runtime: sandbox_runtime_t,
    cancel: sandbox_cancel_t,
    report: *mut sandbox_text_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(report, "report")?;
            let cancel = token(cancel)?;
            *place = RUNTIMES.with(runtime, |object| {
                let backends = Arc::clone(&object.runtime);
                let work = move || Ok(probe(&backends).to_string());
                text::hand_out(&object.threads.cancellable(cancel.as_deref(), work, drop)?)
            })?;
            Ok(())
        })
    }
}

fn probe(runtime: &Runtime) -> Value {
    let backends = runtime.probe().into_iter().map(|(backend, probe)| {
        let capabilities: Vec<&str> = probe.capabilities.iter().map(|capability| capability.name()).collect();
        let facts: Map<String, Value> = probe
            .facts
            .into_iter()
            .map(|(fact, value)| (fact, value.into()))
            .collect();
        json!({
            "backend": backend,
            "usable": probe.usable,
            "reasons": probe.reasons,
            "capabilities": capabilities,
            "facts": facts,
        })
    });
    backends.collect()
}

/// Reads the kernel and the initial RAM disk that `spec` names ahead of time, so that the first sandbox made of them
/// does not have to. The spec stays the caller's.
///
/// Thread-safety: any thread, any time. Blocks while files are read.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_runtime_preload(
    runtime: sandbox_runtime_t,
    spec: sandbox_spec_t,
    cancel: sandbox_cancel_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let (spec, cancel) = (spec_of(spec)?, token(cancel)?);
            RUNTIMES.with(runtime, |object| {
                let backends = Arc::clone(&object.runtime);
                let work = move || backends.kvm()?.preload(&spec);
                object.threads.cancellable(cancel.as_deref(), work, drop)
            })
        })
    }
}

/// Frees a runtime; sandboxes that were made by it live on. 0 is allowed and does nothing.
///
/// Thread-safety: any thread, any time. Waits for work that cancelled calls left behind. Fails with
/// `SANDBOX_ERROR_INVALID_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_runtime_free(runtime: sandbox_runtime_t) -> i32 {
    // SAFETY: null is allowed.
    unsafe { entry(ptr::null_mut(), || free(runtime)) }
}

fn free(runtime: sandbox_runtime_t) -> Outcome<()> {
    if runtime != 0 {
        RUNTIMES.remove(runtime)?.threads.join();
    }
    Ok(())
}
