//! Guest memory: below and above the gap, given back by balloon and by reports.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use sandbox::Exit;
use sandbox::spec::{BalloonSpec, HugePages};
use sandbox::stats::MemoryStats;

use super::support::linux::{Assets, CLOUD, LINUX_PATIENCE, Shell};
use super::support::{created, skip};

const MIB: u64 = 1 << 20;

fn memory(shell: &Shell) -> MemoryStats {
    shell.sandbox.stats().unwrap().memory
}

/// Nothing tells when a guest is done with giving memory back, so this looks again and again.
fn await_memory(shell: &Shell, what: &str, is_there: impl Fn(&MemoryStats) -> bool) -> MemoryStats {
    let begin = Instant::now();
    loop {
        let now = memory(shell);
        if is_there(&now) {
            return now;
        }
        assert!(begin.elapsed() < LINUX_PATIENCE, "{what}: {now:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn five_gibibytes_are_all_there() {
    let Some(assets) = Assets::find() else { return };
    let mut spec = assets.shell(CLOUD, "");
    spec.memory = 5 << 30;
    let shell = Shell::boot(&spec);
    let total = shell.number("SANDBOX-MEMTOTAL-KIB") << 10;
    // Linux does not count its own image and its tables of pages.
    assert!(total > (5 << 30) - 200 * MIB && total < 5 << 30, "{total}");
    let ram: u64 = shell
        .run("grep 'System RAM' /proc/iomem")
        .lines()
        .map(|line| {
            let (start, end) = line.split_once(" : ").unwrap().0.trim().split_once('-').unwrap();
            u64::from_str_radix(end, 16).unwrap() + 1 - u64::from_str_radix(start, 16).unwrap()
        })
        .sum();
    // All but the BIOS area and the first page.
    assert!(ram > (5 << 30) - MIB && ram < 5 << 30, "{ram}");
    shell.power_off();
}

/// What the guest says of its memory by balloon and by console is the same, and follows what it does.
fn guest_reports_its_memory(shell: &Shell) {
    let total: u64 = shell
        .run("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")
        .parse()
        .unwrap();
    let available = |now: &MemoryStats| now.reported.and_then(|reported| reported.available);
    let before = await_memory(shell, "no statistics", |now| {
        now.reported.is_some_and(|reported| reported.total == Some(total << 10))
    });
    let before = available(&before).unwrap();
    shell.run("dd if=/dev/zero of=/tmp/counted bs=1M count=100 2> /dev/null");
    await_memory(shell, "the statistics are old", |now| {
        available(now).is_some_and(|available| available + 80 * MIB < before)
    });
    shell.run("rm /tmp/counted");
}

#[test]
fn memory_goes_back_by_balloon_and_by_reports() {
    let Some(assets) = Assets::find() else { return };
    let mut spec = assets.shell(CLOUD, "");
    spec.memory = 512 * MIB;
    let size = 64 * MIB;
    spec.balloon = Some(BalloonSpec {
        size,
        deflate_on_oom: true,
        free_page_reporting: true,
        statistics: true,
    });
    let shell = Shell::boot(&spec);
    await_memory(&shell, "the balloon is not filled", |now| now.ballooned == Some(size));
    guest_reports_its_memory(&shell);
    // A balloon without its driver is empty.
    shell.run("echo virtio1 > /sys/bus/virtio/drivers/virtio_balloon/unbind");
    assert_eq!(memory(&shell).ballooned, Some(0));
    shell.run("dd if=/dev/zero of=/tmp/held bs=1M count=150 2> /dev/null");
    let held = memory(&shell).guest_touched.unwrap();
    assert!(held > 150 * MIB, "{held}");
    shell.run("rm /tmp/held");
    assert!(memory(&shell).guest_touched.unwrap() > 150 * MIB, "nobody reported yet");
    shell.run("echo virtio1 > /sys/bus/virtio/drivers/virtio_balloon/bind");
    await_memory(&shell, "the balloon is not filled again", |now| {
        now.ballooned == Some(size) && now.guest_touched.unwrap() <= held - size
    });
    await_memory(&shell, "free pages are not reported", |now| {
        now.guest_touched.unwrap() <= held - 130 * MIB
    });
    shell.power_off();
}

/// What a kernel fills that is as large as a stock one, in bytes, and far more than is written before the guest runs.
const MUCH_OF_A_KERNEL: u64 = 24 << 20;

#[test]
fn in_huge_pages_a_kernel_comes_when_the_guest_asks_for_it() {
    let Some(assets) = Assets::find() else { return };
    if File::options().read(true).write(true).open("/dev/userfaultfd").is_err() {
        return skip("needs root to serve page faults of KVM");
    }
    let mut spec = assets.marker("");
    spec.huge_pages = HugePages::Transparent;
    let sandbox = created(&spec);
    let touched = || sandbox.stats().unwrap().memory.guest_touched.unwrap();
    assert!(
        touched() < MUCH_OF_A_KERNEL,
        "{} bytes before the guest runs",
        touched()
    );
    sandbox.start().unwrap();
    assert_eq!(sandbox.wait(Some(LINUX_PATIENCE)).unwrap(), Exit::PowerOff);
}
