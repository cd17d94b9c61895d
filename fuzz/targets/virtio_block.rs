//! A disk and its driver.
#![no_main]

use std::fs::File;
use std::io::Write;

use libfuzzer_sys::fuzz_target;
use sandbox_core::limits::RateLimit;
use sandbox_fuzz::Bench;
use sandbox_vmm::devices::virtio::block::{BlockConfig, BlockDevice};
use vmm_sys_util::tempfile::TempFile;

const DISK_BYTES: usize = 64 << 10;

fn image() -> File {
    let mut file = TempFile::new_in("/dev/shm".as_ref())
        .expect("shared memory")
        .into_file();
    file.write_all(&[0x5a; DISK_BYTES]).expect("shared memory");
    file
}

fuzz_target!(|data: &[u8]| {
    let Some((options, data)) = data.split_first() else {
        return;
    };
    let file = image();
    let device = BlockDevice::new(BlockConfig {
        file: file.try_clone().expect("a descriptor"),
        read_only: options & 1 != 0,
        layer: None,
        serial: "fuzz".to_owned(),
        rate_limit: RateLimit::default(),
    });
    Bench::new(device.expect("a good file")).drive(data, |_| ());
    assert_eq!(
        file.metadata().expect("metadata").len(),
        DISK_BYTES as u64,
        "a guest changed its disk's size"
    );
});
