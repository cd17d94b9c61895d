//! The manifest of a snapshot.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox_core::Manifest;

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::from_json(data) {
        let again = Manifest::from_json(manifest.to_json().as_bytes());
        assert!(again.is_ok(), "what was written cannot be read");
    }
});
