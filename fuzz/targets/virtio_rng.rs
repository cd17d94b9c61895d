//! The entropy device and its driver.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox_core::limits::RateLimit;
use sandbox_fuzz::Bench;
use sandbox_vmm::devices::virtio::rng::{RngConfig, RngDevice};

fuzz_target!(|data: &[u8]| {
    let device = RngDevice::new(RngConfig {
        rate_limit: RateLimit::default(),
    });
    Bench::new(device.expect("no limits, no descriptors")).drive(data, |_| ());
});
