//! Processes that are killed without warning: those of instances, and the platform's own.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::processes::{Holdings, children};
use crate::support::{Answer, Folder, PATIENCE, Platform, document, full_rounds, in_namespace, interfaces};

const CLIENTS: usize = 8;
/// Longer than an idle instance stays.
const AT_REST: Duration = Duration::from_secs(3);
const REQUEST: &[u8] = b"GET /function/victim HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn kill(pid: libc::pid_t) {
    // A process that has gone meanwhile is just as good.
    // SAFETY: sends a signal; no memory is touched.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Numbers that look random; the same seed gives the same ones.
struct Random(u64);

impl Random {
    /// Below `bound`, by xorshift.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Kills one of the platform's children at random times until it is told to stop; gives how many.
fn kill_at_random(platform: libc::pid_t, stop: &AtomicBool) -> usize {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut killed = 0;
    while !stop.load(Ordering::SeqCst) {
        // The random time is what is tested.
        thread::sleep(Duration::from_micros(random.below(20_000)));
        let children = children(platform);
        if !children.is_empty() {
            kill(children[random.below(children.len() as u64) as usize]);
            killed += 1;
        }
    }
    killed
}

/// A way to start, and how many sandboxes there are when nobody has called for a while.
struct Way {
    start: &'static str,
    scale: &'static str,
    at_rest: usize,
}

const WAYS: [Way; 5] = [
    Way {
        start: "cold",
        scale: "",
        at_rest: 0,
    },
    Way {
        start: "warm",
        scale: r#", "warm": 1"#,
        at_rest: 1,
    },
    Way {
        // What clones are made from.
        start: "fork",
        scale: "",
        at_rest: 1,
    },
    Way {
        start: "restore",
        scale: "",
        at_rest: 0,
    },
    Way {
        // What clones are made from, and two clones.
        start: "pool",
        scale: r#", "pool": 2"#,
        at_rest: 3,
    },
];

#[test]
fn no_request_is_lost_without_an_error_while_instances_are_killed_at_random() {
    for way in WAYS {
        in_namespace(move || survive(&way));
    }
}

fn survive(way: &Way) {
    let invocations = if full_rounds() { 10_000 } else { 200 };
    let platform = Platform::serve(&[]);
    let Way { start, scale, .. } = way;
    let fields = format!(r#", "start": "{start}", "scale": {{"max": 6, "idle_ms": 1, "queue_ms": 30000{scale}}}"#);
    let (_folder, document) = document("victim", "http-reply", "worker", &fields);
    platform.deploy_document(&document);
    assert_eq!(platform.get("/function/victim").status, 200);
    let pid = platform.pid();
    let at_rest = Holdings::settle(pid, |holdings| {
        holdings.children == way.at_rest && holdings.interfaces == 1 + way.at_rest
    });

    let stop = Arc::new(AtomicBool::new(false));
    let killer = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || kill_at_random(pid, &stop))
    };
    let good = call(&platform, invocations);
    stop.store(true, Ordering::SeqCst);
    let killed = killer.join().unwrap();
    println!("{start}: {invocations} invocations, {good} answered by the function, {killed} kills");
    assert!(killed > 0 && good > 0, "{start}: {killed} kills, {good} good answers");
    let answered = platform.stats("victim")["invocations"].as_u64().unwrap();
    assert_eq!(answered, invocations as u64 + 1, "{start}: every request was answered");

    // Nobody is killed any more: all is well again once the last death is known, and what stood by is replaced when it
    // is needed.
    let deadline = Instant::now() + PATIENCE;
    while Holdings::settle_within(pid, AT_REST, |holdings| holdings.is_within(&at_rest)).is_none() {
        assert!(
            Instant::now() < deadline,
            "{start}: {:?} is not {at_rest:?}",
            Holdings::of(pid)
        );
        platform.get("/function/victim");
    }
    for _ in 0..20 {
        assert_eq!(platform.get("/function/victim").status, 200, "{start}");
    }
    let rested = Holdings::settle_within(pid, PATIENCE, |holdings| holdings.is_within(&at_rest));
    assert!(rested.is_some(), "{start}: {:?} is not {at_rest:?}", Holdings::of(pid));
    assert!(platform.end().success());
    assert_eq!(interfaces(), 1, "{start}: only lo is left");
}

