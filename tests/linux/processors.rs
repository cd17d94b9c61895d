//! Processors come up, and the guest counts them.

use std::time::Duration;

use sandbox::Exit;
use sandbox::spec::MAX_VCPUS;

use super::support::linux::{Assets, CLOUD, LINUX_PATIENCE, Shell};
use super::support::{console_text, has_time, started};

/// Counts processors in every way that software does.
fn counts(vcpus: u32) {
    let Some(assets) = Assets::find() else { return };
    let mut spec = assets.shell(CLOUD, "");
    spec.vcpus = vcpus;
    spec.memory = 512 << 20;
    let shell = Shell::boot(&spec);
    let count = vcpus.to_string();
    assert_eq!(shell.run("nproc"), count);
    assert_eq!(shell.run("grep -c ^processor /proc/cpuinfo"), count);
    // One package of so many cores with one thread each.
    let all = format!("0-{}", vcpus - 1);
    let topology = "/sys/devices/system/cpu/cpu0/topology";
    assert_eq!(shell.run("cat /sys/devices/system/cpu/online"), all);
    assert_eq!(shell.run(&format!("cat {topology}/package_cpus_list")), all);
    assert_eq!(shell.run(&format!("cat {topology}/core_cpus_list")), "0");
    // Each does work of its own.
    let each = "for cpu in $(seq 0 $(($(nproc) - 1))); do taskset $(printf %x $((1 << cpu))) true || exit 1; done";
    shell.run(each);
    shell.power_off();
}

#[test]
fn several_do_work_of_their_own() {
    // In the emulated host the largest number takes minutes to run a whole userland.
    counts(if has_time() { MAX_VCPUS } else { 4 });
}

#[test]
fn as_many_as_there_may_be_come_up() {
    let Some(assets) = Assets::find() else { return };
    let mut spec = assets.marker("loglevel=7 sandbox.end=halt");
    spec.vcpus = MAX_VCPUS;
    let sandbox = started(&spec);
    let console = sandbox.console();
    let line = format!("smp: Brought up 1 node, {MAX_VCPUS} CPUs");
    for text in [&line, "SANDBOX-INIT"] {
        let found = console.wait_for(text.as_bytes(), 0, LINUX_PATIENCE);
        assert!(found.is_some(), "no {text:?} in: {}", console_text(&*sandbox));
    }
    assert_eq!(sandbox.stop(Duration::ZERO).unwrap(), Exit::Killed);
}
