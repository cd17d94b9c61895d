//! The balloon, its driver, and the host that changes its size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox_fuzz::{Bench, MEMORY_BYTES};
use sandbox_vmm::devices::virtio::balloon::{Balloon, BalloonConfig};

fuzz_target!(|data: &[u8]| {
    let config = BalloonConfig {
        target: 3,
        deflate_on_oom: true,
        free_page_reporting: true,
        statistics: true,
    };
    let balloon = Balloon::new(config, MEMORY_BYTES).expect("an eventfd");
    let handle = balloon.handle();
    Bench::new(balloon).drive(data, |choice| {
        let _ = handle.set_target(choice.into());
        let _ = handle.request_statistics();
    });
});
