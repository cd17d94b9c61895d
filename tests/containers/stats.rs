//! What is known of a container's use where no cgroup counts it.

use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use sandbox::{Capability, Sandbox};

use crate::support::container::{is_usable, script};
use crate::support::{PATIENCE, created, runtime, skip};

/// Says that this process is the one without cgroups.
const CHILD: &str = "SANDBOX_TEST_WITHOUT_CGROUPS";
/// Where they are mounted.
const CGROUPS: &CStr = c"/sys/fs/cgroup";
/// Uses the processor for longer than the kernel's smallest measure of that, and says so.
pub const BUSY: &str = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; echo done; sleep 1000000";

/// Waits until the container that runs [`BUSY`] has done so.
pub fn await_use(sandbox: &dyn Sandbox) {
    assert!(sandbox.console().wait_for(b"done", 0, PATIENCE).is_some());
}

/// What the process without cgroups does: not a test of its own.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let probe = sandbox::Backend::probe(&*runtime().container("runsc").unwrap());
    assert!(!probe.capabilities.contains(&Capability::LimitMemory), "{probe:?}");
    let sandbox = created(&script("runsc", BUSY));
    sandbox.start().unwrap();
    await_use(&*sandbox);
    let stats = sandbox.stats().unwrap();
    assert!(stats.memory.guest_touched.is_some_and(|bytes| bytes > 0), "{stats:?}");
    // Nobody has counted it, and what runsc says is of all the host.
    assert_eq!(stats.cpu.guest, None);
    sandbox.teardown().wait(PATIENCE).unwrap();
    println!("\ncounted");
}

#[test]
fn without_cgroups_runscs_own_events_tell() {
    // SAFETY: takes no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return skip("needs root to take cgroups away");
    }
    if !is_usable("runsc") {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "stats::child", "--nocapture"])
        .env(CHILD, "1")
        .env_remove("SANDBOX_SKIP_FILE");
    // SAFETY: the closure makes system calls alone, and touches no memory but static strings.
    unsafe { command.pre_exec(take_cgroups_away) };
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.lines().any(|line| line == "counted"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// In a mount namespace of the calling process's own.
fn take_cgroups_away() -> io::Result<()> {
    let none = std::ptr::null();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the strings are static, and the kernel reads nothing else.
    let results = unsafe {
        [
            libc::unshare(libc::CLONE_NEWNS),
            libc::mount(none, c"/".as_ptr(), none, private, none.cast()),
            libc::umount2(CGROUPS.as_ptr(), libc::MNT_DETACH),
        ]
    };
    match results {
        [0, 0, 0] => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
