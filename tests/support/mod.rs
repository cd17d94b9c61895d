//! What the tests of the public interface share.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod container;
pub mod linux;
pub mod network;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use sandbox::spec::{GuestSpec, Isolation, UnikernelFamily, UnikernelGuest};
use sandbox::{Backend, ContainerOptions, FaultReport, KvmOptions, Runtime, Sandbox, SandboxSpec, WorkerOptions};
pub use sandbox_testing::{TempFolder, skip};

/// Longer than anything here takes, on a machine that emulates another one and is busy besides.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where micro-VMs live in this test program: all that is promised is promised for both homes, and the programs whose
/// names begin with `in_worker` include the others' tests.
pub const HOME: Isolation = match env!("CARGO_CRATE_NAME").as_bytes() {
    [b'i', b'n', b'_', b'w', b'o', b'r', b'k', b'e', b'r', ..] => Isolation::Worker,
    _ => Isolation::InProcess,
};

/// One runtime for all tests of a program, as an embedder has it.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let worker = WorkerOptions {
            // Fifty at a time on one emulated processor.
            patience: 10 * PATIENCE,
            ..WorkerOptions::default()
        };
        let options = KvmOptions {
            worker,
            ..KvmOptions::default()
        };
        Runtime::with_kvm_options(options).with_container_options(container_options())
    })
}

/// Containers whose parent is the program for embedders that cannot be their own.
pub fn container_options() -> ContainerOptions {
    ContainerOptions {
        reaper: Some(PathBuf::from(env!("CARGO_BIN_EXE_sandbox-worker"))),
        // Fifty at a time on one emulated processor.
        call_limit: 10 * PATIENCE,
        ..ContainerOptions::default()
    }
}

/// The file of one of the project's own guests.
pub fn guest(name: &str) -> PathBuf {
    static GUESTS: OnceLock<TempFolder> = OnceLock::new();
    let folder = GUESTS.get_or_init(|| {
        let folder = TempFolder::new();
        sandbox_guests::write_to(folder.path()).unwrap();
        folder
    });
    let path = folder.path().join(name);
    assert!(path.is_file(), "there is no guest {name}");
    path
}

/// A spec for one of the project's own guests with these arguments, for a short life in little memory.
pub fn bare(name: &str, arguments: &[&str]) -> SandboxSpec {
    let mut spec = SandboxSpec::new(GuestSpec::Unikernel(UnikernelGuest {
        image: guest(name),
        family: UnikernelFamily::Bare,
        args: arguments.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }));
    spec.isolation = HOME;
    spec.memory = 16 << 20;
    spec
}

/// Made and started.
pub fn started(spec: &SandboxSpec) -> Box<dyn Sandbox> {
    let sandbox = created(spec);
    sandbox.start().unwrap();
    sandbox
}

/// Made.
pub fn created(spec: &SandboxSpec) -> Box<dyn Sandbox> {
    match runtime().create(spec) {
        Ok(sandbox) => sandbox,
        Err(error) => panic!("{}", error.report()),
    }
}

/// The console's output up to now, as text.
pub fn console_text(sandbox: &dyn Sandbox) -> String {
    String::from_utf8_lossy(&sandbox.console().read_from(0).bytes).into_owned()
}

/// Checks what is known of a triple fault: the registers, except where KVM loses them.
pub fn assert_triple_fault_report(report: &FaultReport, code: Range<u64>) {
    let lost = has_svm() && report.what.contains("its registers are lost");
    match &report.registers {
        Some(registers) => assert!(code.contains(&registers.rip), "{report:?}"),
        None => assert!(lost, "{report:?}"),
    }
}

/// Whether the processor has AMD's virtualisation.
fn has_svm() -> bool {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap();
    info.lines()
        .any(|line| line.starts_with("flags") && line.split(' ').any(|flag| flag == "svm"))
}

/// Waits for `marker` on the console.
pub fn await_console(sandbox: &dyn Sandbox, marker: &str) {
    let found = sandbox.console().wait_for(marker.as_bytes(), 0, PATIENCE);
    assert!(found.is_some(), "no {marker:?} in: {}", console_text(sandbox));
}

/// True on a host whose KVM executes every instruction. Where it does not, says that this test was skipped.
pub fn has_complete_kvm() -> bool {
    let is_complete = |(fact, value): &(String, String)| fact == "kvm" && value == "complete";
    let complete = runtime()
        .kvm()
        .is_ok_and(|backend| backend.probe().facts.iter().any(is_complete));
    if !complete {
        skip("needs a KVM that executes every instruction");
    }
    complete
}

/// True when the kernels and disks that tests boot are there. Where not, says that this test was skipped.
pub fn assets() -> Option<PathBuf> {
    let folder = std::env::var_os("SANDBOX_TEST_ASSETS").map(PathBuf::from);
    if folder.is_none() {
        skip("needs the assets that cargo xtask test builds");
    }
    folder
}

/// What this host has that bears the name of a sandbox: processes, mounts, cgroups, interfaces, folders of the SDK.
pub fn leftovers(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        // One that has ended meanwhile is none.
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let is_own = process.file_name().to_str() == Some(&*std::process::id().to_string());
        if !is_own && String::from_utf8_lossy(&words).contains(name) {
            found.push(format!(
                "process {}",
                String::from_utf8_lossy(&words).replace('\0', " ")
            ));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(str::to_owned));
    let options = container_options();
    for root in [Path::new("/sys/fs/cgroup"), &options.state, &options.store] {
        look_for(name, root, 4, &mut found);
    }
    found
}

fn look_for(name: &str, folder: &Path, depth: usize, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().contains(name) {
            found.push(entry.path().display().to_string());
        } else if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            look_for(name, &entry.path(), depth - 1, found);
        }
    }
}

/// Whether this is the long run, in which tests may take as long as they like.
pub fn has_time() -> bool {
    std::env::var_os("SANDBOX_TEST_ROUNDS").is_some_and(|rounds| rounds == "full")
}

/// Masks what the emulated KVM host gets wrong: it does not see a guest's `xsetbv`. Does nothing on other hosts.
pub fn mask_extended_state(spec: &mut SandboxSpec) {
    // The signature of QEMU's own emulation, where there is a hypervisor.
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    if leaf.ebx.to_le_bytes() != *b"TCGT" {
        return;
    }
    let features = [
        "xsave", "xsaveopt", "xsavec", "xgetbv1", "xsaves", "avx", "avx2", "fma", "f16c",
    ];
    spec.cpu.mask.extend(features.map(String::from));
}
