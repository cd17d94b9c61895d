//! What a worker can do that its guest has taken over: nothing. Each attempt is shown to come through unjailed, to be
//! ended by the filters of system calls, and, without those, to be refused by the rest of the jail.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use sandbox::worker::malice::{ATTEMPTS, EXCESSES, REFUSED, SUCCEEDED, attempt_and_exit};
use sandbox::{Backend, Exit, KvmBackend, KvmOptions, SandboxSpec, WorkerOptions};

use super::home::{backend, is_root};
use super::support::{PATIENCE, bare, skip};

/// Set for a copy of this program that is to make an attempt: its name and argument.
const ATTEMPT: &str = "SANDBOX_TEST_ATTEMPT";

/// Not a test of its own: what the copies of this program do.
#[test]
fn attacker() {
    if let Ok(attempt) = std::env::var(ATTEMPT) {
        let (name, argument) = attempt.split_once('.').unwrap();
        attempt_and_exit(name, argument);
    }
}

fn unjailed(attempt: &str) -> Option<i32> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "confinement::attacker", "--nocapture"])
        .env(ATTEMPT, attempt);
    command.stdout(Stdio::null()).status().unwrap().code()
}

/// How a worker ends that makes the attempt.
fn in_worker(backend: &KvmBackend, attempt: &str) -> String {
    match end_of(backend, bare("endings", &["end=halt"]), attempt) {
        Exit::LostWorker(words) => words,
        other => format!("the guest ended by {other}"),
    }
}

fn end_of(backend: &KvmBackend, mut spec: SandboxSpec, attempt: &str) -> Exit {
    spec.id = Some(format!("attempt.{attempt}"));
    let sandbox = backend.create(&spec).unwrap();
    // The worker may be gone before it has answered.
    let _ = sandbox.start();
    sandbox.wait(Some(PATIENCE)).unwrap()
}

/// Whether the host has the controllers that bound memory and threads.
fn has_controllers() -> bool {
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    ["memory", "pids"].iter().all(|name| {
        unified.split_whitespace().any(|controller| controller == *name)
            || fs::exists(format!("/sys/fs/cgroup/{name}")).unwrap()
    })
}

/// 256 MiB and 64 threads are several times what a sandbox with 16 MiB and one processor needs.
#[test]
fn a_worker_uses_up_no_more_than_its_sandbox_needs() {
    if !is_root() {
        return;
    }
    if !has_controllers() {
        return skip("needs control groups of memory and processes");
    }
    assert_eq!(EXCESSES, ["memory", "threads"]);
    for attempt in ["memory.256", "threads.64"] {
        assert_eq!(
            unjailed(attempt),
            Some(SUCCEEDED),
            "{attempt} does not even work unjailed"
        );
    }
    let mut spec = bare("endings", &["end=halt"]);
    // A sandbox with a quota has a control group.
    spec.limits.cpu_quota = Some(1000);
    let filtered = KvmBackend::open(&KvmOptions::default()).unwrap();
    assert_eq!(end_of(&filtered, spec.clone(), "memory.256"), Exit::OutOfMemory);
    let unfiltered = backend(WorkerOptions {
        seccomp: false,
        ..WorkerOptions::default()
    });
    let ends_with = |spec: &SandboxSpec, attempt: &str, status: i32| {
        let end = end_of(&unfiltered, spec.clone(), attempt);
        let words = format!("exit status {status}");
        assert!(
            matches!(&end, Exit::LostWorker(told) if told.contains(&words)),
            "{attempt}: {end}"
        );
    };
    ends_with(&spec, "threads.64", REFUSED);
    ends_with(&spec, "threads.8", REFUSED);
    // Those that the spec allows, and no more.
    spec.limits.cpu_quota = None;
    spec.limits.pids = Some(32);
    ends_with(&spec, "threads.64", REFUSED);
    ends_with(&spec, "threads.8", SUCCEEDED);
}

#[test]
fn each_wall_holds_without_the_other() {
    if !is_root() {
        return;
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let filtered = KvmBackend::open(&KvmOptions::default()).unwrap();
    let unfiltered = backend(WorkerOptions {
        seccomp: false,
        ..WorkerOptions::default()
    });
    for name in ATTEMPTS {
        let attempt = match name {
            "connect" => format!("{name}.{port}"),
            _ => format!("{name}.{}", std::process::id()),
        };
        assert_eq!(
            unjailed(&attempt),
            Some(SUCCEEDED),
            "{name} does not even work unjailed"
        );
        let words = in_worker(&filtered, &attempt);
        assert!(words.contains("SIGSYS"), "{name} behind the filters: {words}");
        let words = in_worker(&unfiltered, &attempt);
        let refused = format!("exit status {REFUSED}");
        assert!(words.contains(&refused), "{name} without filters: {words}");
        println!("{name}: unjailed it works; filtered: SIGSYS; without filters: {words}");
    }
}
