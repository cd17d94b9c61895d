//! A guest that has nothing to do.

use std::fs;
use std::thread;
use std::time::Duration;

use sandbox::spec::Isolation;

use super::support::linux::{Assets, CLOUD, Shell};
use super::support::network::{GUEST, in_namespace, network};

/// How long the guest is watched. Linux's own timers go on meanwhile; the kernel serves them.
const WATCHED: Duration = Duration::from_secs(3);

/// How often the event loops in this thread's network namespace, which other tests do not share, went to sleep.
fn event_loop_switches() -> Vec<u64> {
    let ours = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    tasks
        .filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "sandbox-events\n"))
        .filter(|task| fs::read_link(task.join("ns/net")).is_ok_and(|namespace| namespace == ours))
        .map(|task| {
            let status = fs::read_to_string(task.join("status")).unwrap();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse().unwrap()
        })
        .collect()
}

#[test]
fn an_idle_linux_wakes_nothing_of_ours() {
    let Some(assets) = Assets::find() else { return };
    in_namespace(move || {
        // IPv6 looks for routers for minutes, and an entropy device is asked every few seconds: what Linux sends to a device
        // of its own accord is an exit, whatever we do.
        let mut spec = assets.shell(CLOUD, &format!("ipv6.disable=1 sandbox.net0={GUEST}/24"));
        spec.networks = vec![network()];
        let shell = Shell::boot(&spec);
        // What a fresh network interface of the host says of itself is said by then.
        shell.run("sleep 10");
        // Nothing says when the console's driver has seen that its last byte is out.
        thread::sleep(Duration::from_secs(1));
        let before = (shell.sandbox.stats().unwrap().cpu.exits, event_loop_switches());
        thread::sleep(WATCHED);
        let after = (shell.sandbox.stats().unwrap().cpu.exits, event_loop_switches());
        let loops_here = usize::from(super::support::HOME == Isolation::InProcess);
        assert_eq!(before.1.len(), loops_here, "a tap needs an event loop");
        assert_eq!(before.1, after.1, "sleeps of the event loop");
        assert_eq!(before.0, after.0, "exits to user space");
        shell.power_off();
    });
}
