//! The project's own guests, built from C and assembly by gcc when this crate is built.
//!
//! Each is a static ELF64 image at 1 MiB with two entries: its ELF entry point is that of the 64-bit Linux boot
//! protocol, and a note gives that of the PVH protocol. They use general-purpose registers only, so that they also run
//! on a KVM that emulates every instruction. `README.md` beside this crate lists their arguments and exit codes.

use std::fs;
use std::io;
use std::path::Path;

/// Tells clones of a running guest apart, and a clone from a guest that was started anew.
pub static CLONE_CHECK: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/clone-check"));

/// Behaves as Hermit's loader does at its boundary.
pub static AS_HERMIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/as-hermit"));

/// Behaves as Nanos does at its boundary.
pub static AS_NANOS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/as-nanos"));

/// Behaves as OSv does at its boundary.
pub static AS_OSV: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/as-osv"));

/// Behaves as Unikraft does at its boundary.
pub static AS_UNIKRAFT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/as-unikraft"));

/// Speaks Solo5's hvt interface, with a block device and a card.
pub static HVT_DEVICES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hvt-devices"));

/// Speaks Solo5's hvt interface, without devices.
pub static HVT_PLAIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hvt-plain"));

/// Writes and verifies a pattern on virtio-block disks; [`disk_pattern`] is the pattern.
pub static DISK_CHECK: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/disk-check"));

/// Ends in the way it is told: exit code, power-off, reset, triple fault, and others.
pub static ENDINGS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/endings"));

/// Prints one line and exits: the guest of the cold-start benchmarks.
pub static HELLO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));

/// Touches memory and burns processor time.
pub static HOG: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hog"));

/// Attacks its machine in the way it is told, for tests of what a host does about it.
pub static HOSTILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hostile"));

/// Answers HTTP requests on a virtio-net device.
pub static HTTP_REPLY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/http-reply"));

/// Prints random bytes of a virtio-rng device.
pub static RNG: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rng"));

/// Echoes vsock streams, those it opens and those it accepts.
pub static VSOCK_ECHO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vsock-echo"));

/// The bytes in a disk sector.
pub const SECTOR_BYTES: usize = 512;

/// Every guest by its name, in the order of the names.
pub fn all() -> &'static [(&'static str, &'static [u8])] {
    static ALL: [(&str, &[u8]); 15] = [
        ("as-hermit", AS_HERMIT),
        ("as-nanos", AS_NANOS),
        ("as-osv", AS_OSV),
        ("as-unikraft", AS_UNIKRAFT),
        ("clone-check", CLONE_CHECK),
        ("disk-check", DISK_CHECK),
        ("endings", ENDINGS),
        ("hello", HELLO),
        ("hog", HOG),
        ("hostile", HOSTILE),
        ("http-reply", HTTP_REPLY),
        ("hvt-devices", HVT_DEVICES),
        ("hvt-plain", HVT_PLAIN),
        ("rng", RNG),
        ("vsock-echo", VSOCK_ECHO),
    ];
    &ALL
}

/// Writes each guest into a file of its name in `directory`, which is made if it is not there.
///
/// # Errors
///
/// The first error of making the directory or writing a file; files already written stay.
pub fn write_to(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, image) in all() {
        fs::write(directory.join(name), image)?;
    }
    Ok(())
}

/// What `disk-check` writes to a sector: 64 little-endian words of 64 bits, word `w` of sector `s` being
/// `(s * 64 + w) * 0x9e3779b97f4a7c15` modulo 2^64.
pub fn disk_pattern(sector: u64) -> [u8; SECTOR_BYTES] {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    const WORDS: u64 = (SECTOR_BYTES / 8) as u64;

    let mut pattern = [0; SECTOR_BYTES];
    for (position, word) in (0u64..).zip(pattern.chunks_exact_mut(8)) {
        let value = sector.wrapping_mul(WORDS).wrapping_add(position).wrapping_mul(FACTOR);
        word.copy_from_slice(&value.to_le_bytes());
    }
    pattern
}
