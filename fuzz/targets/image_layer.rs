//! Archives that are unpacked as layers of a container's root: whatever they say, nothing is made beside the folder.
#![no_main]

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sandbox_container::image::{Ownership, UnpackLimits, Unpacker};

const BLOCK: usize = 512;
/// Where the checksum stands in a tar header.
const CHECKSUM: std::ops::Range<usize> = 148..156;

fuzz_target!(|data: &[u8]| {
    let mut archive = data.to_vec();
    archive.as_chunks_mut::<BLOCK>().0.iter_mut().for_each(put_right);
    let base = base();
    let root = base.join("root");
    fs::create_dir(&root).expect("the folder of the input before is gone");
    let limits = UnpackLimits {
        bytes: 1 << 20,
        entries: 64,
        depth: 8,
        header_bytes: 4096,
        attribute_bytes: 1024,
        name_bytes: 16 << 10,
    };
    let folder = File::open(&root).expect("a folder that is there").into();
    let mut unpacker = Unpacker::new(folder, limits, Ownership::Caller);
    // Twice: the second layer meets what the first one made.
    let (first, second) = archive.split_at(archive.len() / (2 * BLOCK) * BLOCK);
    let unpacked = unpacker.layer(first).and_then(|()| unpacker.layer(second));
    if unpacked.is_ok() {
        let _ = unpacker.finish();
    }
    let beside = fs::read_dir(base).expect("the folder around it").count();
    assert_eq!(beside, 1, "something was made beside the root");
    remove(&root);
});

/// Gives a block the checksum that it must have as a header.
fn put_right(block: &mut [u8; BLOCK]) {
    if block.iter().all(|byte| *byte == 0) {
        return;
    }
    block[CHECKSUM].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A folder in memory of this process's own.
fn base() -> &'static PathBuf {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let base = PathBuf::from(format!("/dev/shm/sandbox-fuzz-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir(&base).expect("a file system in memory");
        base
    })
}

/// Removes a tree whose folders may forbid it to whoever is not root.
fn remove(root: &PathBuf) {
    if fs::remove_dir_all(root).is_err() {
        let _ = std::process::Command::new("chmod")
            .arg("-R")
            .arg("u+rwx")
            .arg(root)
            .status();
        fs::remove_dir_all(root).expect("an input leaves what cannot be removed");
    }
}
