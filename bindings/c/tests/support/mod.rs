//! What the tests of the C library share.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that goes with the value.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sandbox-c-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

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
    static GUESTS: OnceLock<Folder> = OnceLock::new();
    let folder = GUESTS.get_or_init(|| {
        let folder = Folder::new();
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

/// Says that the running test was skipped, and why.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    eprintln!("skipped {name}: {reason}");
    if let Some(path) = std::env::var_os("SANDBOX_SKIP_FILE") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{name}\t{reason}\n").as_bytes()).unwrap();
    }
}
