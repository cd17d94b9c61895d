//! Stock Linux out of a snapshot and out of a fork: the same boot, the same shell, the right time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sandbox::snapshot::MemoryRestore;
use sandbox::{RestoreOptions, Sandbox, SnapshotOptions, State};

use crate::restore::{WAYS, restored, running, snapshot};
use crate::support::TempFolder;
use crate::support::linux::{Assets, CLOUD, Shell};

/// How far a guest's clock may be off.
const CLOCK_TOLERANCE: u64 = 2;

/// Keeps a nonce and a count where nothing but the guest's memory knows them.
const MARK: &str = "cat /proc/sys/kernel/random/uuid > /tmp/nonce; echo 0 > /tmp/count";
/// Counts one on.
const COUNT: &str = "n=$(($(cat /tmp/count) + 1)); echo $n > /tmp/count; echo $n";

/// A shell that has them.
fn marked(assets: &Assets, vcpus: u32) -> (Shell, String) {
    let mut spec = assets.shell(CLOUD, "");
    spec.vcpus = vcpus;
    let shell = Shell::boot(&spec);
    shell.run(MARK);
    let nonce = shell.run("cat /tmp/nonce");
    assert_eq!(nonce.len(), 36, "{nonce}");
    (shell, nonce)
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A clone that went on where the original stood when its shell had counted to `count`.
fn check_clone(sandbox: Box<dyn Sandbox>, nonce: &str, count: u32, vcpus: u32) {
    let shell = Shell { sandbox };
    assert_eq!(shell.run("cat /tmp/nonce"), nonce, "not a clone but a new boot");
    assert_eq!(shell.run(COUNT), (count + 1).to_string());
    let before = seconds_since_1970();
    let clock: u64 = shell.run("date +%s").parse().unwrap();
    let after = seconds_since_1970();
    assert!(
        clock + CLOCK_TOLERANCE >= before && clock <= after + CLOCK_TOLERANCE,
        "the guest's clock says {clock}, the host's {before} to {after}"
    );
    assert_eq!(shell.run("grep -c ^processor /proc/cpuinfo"), vcpus.to_string());
    // Timers go on, on every processor.
    for processor in 0..vcpus {
        shell.run(&format!("taskset {:x} sleep 0.1", 1 << processor));
    }
    shell.run("cat /bin/busybox | md5sum");
    let complaints = shell.run("dmesg -r | grep -E '^<[0-4]>.*(stall|lockup|BUG:|unstable)' || true");
    assert_eq!(complaints, "", "the guest noticed that it had not run");
    shell.power_off();
}

fn go_on_from_a_folder(vcpus: u32) {
    let Some(assets) = Assets::find() else {
        return;
    };
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let (original, nonce) = marked(&assets, vcpus);
    assert_eq!(original.run(COUNT), "1");
    snapshot(&*original.sandbox, &path, &SnapshotOptions::default());
    assert_eq!(original.sandbox.state(), State::Running);
    let taken = Instant::now();
    // The original goes on while the snapshot grows older than its clock may be wrong.
    while taken.elapsed() < Duration::from_secs(2 * CLOCK_TOLERANCE) {
        original.run(COUNT);
    }
    for way in WAYS {
        check_clone(restored(&path, &running(way)).sandbox, &nonce, 1, vcpus);
    }
    assert_eq!(original.run("cat /tmp/nonce"), nonce);
    original.power_off();
}

#[test]
fn linux_goes_on_from_a_folder() {
    go_on_from_a_folder(1);
}

#[test]
fn linux_with_several_processors_goes_on_from_a_folder() {
    go_on_from_a_folder(3);
}

#[test]
fn linux_goes_on_in_forks_and_in_forks_of_these() {
    let Some(assets) = Assets::find() else {
        return;
    };
    let (original, nonce) = marked(&assets, 2);
    let options = RestoreOptions {
        start: true,
        ..RestoreOptions::default()
    };
    let fork = |sandbox: &dyn Sandbox, count| sandbox.as_fork().unwrap().fork(count, &options).unwrap();
    let mut clones = fork(&*original.sandbox, 2);
    let between = Shell {
        sandbox: clones.remove(0).sandbox,
    };
    assert_eq!(between.run("echo 10 | tee /tmp/count"), "10");
    let second = fork(&*between.sandbox, 1).remove(0);
    check_clone(second.sandbox, &nonce, 10, 2);
    check_clone(clones.remove(0).sandbox, &nonce, 0, 2);
    between.power_off();
    assert_eq!(original.run("cat /tmp/count"), "0");
    original.power_off();
}

#[test]
fn linux_in_small_pages_takes_its_mapped_kernel_along() {
    let Some(assets) = Assets::find() else {
        return;
    };
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let mut spec = assets.shell(CLOUD, "");
    spec.huge_pages = sandbox::spec::HugePages::Never;
    let original = Shell::boot(&spec);
    original.run(MARK);
    let nonce = original.run("cat /tmp/nonce");
    snapshot(&*original.sandbox, &path, &SnapshotOptions::default());
    original.power_off();
    check_clone(restored(&path, &running(MemoryRestore::Cow)).sandbox, &nonce, 0, 1);
}
