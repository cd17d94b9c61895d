//! Processors come up, and the guest counts them.

use sandbox::spec::MAX_VCPUS;

use crate::support::linux::{Assets, CLOUD, Shell};

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
fn four() {
    counts(4);
}

#[test]
fn as_many_as_there_may_be() {
    counts(MAX_VCPUS);
}
