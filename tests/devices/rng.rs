//! The entropy device.

use std::collections::HashSet;

use sandbox::Exit;

use super::support::{PATIENCE, bare, console_text, started};

/// Bytes that the guest prints, in hexadecimal.
const PRINTED: usize = 64;

#[test]
fn every_guest_gets_random_bytes_of_its_own() {
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let mut spec = bare("rng", &[]);
        spec.rng = true;
        let sandbox = started(&spec);
        assert_eq!(
            sandbox.wait(Some(PATIENCE)).unwrap(),
            Exit::Code(0),
            "{}",
            console_text(&*sandbox)
        );
        let text = console_text(&*sandbox).trim().to_owned();
        assert_eq!(text.len(), PRINTED, "{text}");
        assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
        assert!(seen.insert(text), "the same bytes twice");
    }
}

#[test]
fn without_the_field_there_is_no_device() {
    let sandbox = started(&bare("rng", &[]));
    assert_eq!(
        sandbox.wait(Some(PATIENCE)).unwrap(),
        Exit::Code(2),
        "{}",
        console_text(&*sandbox)
    );
}
