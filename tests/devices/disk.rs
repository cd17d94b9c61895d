//! Disks: what the guest writes lies in the file, and only where it may.

use std::fs;
use std::path::{Path, PathBuf};

use sandbox::spec::DiskSpec;
use sandbox::stats::DiskStats;
use sandbox::{ErrorKind, Exit, Sandbox, SandboxSpec};
use sandbox_guests::{SECTOR_BYTES, disk_pattern};

use super::support::{PATIENCE, TempFolder, await_console, bare, console_text, created, runtime, started};

/// Sectors that the guest puts into one request.
const REQUEST_SECTORS: u64 = 16;
/// Exit codes of the guest.
const OK: Exit = Exit::Code(0);
const MISMATCH: Exit = Exit::Code(4);
const READ_ONLY: Exit = Exit::Code(5);

fn disk(id: &str, path: &Path, read_only: bool) -> DiskSpec {
    DiskSpec {
        id: id.to_owned(),
        path: path.to_owned(),
        read_only,
        ..DiskSpec::default()
    }
}

/// A guest that checks these disks.
fn checking(disks: Vec<DiskSpec>, arguments: &[&str]) -> SandboxSpec {
    let mut spec = bare("disk-check", arguments);
    spec.disks = disks;
    spec
}

fn ended(sandbox: &dyn Sandbox) -> Exit {
    sandbox.wait(Some(PATIENCE)).unwrap()
}

fn empty_image(folder: &TempFolder, name: &str, sectors: usize) -> PathBuf {
    folder.file(name, &vec![0; sectors * SECTOR_BYTES])
}

fn pattern(sectors: std::ops::Range<u64>) -> Vec<u8> {
    sectors.flat_map(disk_pattern).collect()
}

#[test]
fn what_a_guest_writes_lies_in_the_file_and_nothing_else_changes() {
    let folder = TempFolder::new();
    let image = empty_image(&folder, "disk", 256);
    let spec = checking(vec![disk("scratch", &image, false)], &["first=40", "sectors=100"]);
    let sandbox = started(&spec);
    assert_eq!(ended(&*sandbox), OK, "{}", console_text(&*sandbox));
    let bytes = fs::read(&image).unwrap();
    assert_eq!(bytes.len(), 256 * SECTOR_BYTES);
    let (before, rest) = bytes.split_at(40 * SECTOR_BYTES);
    let (written, behind) = rest.split_at(100 * SECTOR_BYTES);
    assert!(written == pattern(40..140), "the pattern is not on the host's side");
    assert!(
        before.iter().chain(behind).all(|byte| *byte == 0),
        "written where nothing was asked for"
    );
}

#[test]
fn counters_tell_what_was_asked_of_a_disk() {
    let folder = TempFolder::new();
    let image = empty_image(&folder, "disk", 256);
    let sandbox = created(&checking(vec![disk("scratch", &image, false)], &["sectors=160"]));
    assert_eq!(sandbox.stats().unwrap().disks, [DiskStats::default()]);
    sandbox.start().unwrap();
    assert_eq!(ended(&*sandbox), OK, "{}", console_text(&*sandbox));
    let expected = DiskStats {
        reads: 160 / REQUEST_SECTORS,
        writes: 160 / REQUEST_SECTORS,
        read_bytes: 160 * SECTOR_BYTES as u64,
        written_bytes: 160 * SECTOR_BYTES as u64,
        flushes: 1,
        errors: 0,
    };
    assert_eq!(sandbox.stats().unwrap().disks, [expected]);
}

#[test]
fn private_disks_share_a_file_that_nobody_writes() {
    let folder = TempFolder::new();
    let image = empty_image(&folder, "disk", 256);
    let private = DiskSpec {
        private: true,
        ..disk("scratch", &image, false)
    };
    let both = [100, 50].map(|sectors| {
        let sectors = format!("sectors={sectors}");
        started(&checking(vec![private.clone()], &[&sectors]))
    });
    for sandbox in &both {
        assert_eq!(ended(&**sandbox), OK, "{}", console_text(&**sandbox));
    }
    assert!(fs::read(&image).unwrap().iter().all(|byte| *byte == 0));
    let contradiction = DiskSpec {
        read_only: true,
        ..private
    };
    let error = runtime().create(&checking(vec![contradiction], &[])).unwrap_err();
    assert_eq!(error.field(), Some("disks[0].private"));
}

#[test]
fn a_read_only_disk_is_read_and_never_written() {
    let folder = TempFolder::new();
    let content = pattern(0..64);
    let image = folder.file("disk", &content);
    let reader = started(&checking(
        vec![disk("fixed", &image, true)],
        &["mode=read", "sectors=64"],
    ));
    assert_eq!(ended(&*reader), OK, "{}", console_text(&*reader));
    await_console(&*reader, "serial=fixed sectors=64 read-only");
    drop(reader);
    let writer = started(&checking(
        vec![disk("fixed", &image, true)],
        &["mode=write", "sectors=64"],
    ));
    assert_eq!(ended(&*writer), READ_ONLY, "{}", console_text(&*writer));
    assert!(fs::read(&image).unwrap() == content);
}

#[test]
fn other_data_than_the_pattern_is_noticed() {
    let folder = TempFolder::new();
    let mut content = pattern(0..64);
    content[33 * SECTOR_BYTES + 8] ^= 1;
    let image = folder.file("disk", &content);
    let sandbox = started(&checking(
        vec![disk("fixed", &image, true)],
        &["mode=read", "sectors=64"],
    ));
    assert_eq!(ended(&*sandbox), MISMATCH, "{}", console_text(&*sandbox));
    await_console(&*sandbox, "at sector 33");
}

#[test]
fn several_disks_keep_their_order_their_names_and_their_content() {
    let folder = TempFolder::new();
    let images: Vec<PathBuf> = ["one", "two", "three"]
        .iter()
        .zip([64, 128, 192])
        .map(|(name, sectors)| empty_image(&folder, name, sectors))
        .collect();
    let disks = vec![
        disk("one", &images[0], false),
        disk("two", &images[1], false),
        disk("a-name-that-is-longer-than-twenty", &images[2], false),
    ];
    let sandbox = started(&checking(disks, &["sectors=64"]));
    assert_eq!(ended(&*sandbox), OK, "{}", console_text(&*sandbox));
    for line in [
        "disk 0 serial=one sectors=64",
        "disk 1 serial=two sectors=128",
        "disk 2 serial=a-name-that-is-longe sectors=192",
    ] {
        await_console(&*sandbox, line);
    }
    for image in images {
        assert!(
            fs::read(&image).unwrap()[..64 * SECTOR_BYTES] == pattern(0..64),
            "{image:?}"
        );
    }
}

#[test]
fn one_reader_beside_another_is_allowed_and_a_writer_beside_them_is_not() {
    let folder = TempFolder::new();
    let image = folder.file("disk", &pattern(0..64));
    let first = created(&checking(vec![disk("d", &image, true)], &["mode=read"]));
    let second = created(&checking(vec![disk("d", &image, true)], &["mode=read"]));
    let error = runtime()
        .create(&checking(vec![disk("d", &image, false)], &[]))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{}", error.report());
    for sandbox in [first, second] {
        sandbox.start().unwrap();
        assert_eq!(ended(&*sandbox), OK, "{}", console_text(&*sandbox));
        sandbox.teardown().wait(PATIENCE).unwrap();
    }
    let writer = created(&checking(vec![disk("d", &image, false)], &[]));
    drop(writer);
}