/// Makes so many requests, by several clients; gives how many were answered by the function. Panics where one has no
/// answer, or one without a reason.
fn call(platform: &Platform, invocations: usize) -> usize {
    let left = Arc::new(AtomicUsize::new(invocations));
    let address = platform.address;
    let client = || {
        let left = Arc::clone(&left);
        thread::spawn(move || {
            let mut good = 0;
            let one = |left: usize| left.checked_sub(1);
            while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one).is_ok() {
                let answer = Answer::to(address, REQUEST);
                match answer.status {
                    200 => {
                        assert!(answer.body.starts_with("hello from http-reply\nrequest "), "{answer:?}");
                        good += 1;
                    }
                    502..=504 => assert!(!answer.reason().is_empty()),
                    _ => panic!("{answer:?}"),
                }
            }
            good
        })
    };
    let clients: Vec<_> = (0..CLIENTS).map(|_| client()).collect();
    clients.into_iter().map(|client| client.join().unwrap()).sum()
}

#[test]
fn sandboxes_that_are_killed_while_they_stand_by_are_not_used() {
    in_namespace(|| {
        let platform = Platform::serve(&[]);
        let fields = r#", "start": "pool", "scale": {"pool": 3}"#;
        let (_folder, document) = document("victim", "http-reply", "worker", fields);
        platform.deploy_document(&document);
        platform.wait_for("victim", |stats| stats["standing_by"] == 3);
        for child in children(platform.pid()) {
            kill(child);
        }
        let deadline = Instant::now() + PATIENCE;
        // A death is known a moment later; until then a request may still meet it, and is told.
        while Answer::to(platform.address, REQUEST).status != 200 {
            assert!(Instant::now() < deadline);
        }
    });
}

#[test]
fn clones_are_made_again_when_what_they_are_made_from_is_killed() {
    in_namespace(|| {
        let platform = Platform::serve(&[]);
        let (_folder, document) = document("victim", "http-reply", "worker", r#", "start": "fork""#);
        platform.deploy_document(&document);
        assert_eq!(Answer::to(platform.address, REQUEST).status, 200);
        // The parent and its clone.
        for child in children(platform.pid()) {
            kill(child);
        }
        let deadline = Instant::now() + PATIENCE;
        while Answer::to(platform.address, REQUEST).status != 200 {
            assert!(Instant::now() < deadline);
        }
    });
}

#[test]
fn what_a_killed_platform_leaves_is_gone_or_swept_by_the_next() {
    in_namespace(|| {
        let folder = Folder::new();
        let state = ["--state", folder.path().to_str().unwrap()];
        let platform = Platform::serve(&state);
        for (name, isolation, start) in [
            ("worker", "worker", "cold"),
            ("restored", "in_process", "restore"),
            ("forked", "worker", "fork"),
        ] {
            let (_images, document) = document(name, "http-reply", isolation, &format!(r#", "start": "{start}""#));
            platform.deploy_document(&document);
            assert_eq!(platform.get(&format!("/function/{name}")).status, 200, "{name}");
        }
        let snapshots = folder.path().join("snapshots");
        assert_eq!(fs::read_dir(&snapshots).unwrap().count(), 1);
        let workers = children(platform.pid());
        assert!(!workers.is_empty());
        platform.kill();
        let deadline = Instant::now() + PATIENCE;
        while workers
            .iter()
            .any(|worker| Path::new(&format!("/proc/{worker}")).exists())
            || interfaces() > 1
        {
            assert!(Instant::now() < deadline, "workers or taps outlive their platform");
            thread::sleep(Duration::from_millis(10));
        }

        let platform = Platform::serve(&state);
        assert!(!snapshots.exists(), "a snapshot of the dead one is still there");
        assert_eq!(platform.get("/system/functions").json().as_array().unwrap().len(), 3);
        assert!(platform.end().success());
    });
}
