//! What a worker can do that its guest has taken over: nothing. Each attempt is shown to come through unjailed, to be
//! ended by the filters of system calls, and, without those, to be refused by the rest of the jail.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use sandbox::worker::malice::{ATTEMPTS, REFUSED, SUCCEEDED, attempt_and_exit};
use sandbox::{Backend, Exit, KvmBackend, KvmOptions, WorkerOptions};

use super::home::{backend, is_root};
use super::support::{PATIENCE, bare};

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
    let mut spec = bare("endings", &["end=halt"]);
    spec.id = Some(format!("attempt.{attempt}"));
    let sandbox = backend.create(&spec).unwrap();
    // The worker may be gone before it has answered.
    let _ = sandbox.start();
    match sandbox.wait(Some(PATIENCE)).unwrap() {
        Exit::LostWorker(words) => words,
        other => format!("the guest ended by {other}"),
    }
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
