//! What an attack is not to reach: another guest, and this process.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sandbox::spec::NetworkSpec;
use sandbox::{Sandbox, SandboxSpec};

use super::support::network::{GUEST, get, in_namespace, network, with_guest_address};
use super::support::{PATIENCE, bare, started};

/// What an attack may cost this process and its workers, in bytes: all of its guest's memory, and as much again for threads and what
/// the host keeps of it; less than any growth by what a guest sends or asks for.
const GROWTH: u64 = 32 << 20;

/// One attack at a time: this process' memory is measured.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A neighbour that serves pages while others attack.
pub struct Neighbour {
    sandbox: Box<dyn Sandbox>,
    /// What a page takes while nobody attacks.
    alone: Duration,
}

impl Neighbour {
    fn new() -> Self {
        let mut spec = bare("http-reply", &[]);
        spec.networks = vec![with_guest_address(network())];
        spec.ready = Some(sandbox::spec::ReadyCheck::BootPort);
        let sandbox = started(&spec);
        sandbox.wait_ready(PATIENCE).unwrap();
        let times = (0..20).map(|_| page_time()).collect();
        Self {
            sandbox,
            alone: median(times),
        }
    }

    /// Runs `attack` while the neighbour is asked for one page after the other, all of which must come.
    pub fn during<T>(&self, attack: impl FnOnce() -> T) -> T {
        let memory_before = resident_bytes();
        let over = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            // A thread has the network namespace of the one that makes it.
            let pages = scope.spawn(|| {
                let mut times = Vec::new();
                while !over.load(Ordering::Acquire) || times.is_empty() {
                    times.push(page_time());
                }
                times
            });
            let result = attack();
            over.store(true, Ordering::Release);
            let times = pages.join().unwrap();
            // For who reads it: what a loaded machine makes of it is no failure.
            let count = times.len();
            println!("{count} pages, {:?} each; alone {:?}", median(times), self.alone);
            result
        });
        let memory = resident_bytes();
        assert!(
            memory < memory_before + GROWTH,
            "{memory_before} bytes before, {memory} after"
        );
        result
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.sandbox.teardown().wait(PATIENCE).unwrap();
    }
}

/// Runs `test` beside a neighbour, in a network of their own.
pub fn with_neighbour(test: impl FnOnce(&Neighbour) + Send + 'static) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    in_namespace(move || test(&Neighbour::new()));
}

/// A card for the attacker, on another network than the neighbour's.
pub fn attackers_network() -> NetworkSpec {
    NetworkSpec {
        id: "net".to_owned(),
        tap: sandbox::spec::TapSpec::Create {
            name: None,
            host_address: Some("10.0.9.1/24".to_owned()),
        },
        ..NetworkSpec::default()
    }
}

/// Ends a guest that may be doing anything, and sees that all of it is gone.
pub fn end(sandbox: &dyn Sandbox) {
    sandbox.teardown().wait(PATIENCE).unwrap();
}

/// A guest that ends in this way.
pub fn ending(name: &str) -> SandboxSpec {
    bare("endings", &[&format!("end={name}")])
}

/// Of this process and its children.
fn resident_bytes() -> u64 {
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let statuses = processes.filter_map(|process| fs::read_to_string(process.path().join("status")).ok());
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|line| line.trim().trim_end_matches(" kB").to_owned())
    };
    let ours = statuses.filter(|status| {
        let of = |name| field(status, name).is_some_and(|pid| pid == own);
        of("Pid:") || of("PPid:")
    });
    // One that has just ended has none.
    let kibibytes = ours.filter_map(|status| field(&status, "VmRSS:")?.parse::<u64>().ok());
    kibibytes.sum::<u64>() << 10
}

/// The time that one page takes.
fn page_time() -> Duration {
    let begin = Instant::now();
    assert!(get(GUEST).starts_with("hello"));
    begin.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
