//! A device's window out of a snapshot that somebody made by hand, and a driver that goes on from there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox_core::limits::RateLimit;
use sandbox_fuzz::Bench;
use sandbox_vmm::devices::virtio::rng::{RngConfig, RngDevice};
use sandbox_vmm::devices::virtio::transport::TransportState;

fuzz_target!(|data: &[u8]| {
    let Ok((state, rest)) = postcard::take_from_bytes::<TransportState>(data) else {
        return;
    };
    let device = RngDevice::new(RngConfig {
        rate_limit: RateLimit::default(),
    });
    let bench = Bench::new(device.expect("no limits, no descriptors"));
    if bench.transport.restore(&state).is_ok() {
        bench.transport.wake();
        bench.drive(rest, |_| ());
    }
});
