//! What the tests of the C library share.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

pub use sandbox_testing::{TempFolder, skip};

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Where `cargo xtask test` has installed the library. Where it has not, says that this test was skipped.
pub fn prefix() -> Option<PathBuf> {
    let prefix = std::env::var_os("SANDBOX_TEST_PREFIX").map(PathBuf::from);
    if prefix.is_none() {
        skip("needs the library that cargo xtask test installs");
    }
    prefix
}

/// True where there is a KVM. Where not, says that this test was skipped.
pub fn has_kvm() -> bool {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if opened.is_err() {
        skip("needs /dev/kvm");
    }
    opened.is_ok()
}

/// The folder of the project's own guests.
pub fn guests() -> &'static Path {
    static GUESTS: OnceLock<TempFolder> = OnceLock::new();
    let folder = GUESTS.get_or_init(|| {
        let folder = TempFolder::new();
        sandbox_guests::write_to(folder.path()).unwrap();
        folder
    });
    folder.path()
}

/// A command in whose environment compilers and the dynamic linker find the library.
pub fn command(program: impl AsRef<std::ffi::OsStr>, prefix: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
        .env("LD_LIBRARY_PATH", prefix.join("lib"));
    command
}

/// Runs a command that must succeed, and gives its output.
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run {command:?}: {error}"),
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// What pkg-config says of the library.
pub fn flags(prefix: &Path, arguments: &[&str]) -> Vec<String> {
    let output = run(command("pkg-config", prefix).args(arguments).arg("sandbox"));
    output.split_whitespace().map(String::from).collect()
}

/// Compiles a C program against the installed library.
pub fn compile(prefix: &Path, source: &Path, program: &Path, options: &[&str]) {
    run(command("gcc", prefix)
        .args(["-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread"])
        .args(options)
        .arg("-o")
        .arg(program)
        .arg(source)
        .args(flags(prefix, &["--cflags", "--libs"])));
}
