//! Builds the guests with gcc: every source once, then each guest from all of them, the linker dropping what it does
//! not use.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// A guest is `programs/NAME.c`, with underscores for the dashes of its name.
const GUESTS: [&str; 13] = [
    "as-hermit",
    "as-nanos",
    "as-osv",
    "as-unikraft",
    "clone-check",
    "disk-check",
    "endings",
    "hello",
    "hog",
    "hostile",
    "http-reply",
    "rng",
    "vsock-echo",
];

/// What the guests share, by subject.
const SHARED: [&str; 5] = ["machine", "virtio", "net", "vsock", "families"];

/// Guests of Solo5's hvt interface are `hvt/NAME.c`, linked from what they share alone: nothing of them is a device.
const HVT_GUESTS: [&str; 2] = ["hvt-devices", "hvt-plain"];

const HVT: &str = "hvt";

/// What they share: their own, and of the others what needs no machine.
const HVT_SHARED: [&str; 4] = ["hvt/start.S", "hvt/hvt.c", "machine/text.c", "machine/memory.c"];

const HVT_LINKER_SCRIPT: &str = "hvt/guest.ld";

const PROGRAMS: &str = "programs";

const LINKER_SCRIPT: &str = "machine/guest.ld";

/// Freestanding code at a fixed address that touches general-purpose registers only, so that a KVM that emulates every
/// instruction can run it. Packets and rings are read through structures laid over bytes, hence no strict aliasing.
/// Optimizing at link time saves a quarter of the instructions that http-reply executes for a request.
const COMPILER_FLAGS: [&str; 15] = [
    "-std=gnu11",
    "-O2",
    "-flto",
    "-Wall",
    "-Wextra",
    "-ffreestanding",
    "-mgeneral-regs-only",
    "-mno-red-zone",
    "-fno-pic",
    "-fno-strict-aliasing",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables",
    "-ffunction-sections",
    "-fdata-sections",
];

const LINKER_FLAGS: [&str; 7] = [
    "-nostdlib",
    "-static",
    "-no-pie",
    "-s",
    "-Wl,--gc-sections",
    "-Wl,--build-id=none",
    "-Wl,-z,max-page-size=4096",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let output = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run by cargo only")?);
    for path in SHARED.iter().chain(&[PROGRAMS, HVT, "build.rs"]) {
        println!("cargo::rerun-if-changed={path}");
    }

    let mut objects = Vec::new();
    for directory in SHARED {
        for source in sources(Path::new(directory))? {
            objects.push(compile(&source, &output)?);
        }
    }
    for guest in GUESTS {
        let program = format!("{PROGRAMS}/{}.c", guest.replace('-', "_"));
        let object = compile(Path::new(&program), &output)?;
        link(&object, &objects, LINKER_SCRIPT, &output.join(guest))?;
    }
    let shared = HVT_SHARED.map(|source| compile(Path::new(source), &output));
    let shared: Vec<PathBuf> = shared.into_iter().collect::<Result<_, _>>()?;
    for guest in HVT_GUESTS {
        let object = compile(Path::new(&format!("{HVT}/{}.c", guest.replace('-', "_"))), &output)?;
        link(&object, &shared, HVT_LINKER_SCRIPT, &output.join(guest))?;
    }
    Ok(())
}

/// The C and assembly files of a directory, in the order of their names, so that the guests are the same every time.
fn sources(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: io::Error| format!("{} cannot be read: {error}", directory.display());
    let mut found = Vec::new();
    for entry in directory.read_dir().map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "c" || extension == "S")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Compiles one source; gives the object file.
fn compile(source: &Path, output: &Path) -> Result<PathBuf, String> {
    let name = source.to_string_lossy().replace('/', "-");
    let object = output.join(format!("{name}.o"));
    let mut gcc = Command::new("gcc");
    gcc.args(COMPILER_FLAGS)
        .arg("-I.")
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(&object);
    run(gcc, source.as_os_str())?;
    Ok(object)
}

fn link(program: &Path, shared: &[PathBuf], script: &str, image: &Path) -> Result<(), String> {
    let mut gcc = Command::new("gcc");
    gcc.args(COMPILER_FLAGS)
        .args(LINKER_FLAGS)
        .arg(format!("-Wl,-T,{script}"));
    gcc.arg(program).args(shared).arg("-o").arg(image);
    run(gcc, image.as_os_str())
}

/// Runs gcc, passes its warnings on, and explains its failure.
fn run(mut gcc: Command, what: &OsStr) -> Result<(), String> {
    let result = gcc.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "gcc is missing, and the guests are written in C: apt-get install gcc".to_owned(),
        _ => format!("gcc cannot be run: {error}"),
    })?;
    let messages = String::from_utf8_lossy(&result.stderr);
    if !result.status.success() {
        return Err(format!("gcc cannot build {}:\n{messages}", what.to_string_lossy()));
    }
    for line in messages.lines() {
        println!("cargo::warning={line}");
    }
    Ok(())
}
