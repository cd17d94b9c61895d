//! What a worker would try that its guest has taken over. For tests alone: nothing of it is in a build without the
//! feature `malice`.
//!
//! The sandbox's name says what is tried: `attempt.NAME.ARGUMENT`. The outcome is the process's end: [`SUCCEEDED`], or
//! [`REFUSED`] with the reason as its last words, or the signal by which its filter ended it.

use std::ffi::CString;
use std::fs;
use std::io::{self, Error};
use std::net::TcpStream;
use std::os::unix::fs::chroot;
use std::path::Path;

/// Exit status of an attempt that came through.
pub const SUCCEEDED: i32 = 42;
/// Exit status of one that did not.
pub const REFUSED: i32 = 43;

/// All attempts by name.
pub const ATTEMPTS: [&str; 10] = [
    "open",
    "create",
    "proc",
    "connect",
    "exec",
    "ptrace",
    "signal",
    "escape",
    "mount",
    "namespace",
];

/// What a worker would use up of its host, by name; the argument says how much: MiB of memory, or a number of threads.
pub const EXCESSES: [&str; 2] = ["memory", "threads"];

/// Makes the attempt that the sandbox's name says, if it says one, and ends this process.
pub fn attempt_by_name(sandbox: &str) {
    if let Some((attempt, argument)) = sandbox.strip_prefix("attempt.").and_then(|rest| rest.split_once('.')) {
        attempt_and_exit(attempt, argument);
    }
}

/// Makes an attempt and ends this process with its outcome.
pub fn attempt_and_exit(attempt: &str, argument: &str) -> ! {
    let status = match make(attempt, argument) {
        Ok(()) => SUCCEEDED,
        Err(error) => {
            eprintln!("{attempt}: {error}");
            REFUSED
        }
    };
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// `argument` is a process of the host, or a TCP port of it.
fn make(attempt: &str, argument: &str) -> io::Result<()> {
    let number = || argument.parse::<i32>().map_err(io::Error::other);
    match attempt {
        "open" => fs::read("/etc/passwd").map(drop),
        "create" => fs::write("/tmp/sandbox-malice", "x").and_then(|()| fs::remove_file("/tmp/sandbox-malice")),
        "proc" => fs::read(format!("/proc/{argument}/cmdline")).map(drop),
        "connect" => TcpStream::connect(("127.0.0.1", number()? as u16)).map(drop),
        "exec" => execute("/bin/sh"),
        "ptrace" => trace(number()?),
        // Ignored by whoever does not ask for it.
        "signal" => check(unsafe_kill(number()?, libc::SIGURG)),
        "escape" => escape(),
        "mount" => mount(),
        "namespace" => enter_namespace(),
        "memory" => use_memory(number()? as usize),
        "threads" => start_threads(number()?),
        _ => Err(io::Error::other("there is no such attempt")),
    }
}

/// Comes back only with an error; the program's own status says that it ran.
fn execute(program: &str) -> io::Result<()> {
    let path = CString::new(program)?;
    let command = CString::new(format!("exit {SUCCEEDED}"))?;
    let arguments = [path.as_ptr(), c"-c".as_ptr(), command.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    // SAFETY: both arrays end with a null pointer and hold NUL-terminated strings.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Err(Error::last_os_error())
}

fn trace(pid: i32) -> io::Result<()> {
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes no pointers; the tracee is not stopped and is let go by this process's end.
    match unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, null, null) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Up to the host's root, as far as `..` leads from where this process stands.
fn escape() -> io::Result<()> {
    if let Err(error) = chroot("/") {
        eprintln!("chroot: {error}");
    }
    for _ in 0..32 {
        std::env::set_current_dir("..")?;
    }
    match Path::new("etc/passwd").exists() {
        true => Ok(()),
        false => Err(io::Error::other("there is nothing up there")),
    }
}

fn mount() -> io::Result<()> {
    let null = std::ptr::null();
    let name = c"tmpfs".as_ptr();
    // A namespace of its own, so that nobody else sees it.
    // SAFETY: takes an integer.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // SAFETY: the strings are NUL-terminated, the others may be null.
    check(unsafe { libc::mount(name, c"/".as_ptr(), name, 0, null) })
}

/// A user namespace gives all capabilities over what is made in it. Only a process with a single thread enters one.
fn enter_namespace() -> io::Result<()> {
    // SAFETY: the child makes one system call and ends.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(Error::last_os_error()),
        // SAFETY: as above.
        0 => unsafe {
            let refused = libc::unshare(libc::CLONE_NEWUSER);
            libc::_exit(i32::from(refused != 0))
        },
        _ => {
            let mut status = -1;
            // SAFETY: the status outlives the call.
            check(unsafe { libc::waitpid(child, &raw mut status, 0) })?;
            match status {
                0 => Ok(()),
                _ => Err(io::ErrorKind::PermissionDenied.into()),
            }
        }
    }
}

/// Takes memory and writes to each page of it.
fn use_memory(mebibytes: usize) -> io::Result<()> {
    // By one fill of memory each, which is quick in a build for tests as well.
    let taken: Vec<Vec<u8>> = (0..mebibytes).map(|_| vec![0x5a; 1 << 20]).collect();
    std::hint::black_box(taken);
    Ok(())
}

/// Starts threads that do not end.
fn start_threads(count: i32) -> io::Result<()> {
    for _ in 0..count {
        std::thread::Builder::new().stack_size(64 << 10).spawn(|| {
            loop {
                std::thread::park();
            }
        })?;
    }
    Ok(())
}

fn unsafe_kill(pid: i32, signal: i32) -> i32 {
    // SAFETY: takes integers.
    unsafe { libc::kill(pid, signal) }
}

fn check(result: i32) -> io::Result<()> {
    match result {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}
