//! What is left of containers: nothing, whoever dies.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::container::{container, runtimes, script};
use crate::support::{PATIENCE, container_options, created, has_time, leftovers};

/// Names the container that a test program makes instead of its tests.
const CHILD: &str = "SANDBOX_TEST_CHILD";

/// The program that is killed: not a test of its own.
#[test]
fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (name, id) = task.split_once(' ').unwrap();
    let mut spec = container(name, &["/bin/sleep", "1000000"]);
    spec.id = Some(id.to_owned());
    let sandbox = created(&spec);
    sandbox.start().unwrap();
    println!("\nstarted");
    loop {
        std::thread::park();
    }
}

/// A process of ours with a running container, and its name.
fn embedder(name: &str, word: &str) -> (Child, String) {
    let id = format!("{word}-{name}-{}", std::process::id());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "left_behind::child", "--nocapture"])
        .env(CHILD, format!("{name} {id}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = lines.map_while(Result::ok).any(|line| line == "started");
    assert!(started, "{name}: the container did not start");
    assert!(!leftovers(&id).is_empty(), "{name}: nothing would be found");
    (child, id)
}

fn await_nothing(id: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !leftovers(id).is_empty() {
        assert!(Instant::now() < deadline, "left: {:#?}", leftovers(id));
        // No event tells of what another process removes.
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn when_the_embedder_is_killed_its_reaper_removes_everything() {
    for name in runtimes() {
        let (mut child, id) = embedder(name, "killed");
        child.kill().unwrap();
        child.wait().unwrap();
        await_nothing(&id);
    }
}

#[test]
fn when_the_reaper_is_killed_as_well_a_sweep_does() {
    for name in runtimes() {
        let (mut child, id) = embedder(name, "swept");
        for reaper in children_of(child.id()) {
            // SAFETY: sends a signal; no memory is touched.
            unsafe { libc::kill(reaper, libc::SIGKILL) };
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!leftovers(&id).is_empty(), "{name}: somebody else removed it");
        let options = container_options();
        let swept = sandbox::sweep::sweep(&options.state);
        assert!(
            swept.removed.iter().any(|removed| removed.ends_with(&id)),
            "{name}: {swept:?}"
        );
        assert_eq!(swept.failed, Vec::<String>::new(), "{name}");
        await_nothing(&id);
    }
}

fn children_of(parent: u32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let mut children: Vec<i32> = list.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    // The reaper is started by whatever thread needs it first.
    for task in std::fs::read_dir(format!("/proc/{parent}/task")).unwrap().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
    }
    children.sort_unstable();
    children.dedup();
    children
}

#[test]
fn one_after_another_leaves_nothing() {
    let rounds = if has_time() { 100 } else { 10 };
    for name in runtimes() {
        let prefix = format!("round-{name}-{}", std::process::id());
        let run = |round: u32| {
            let mut spec = script(name, "echo hello");
            spec.id = Some(format!("{prefix}-{round}"));
            let sandbox = created(&spec);
            sandbox.start().unwrap();
            assert!(sandbox.wait(Some(PATIENCE)).unwrap().is_success(), "{name}");
            sandbox.teardown().wait(PATIENCE).unwrap();
        };
        for round in 0..rounds {
            run(round);
        }
        assert_eq!(leftovers(&prefix), Vec::<String>::new(), "{name}");
    }
}
