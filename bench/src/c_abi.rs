//! What a call costs through the C interface, beside the same call in Rust.

use std::hint::black_box;
use std::ptr;

use anyhow::{Result, ensure};
use sandbox::spec::{GuestSpec, Isolation, UnikernelFamily, UnikernelGuest};
use sandbox::{Runtime, SandboxSpec};
use sandbox_c::code::SANDBOX_OK;
use sandbox_c::lifecycle as c;

use crate::clock::{self, Span};
use crate::report::Report;
use crate::{Options, elf};

/// Calls that are timed together: one alone is shorter than reading the clock.
const CALLS: u64 = 20_000;
const TEARDOWN_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// Cheap verbs, and a whole life, by either way in turn.
pub(crate) fn overhead(options: &Options, report: &mut Report) -> Result<()> {
    let path = std::env::temp_dir().join(format!("sandbox-bench-{}-c.elf", std::process::id()));
    // `hlt` for ever; and `xor eax, eax; mov dx, 0x501; out dx, al; hlt`, which exits with 0.
    let (idle, brief) = (path.with_extension("idle"), path);
    std::fs::write(&idle, elf::image(&[0xf4, 0xeb, 0xfd]))?;
    std::fs::write(&brief, elf::image(&[0x31, 0xc0, 0x66, 0xba, 0x01, 0x05, 0xee, 0xf4]))?;
    let measured = measure(options, report, &spec(&idle), &spec(&brief));
    for file in [idle, brief] {
        std::fs::remove_file(file)?;
    }
    measured
}

fn measure(options: &Options, report: &mut Report, idle: &SandboxSpec, brief: &SandboxSpec) -> Result<()> {
    let runtime = Runtime::new();
    let sandbox = runtime.create(idle)?;
    sandbox.start()?;
    let interface = Interface::open()?;
    let handle = interface.create(idle)?;
    succeeded(start(handle))?;
    for _ in 0..options.rounds {
        report.add_span("sdk/hello/in_process/rust", "state", each(|| sandbox.state()));
        report.add_span("sdk/hello/in_process/c", "state", each(|| state(handle)));
        let by_rust = each(|| (sandbox.pause(), sandbox.resume()));
        report.add_span("sdk/hello/in_process/rust", "pause_and_resume", by_rust);
        let by_c = each(|| (pause(handle), resume(handle)));
        report.add_span("sdk/hello/in_process/c", "pause_and_resume", by_c);

        let before = clock::now();
        let life = runtime.create(brief)?;
        life.start()?;
        life.wait(None)?;
        life.teardown().wait(TEARDOWN_LIMIT)?;
        report.add_span(
            "sdk/hello/in_process/rust",
            "call_to_torn_down",
            clock::now().since(before),
        );
        let spec = interface.spec(brief)?;
        let before = clock::now();
        let life = interface.create_from(spec)?;
        succeeded(start(life))?;
        succeeded(wait(life))?;
        succeeded(c::sandbox_free(life))?;
        report.add_span(
            "sdk/hello/in_process/c",
            "call_to_torn_down",
            clock::now().since(before),
        );
        succeeded(sandbox_c::spec::sandbox_spec_free(spec))?;
    }
    succeeded(c::sandbox_free(handle))
}

fn spec(image: &std::path::Path) -> SandboxSpec {
    let mut spec = SandboxSpec::new(GuestSpec::Unikernel(UnikernelGuest {
        image: image.to_path_buf(),
        family: UnikernelFamily::Bare,
        ..Default::default()
    }));
    spec.isolation = Isolation::InProcess;
    spec
}

/// The time of one of many calls.
fn each<T>(call: impl Fn() -> T) -> Span {
    let before = clock::now();
    for _ in 0..CALLS {
        black_box(call());
    }
    let all = clock::now().since(before);
    Span {
        real: all.real / CALLS,
        cpu: all.cpu / CALLS,
    }
}

fn succeeded(code: i32) -> Result<()> {
    ensure!(code == SANDBOX_OK, "the C interface answers {code}");
    Ok(())
}

/// A runtime behind the C interface.
struct Interface(u64);

impl Interface {
    fn open() -> Result<Self> {
        let mut runtime = 0;
        // SAFETY: all pointers are null or to this function's own.
        succeeded(unsafe { sandbox_c::runtime::sandbox_runtime_open(ptr::null(), &mut runtime, ptr::null_mut()) })?;
        Ok(Self(runtime))
    }

    fn spec(&self, spec: &SandboxSpec) -> Result<u64> {
        let json = spec.to_json();
        let mut handle = 0;
        // SAFETY: all pointers are null or to this function's own, and the length is the document's.
        succeeded(unsafe {
            sandbox_c::spec::sandbox_spec_from_json(json.as_ptr().cast(), json.len(), &mut handle, ptr::null_mut())
        })?;
        Ok(handle)
    }

    fn create_from(&self, spec: u64) -> Result<u64> {
        let mut handle = 0;
        // SAFETY: all pointers are null or to this function's own.
        succeeded(unsafe { c::sandbox_create(self.0, spec, 0, &mut handle, ptr::null_mut()) })?;
        Ok(handle)
    }

    fn create(&self, spec: &SandboxSpec) -> Result<u64> {
        self.create_from(self.spec(spec)?)
    }
}

fn state(handle: u64) -> i32 {
    let mut state = 0;
    // SAFETY: all pointers are null or to this function's own.
    unsafe { c::sandbox_state(handle, &mut state, ptr::null_mut()) }
}

fn start(handle: u64) -> i32 {
    // SAFETY: null is allowed.
    unsafe { c::sandbox_start(handle, 0, ptr::null_mut()) }
}

fn pause(handle: u64) -> i32 {
    // SAFETY: null is allowed.
    unsafe { c::sandbox_pause(handle, 0, ptr::null_mut()) }
}

fn resume(handle: u64) -> i32 {
    // SAFETY: null is allowed.
    unsafe { c::sandbox_resume(handle, 0, ptr::null_mut()) }
}

fn wait(handle: u64) -> i32 {
    // SAFETY: null is allowed.
    unsafe { c::sandbox_wait(handle, -1, 0, ptr::null_mut(), ptr::null_mut()) }
}
