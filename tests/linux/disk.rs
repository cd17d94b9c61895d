//! Disks under Linux' own driver and file system.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sandbox::spec::DiskSpec;
use sandbox::stats::DiskStats;

use super::support::TempFolder;
use super::support::linux::{Assets, CLOUD, Shell, copy_of};

const MIB: u64 = 1 << 20;

fn disk(id: &str, path: &Path) -> DiskSpec {
    DiskSpec {
        id: id.to_owned(),
        path: path.to_owned(),
        ..DiskSpec::default()
    }
}

fn counters(shell: &Shell, number: usize) -> DiskStats {
    shell.sandbox.stats().unwrap().disks[number].clone()
}

#[test]
fn disks_are_found_written_flushed_discarded_and_zeroed() {
    let Some(assets) = Assets::find() else { return };
    let folder = TempFolder::new();
    let content: Vec<u8> = (0..4 * MIB).map(|position| (position / 512) as u8 | 1).collect();
    let data = folder.file("data", &content);
    let mut fixed = disk("fixed", &folder.file("fixed", &content));
    fixed.read_only = true;
    let mut spec = assets.shell(CLOUD, "rw");
    spec.disks = vec![
        disk("root", &copy_of(&assets.path("root.ext4"), folder.path())),
        disk("scratch-data", &data),
        fixed,
    ];
    let shell = Shell::boot(&spec);
    names_and_sizes(&shell);
    a_read_only_disk_refuses(&shell);
    files_reach_the_disk(&shell);
    discarded_blocks_go_back(&shell, &data);
    zeroed_blocks_are_not_transferred(&shell, &data);
    shell.power_off();
}

fn names_and_sizes(shell: &Shell) {
    assert_eq!(
        shell.run("cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial"),
        "root\nscratch-data"
    );
    assert_eq!(shell.run("blockdev --getsize64 /dev/vdb"), (4 * MIB).to_string());
    assert_eq!(shell.run("cat /sys/block/vdb/ro /sys/block/vdc/ro"), "0\n1");
    assert_eq!(shell.run("cat /sys/block/vdb/queue/write_cache"), "write back");
    let sums = shell.run("md5sum < /dev/vdb; md5sum < /dev/vdc");
    let (first, second) = sums.split_once('\n').unwrap();
    assert_eq!(first, second, "the same content reads differently");
}

fn a_read_only_disk_refuses(shell: &Shell) {
    let (status, output) = shell.try_run("dd if=/dev/zero of=/dev/vdc bs=4k count=1");
    assert_ne!(status, 0, "{output}");
    assert_eq!(counters(shell, 2).writes, 0);
}

fn files_reach_the_disk(shell: &Shell) {
    let before = counters(shell, 0);
    shell.run("dd if=/dev/urandom of=/kept bs=64k count=16 conv=fsync 2> /dev/null");
    let written = counters(shell, 0);
    assert!(written.flushes > before.flushes, "{before:?} {written:?}");
    assert!(
        written.written_bytes - before.written_bytes >= MIB,
        "{before:?} {written:?}"
    );
    let sum = shell.run("md5sum < /kept");
    shell.run("echo 3 > /proc/sys/vm/drop_caches");
    assert_eq!(shell.run("md5sum < /kept"), sum);
    let read = counters(shell, 0);
    assert!(read.read_bytes - written.read_bytes >= MIB, "{written:?} {read:?}");
    assert_eq!(read.errors, 0);
}

fn discarded_blocks_go_back(shell: &Shell, image: &Path) {
    let before = fs::metadata(image).unwrap().blocks();
    shell.run(&format!("blkdiscard -o {MIB} -l {} /dev/vdb", 2 * MIB));
    let after = fs::metadata(image).unwrap().blocks();
    assert!(before - after >= 2 * MIB / 512, "{before} blocks, then {after}");
    assert_range(image, MIB, 3 * MIB);
}

fn zeroed_blocks_are_not_transferred(shell: &Shell, image: &Path) {
    let before = counters(shell, 1);
    shell.run(&format!("exercise zero-out /dev/vdb {} {}", 3 * MIB, MIB / 2));
    let after = counters(shell, 1);
    assert_eq!(after.written_bytes, before.written_bytes);
    assert_range(image, MIB, 3 * MIB + MIB / 2);
}

/// Zeroes from `start` to `end` and nowhere else.
fn assert_range(image: &Path, start: u64, end: u64) {
    let bytes = fs::read(image).unwrap();
    let (head, rest) = bytes.split_at(start as usize);
    let (zeroes, tail) = rest.split_at((end - start) as usize);
    assert!(zeroes.iter().all(|byte| *byte == 0), "data in the range");
    assert!(
        head.iter().chain(tail).all(|byte| *byte != 0),
        "zeroes beside the range"
    );
}
