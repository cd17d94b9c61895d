//! What can be a disk, and who may use it at the same time.

use std::ffi::CString;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use virtio_bindings::virtio_blk::*;
use vmm_sys_util::tempdir::TempDir;

use super::*;
use crate::devices::virtio::test_support::guest_memory;

/// A directory with an image of [`SECTORS`] sectors in it.
fn directory_with_image() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.as_path().join("disk.img");
    fs::write(&path, patterns(0..SECTORS)).unwrap();
    (directory, path)
}

#[test]
fn what_cannot_be_a_disk_is_refused_with_the_reason() {
    let (directory, image) = directory_with_image();
    let at = |name: &str| directory.as_path().join(name);
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("small"), [0; 511]).unwrap();
    fs::write(at("protected"), [0; 512]).unwrap();
    fs::set_permissions(at("protected"), Permissions::from_mode(0o444)).unwrap();
    let pipe = CString::new(at("pipe").as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a valid string.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);

    let open = |path: &Path, read_only| match open_disk(path, read_only) {
        Ok(_) => "opened",
        Err(BlockError::NotFound { .. }) => "not found",
        Err(BlockError::NotADisk(what)) => what,
        Err(BlockError::Empty) => "empty",
        // Who is not root is told by the kernel already.
        Err(BlockError::WriteProtected { .. } | BlockError::Denied { .. }) => "protected",
        Err(error) => panic!("{error}"),
    };
    for (name, read_only, outcome) in [
        ("missing", true, "not found"),
        ("missing", false, "not found"),
        ("", true, "directory"),
        ("", false, "directory"),
        ("pipe", true, "pipe"),
        ("pipe", false, "pipe"),
        ("/dev/null", true, "character device"),
        ("/dev/null", false, "character device"),
        ("empty", false, "empty"),
        ("small", true, "empty"),
        ("protected", false, "protected"),
        ("protected", true, "opened"),
        ("disk.img", false, "opened"),
    ] {
        assert_eq!(open(&at(name), read_only), outcome, "{name} read_only={read_only}");
    }
    assert_eq!(open(&image, true), "opened");
}

#[test]
fn a_written_disk_belongs_to_one_alone() {
    let (_directory, path) = directory_with_image();
    let in_use = |read_only| matches!(open_disk(&path, read_only), Err(BlockError::InUse { .. }));
    let writer = open_disk(&path, false).unwrap();
    assert!(in_use(false) && in_use(true));
    let duplicate = writer.try_clone().unwrap();
    drop(writer);
    assert!(in_use(true), "the lock lasts as long as any duplicate");
    drop(duplicate);
    let readers = [open_disk(&path, true).unwrap(), open_disk(&path, true).unwrap()];
    assert!(in_use(false));
    drop(readers);
    assert!(!in_use(false));
}

#[test]
fn the_lock_follows_the_file_not_its_name() {
    let (directory, path) = directory_with_image();
    let link = directory.as_path().join("link");
    fs::hard_link(&path, &link).unwrap();
    let _writer = open_disk(&path, false).unwrap();
    assert!(matches!(open_disk(&link, true), Err(BlockError::InUse { .. })));
}

#[test]
fn a_descriptor_opened_the_wrong_way_is_refused() {
    let (_directory, path) = directory_with_image();
    let make = |options: &OpenOptions, read_only| {
        let config = BlockConfig {
            read_only,
            ..config(options.open(&path).unwrap())
        };
        BlockDevice::new(config).map(|_| ()).map_err(|error| error.to_string())
    };
    let mut options = OpenOptions::new();
    assert!(make(options.read(true), true).is_ok());
    assert!(make(&options, false).unwrap_err().contains("not open for writing"));
    let mut options = OpenOptions::new();
    assert!(
        make(options.write(true), false)
            .unwrap_err()
            .contains("not open for reading")
    );
    assert!(make(options.read(true), true).is_ok());
}

#[test]
fn a_discard_gives_the_hosts_blocks_back() {
    let memory = guest_memory(2);
    let (_directory, path) = directory_with_image();
    let mut bench = Bench::with_config(&memory, config(open_disk(&path, false).unwrap()));
    bench.file.sync_all().unwrap();
    let before = bench.file.metadata().unwrap().blocks();
    assert!(before >= SECTORS);
    let range: Vec<u8> = [&64u64.to_le_bytes()[..], &128u32.to_le_bytes(), &0u32.to_le_bytes()].concat();
    bench.put(DATA, &range);
    assert_eq!(
        bench.request(VIRTIO_BLK_T_DISCARD, 0, &[Buffer::readable(DATA, 16)]).0,
        OK
    );
    bench.file.sync_all().unwrap();
    assert_eq!(bench.file.metadata().unwrap().blocks(), before - 128);
    assert_eq!(bench.on_disk(0, 64 * 512), patterns(0..64));
    assert_eq!(bench.on_disk(64, 128 * 512), [0; 128 * 512]);
    assert_eq!(bench.on_disk(192, 64 * 512), patterns(192..256));
    assert_eq!(fs::metadata(&path).unwrap().len(), SECTORS * SECTOR_SIZE);
}
