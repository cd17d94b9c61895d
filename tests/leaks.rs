//! Nothing is left behind. One test alone in its program, because it counts what the whole process holds.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod support;

use std::fs;

use sandbox::spec::Isolation;
use support::{HOME, PATIENCE, bare, created, has_time, runtime};

/// What this process holds.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    children: usize,
    mappings: usize,
    resident: usize,
}

fn holdings() -> Holdings {
    let status = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    Holdings {
        descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
        threads: fs::read_dir("/proc/self/task").unwrap().count(),
        children: children(),
        mappings: fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
        resident: pages * 4096,
    }
}

/// Processes that this one started, on behalf of whichever thread.
fn children() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.map(|list| list.split_whitespace().count()).sum()
}

/// One sandbox, ended in one of the ways that there are.
fn live_and_die(round: usize) {
    let sandbox = match round % 4 {
        0 => created(&bare("hello", &[])),
        1 => {
            let sandbox = created(&bare("hello", &[]));
            sandbox.start().unwrap();
            sandbox.wait(Some(PATIENCE)).unwrap();
            sandbox
        }
        2 => {
            let mut spec = bare("endings", &["end=spin"]);
            spec.limits.deadline_ms = Some(600_000);
            spec.vcpus = 2;
            let sandbox = created(&spec);
            sandbox.start().unwrap();
            sandbox
        }
        _ => {
            let sandbox = created(&bare("endings", &["end=halt"]));
            sandbox.start().unwrap();
            sandbox.pause().unwrap();
            sandbox
        }
    };
    if round % 8 < 4 {
        let teardown = sandbox.teardown();
        drop(sandbox);
        teardown.wait(PATIENCE).unwrap();
    } else {
        drop(sandbox);
    }
}

/// Waits until this process holds what is asked for: sandboxes that were dropped without waiting are given back
/// meanwhile.
fn await_holdings(expected: impl Fn(&Holdings) -> bool) -> Holdings {
    let started = std::time::Instant::now();
    loop {
        let held = holdings();
        if expected(&held) {
            return held;
        }
        assert!(started.elapsed() < PATIENCE, "{held:?}");
        std::thread::yield_now();
    }
}

#[test]
fn hundreds_of_sandboxes_leave_nothing_behind() {
    if HOME == Isolation::Worker {
        // What all workers share.
        runtime().kvm().unwrap().prepare_workers().unwrap();
    }
    runtime().kvm().unwrap();
    let at_first = holdings();
    // Fills the caches that live as long as the process: kernel store, allocator, thread stacks. A sandbox's last thread
    // ends when all else of it is given back.
    (0..16).for_each(live_and_die);
    let before = await_holdings(|held| held.threads == at_first.threads && held.children == 0);
    let rounds = if has_time() { 1000 } else { 200 };
    (0..rounds).for_each(live_and_die);
    let after = await_holdings(|held| {
        let descriptors = match HOME {
            Isolation::InProcess => held.descriptors == before.descriptors,
            // One of a worker of the first sixteen may still have been open when they were counted.
            Isolation::Worker => held.descriptors <= before.descriptors,
        };
        descriptors && (held.threads, held.children) == (before.threads, 0)
    });
    // The C library keeps stacks of ended threads, as many as ever ended at a time.
    assert!(after.mappings <= before.mappings + 40, "{before:?} {after:?}");
    assert!(after.resident <= before.resident + (1 << 20), "{before:?} {after:?}");
}
