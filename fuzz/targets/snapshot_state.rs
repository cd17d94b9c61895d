//! The state file of a snapshot that somebody made by hand: every checksum is put right, so that what is behind them is
//! reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox_vmm::snapshot::compatibility;
use sandbox_vmm::snapshot::folder::parse_state;

/// The header, and what of it is checked; the same of a section (`snapshot/section.rs`).
const HEADER: usize = 32;
const SECTION: usize = 20;

fuzz_target!(|data: &[u8]| {
    let mut state = data.to_vec();
    put_right(&mut state);
    let Ok((identity, saved, memory)) = parse_state(&state) else {
        return;
    };
    compatibility::describe(&saved);
    let extents = memory.extents();
    assert!(
        extents.iter().all(|extent| extent.end() <= memory.size),
        "pages beyond memory"
    );
    // What was read can be written, and is the same then.
    let mut writer = saved.write(identity).expect("what was decoded can be encoded");
    writer.add(&memory).expect("likewise");
    let (again, _, same) = parse_state(&writer.finish()).expect("what was written can be read");
    assert_eq!((again, same), (identity, memory));
});

fn put_right(state: &mut [u8]) {
    if state.len() < HEADER {
        return;
    }
    let checksum = crc32fast::hash(&state[..HEADER - 4]);
    state[HEADER - 4..HEADER].copy_from_slice(&checksum.to_le_bytes());
    let mut at = HEADER;
    while let Some(header) = state.get(at..at + SECTION) {
        let length = u64::from_le_bytes(header[8..16].try_into().expect("8 bytes"));
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(at + SECTION));
        let Some(payload) = end.and_then(|end| state.get(at + SECTION..end)) else {
            return;
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&header[..SECTION - 4]);
        hasher.update(payload);
        let checksum = hasher.finalize().to_le_bytes();
        let next = at + SECTION + payload.len();
        state[at + SECTION - 4..at + SECTION].copy_from_slice(&checksum);
        at = next;
    }
}
