//! The manifest of a snapshot.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox_core::Manifest;

fuzz_target!(|data: &[u8]| {
    // Most inputs have another checksum than they should: what is behind it is reached all the same.
    let sealed = serde_json::from_slice::<Manifest>(data).map(|manifest| manifest.to_json().into_bytes());
    if let Ok(manifest) = Manifest::from_json(sealed.as_deref().unwrap_or(data)) {
        let again = Manifest::from_json(manifest.to_json().as_bytes());
        assert!(again.is_ok(), "what was written cannot be read");
    }
});
