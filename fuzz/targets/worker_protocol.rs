//! What a worker that its guest has taken over says to its embedder, and what an embedder says to its worker.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox_vmm::worker::packets;

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 4 {
        // With a header that is right, since few others would be.
        0 | 1 => packets::hear_report(&packets::with_header(body)),
        2 => packets::hear_report(body),
        _ => packets::hear_call(&packets::with_header(body)),
    }
});
