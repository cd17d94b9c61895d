//! The document that describes a sandbox, and the checks that need no host.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox_core::SandboxSpec;

fuzz_target!(|data: &[u8]| {
    if let Ok(spec) = SandboxSpec::from_json(data) {
        let _ = spec.validate();
    }
});
