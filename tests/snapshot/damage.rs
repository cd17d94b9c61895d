//! Folders that are not what was written: each is refused, with the reason, before anything is made.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sandbox::{ErrorKind, Manifest, RestoreOptions, SnapshotOptions, State};

use crate::checker::{self, Report};
use crate::restore::{WAYS, running, snapshot};
use crate::support::{TempFolder, has_complete_kvm, has_time, runtime};

/// A snapshot to be damaged.
struct Victim {
    folder: TempFolder,
}

impl Victim {
    fn new() -> Self {
        let folder = TempFolder::new();
        let original = checker::running();
        snapshot(&*original, &folder.path().join("snapshot"), &SnapshotOptions::default());
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("snapshot")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.file(name), bytes).unwrap();
    }

    /// What restoring it fails with, by every way.
    fn refusal(&self) -> ErrorKind {
        let kinds = WAYS.map(|way| match runtime().restore(&self.path(), &running(way)) {
            Ok(_) => panic!("it was restored"),
            Err(error) => error.kind(),
        });
        assert_eq!(kinds[0], kinds[1]);
        kinds[0]
    }

    fn still_works(&self) {
        for way in WAYS {
            assert!(runtime().restore(&self.path(), &running(way)).is_ok());
        }
    }
}

/// Bits all over, or every one where there is time.
fn bits(bytes: usize) -> impl Iterator<Item = usize> {
    let step = if has_time() { 1 } else { 67 };
    (0..bytes * 8).step_by(step)
}

#[test]
fn every_flipped_bit_of_manifest_and_state_is_noticed() {
    let victim = Victim::new();
    for name in ["manifest.json", "state"] {
        let whole = victim.read(name);
        for bit in bits(whole.len()) {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            victim.write(name, &flipped);
            let error = runtime()
                .restore(&victim.path(), &RestoreOptions::default())
                .unwrap_err();
            let told = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incompatible);
            assert!(told, "{name}, bit {bit}: {}", error.report());
        }
        victim.write(name, &whole);
    }
    victim.still_works();
}

#[test]
fn files_that_were_cut_or_lengthened_are_noticed() {
    let victim = Victim::new();
    for name in ["manifest.json", "state"] {
        let whole = victim.read(name);
        for length in (0..whole.len()).step_by(if has_time() { 1 } else { 397 }) {
            victim.write(name, &whole[..length]);
            assert_eq!(victim.refusal(), ErrorKind::Corrupt, "{name}, {length} bytes");
        }
        victim.write(name, &[&whole[..], b"x"].concat());
        assert_eq!(victim.refusal(), ErrorKind::Corrupt, "{name}, one byte more");
        victim.write(name, &whole);
    }
    let memory = File::options().write(true).open(victim.file("memory")).unwrap();
    let length = memory.metadata().unwrap().len();
    for other in [0, 4096, length - 4096, length + 1] {
        memory.set_len(other).unwrap();
        assert_eq!(victim.refusal(), ErrorKind::Corrupt, "memory, {other} bytes");
    }
}

#[test]
fn missing_files_are_told_by_name() {
    for name in ["manifest.json", "state", "memory"] {
        let victim = Victim::new();
        fs::remove_file(victim.file(name)).unwrap();
        let error = runtime()
            .restore(&victim.path(), &RestoreOptions::default())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.context().contains(name), "{}", error.report());
    }
    let nowhere = runtime().restore(Path::new("/nonexistent"), &RestoreOptions::default());
    assert_eq!(nowhere.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn files_of_another_snapshot_are_noticed() {
    let (victim, other) = (Victim::new(), Victim::new());
    for name in ["manifest.json", "state", "memory"] {
        let own = victim.folder.path().join("own");
        fs::rename(victim.file(name), &own).unwrap();
        fs::copy(other.file(name), victim.file(name)).unwrap();
        assert_eq!(victim.refusal(), ErrorKind::Corrupt, "{name}");
        fs::rename(&own, victim.file(name)).unwrap();
    }
    victim.still_works();
}

#[test]
fn what_is_no_file_keeps_nobody_waiting() {
    for name in ["manifest.json", "state", "memory"] {
        let victim = Victim::new();
        fs::remove_file(victim.file(name)).unwrap();
        fs::create_dir(victim.file(name)).unwrap();
        assert_ne!(victim.refusal(), ErrorKind::NotFound, "{name}");
        fs::remove_dir(victim.file(name)).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(victim.file(name))
            .status()
            .unwrap();
        assert!(made.success());
        assert_eq!(victim.refusal(), ErrorKind::Corrupt, "{name}");
    }
}

/// Writes a manifest with a right checksum that says something else.
fn remake(victim: &Victim, change: impl FnOnce(&mut Manifest)) {
    let mut manifest = Manifest::from_json(&victim.read("manifest.json")).unwrap();
    change(&mut manifest);
    victim.write("manifest.json", manifest.to_json().as_bytes());
}

#[test]
fn what_cannot_go_on_here_is_refused_with_the_reason() {
    type Change = (&'static str, fn(&mut Manifest));
    let changes: [Change; 3] = [
        ("format", |manifest| manifest.format += 1),
        ("aarch64", |manifest| manifest.architecture = "aarch64".to_owned()),
        ("abacus", |manifest| manifest.backend = "abacus".to_owned()),
    ];
    for (reason, change) in changes {
        let victim = Victim::new();
        remake(&victim, change);
        let error = runtime()
            .restore(&victim.path(), &RestoreOptions::default())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{}", error.report());
        assert!(error.report().contains(reason), "{}", error.report());
    }
}

#[test]
fn a_manifest_made_by_hand_leads_nowhere_else() {
    let changes: [fn(&mut Manifest); 5] = [
        |manifest| drop(manifest.files.remove("memory")),
        |manifest| drop(manifest.files.remove("state")),
        |manifest| manifest.identity = "0".repeat(32),
        |manifest| manifest.memory *= 2,
        |manifest| manifest.files.get_mut("memory").unwrap().size -= 4096,
    ];
    for change in changes {
        let victim = Victim::new();
        remake(&victim, change);
        assert_eq!(victim.refusal(), ErrorKind::Corrupt);
    }
}

/// CRC-32 as zlib and PNG have it.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1))
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// Puts the checksum of the section at `at` right, whose payload has `length` bytes.
fn seal(state: &mut [u8], at: usize, length: usize) {
    let checked = [&state[at..at + 16], &state[at + 20..at + 20 + length]].concat();
    state[at + 16..at + 20].copy_from_slice(&crc32(&checked).to_le_bytes());
}

/// Where the sections of a state file begin, and how long their payloads are (see the module `snapshot::section`).
fn sections(state: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 32;
    while at < state.len() {
        let length = u64::from_le_bytes(state[at + 8..at + 16].try_into().unwrap()) as usize;
        found.push((at, length));
        at += 20 + length;
    }
    found
}

#[test]
fn states_made_by_hand_end_in_an_error_or_in_a_guest() {
    // A software KVM is no place to try out what a host's kernel makes of nonsense.
    if !has_complete_kvm() {
        return;
    }
    let victim = Victim::new();
    let whole = victim.read("state");
    let rounds = if has_time() { 100_000 } else { 400 };
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let (mut refused, mut accepted) = (0, 0);
    for _ in 0..rounds {
        let mut state = whole.clone();
        let (at, length) = loop {
            let all = sections(&state);
            let section = all[next(all.len())];
            if section.1 > 0 {
                break section;
            }
        };
        for _ in 0..=next(4) {
            let place = at + 20 + next(length);
            state[place] = next(256) as u8;
        }
        seal(&mut state, at, length);
        victim.write("state", &state);
        match runtime().restore(&victim.path(), &RestoreOptions::default()) {
            Err(_) => refused += 1,
            Ok(restored) => {
                accepted += 1;
                assert_eq!(restored.sandbox.state(), State::Paused);
                restored.sandbox.resume().unwrap();
                restored.sandbox.stop(std::time::Duration::ZERO).unwrap();
            }
        }
    }
    assert!(refused > 0 && accepted > 0, "{refused} refused, {accepted} accepted");
}

/// Kinds of sections (see the module `snapshot::section`).
const END: u16 = 0;
const VCPU: u16 = 3;

fn kind(state: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([state[at], state[at + 1]])
}

/// Restores the victim by both ways with the state of its vCPU changed so, and the file's size in the manifest put right.
fn with_another_vcpu(victim: &Victim, change: impl FnOnce(&mut [u8])) -> [sandbox::Result<sandbox::Restored>; 2] {
    let mut state = victim.read("state");
    let all = sections(&state);
    let (at, length) = all.into_iter().find(|(at, _)| kind(&state, *at) == VCPU).unwrap();
    change(&mut state[at + 20..at + 20 + length]);
    seal(&mut state, at, length);
    victim.write("state", &state);
    WAYS.map(|way| runtime().restore(&victim.path(), &running(way)))
}

/// Where `wanted` stands for the first time.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[test]
fn a_state_that_lacks_a_section_is_refused() {
    let victim = Victim::new();
    let whole = victim.read("state");
    let all = sections(&whole);
    for (at, length) in all.iter().copied().filter(|(at, _)| kind(&whole, *at) != END) {
        let mut state = [&whole[..at], &whole[at + 20 + length..]].concat();
        let end = state.len() - 20;
        assert_eq!(kind(&state, end), END);
        // The end tells how many sections there are.
        state[end + 4..end + 8].copy_from_slice(&(all.len() as u32 - 2).to_le_bytes());
        seal(&mut state, end, 0);
        victim.write("state", &state);
        remake(&victim, |manifest| {
            manifest.files.get_mut("state").unwrap().size = state.len() as u64;
        });
        let error = runtime()
            .restore(&victim.path(), &RestoreOptions::default())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
        assert!(error.report().contains("no section"), "{}", error.report());
    }
}

#[test]
fn a_section_of_another_version_is_incompatible() {
    let victim = Victim::new();
    let whole = victim.read("state");
    for (at, length) in sections(&whole).into_iter().filter(|(at, _)| kind(&whole, *at) != END) {
        let mut state = whole.clone();
        state[at + 2..at + 4].copy_from_slice(&99_u16.to_le_bytes());
        seal(&mut state, at, length);
        victim.write("state", &state);
        assert_eq!(victim.refusal(), ErrorKind::Incompatible);
    }
}

#[test]
fn what_knows_another_processor_is_refused() {
    let victim = Victim::new();
    let (ours, theirs) = match find(&victim.read("state"), b"AuthcAMDenti") {
        Some(_) => (b"AuthcAMDenti", b"GenuntelineI"),
        None => (b"GenuntelineI", b"AuthcAMDenti"),
    };
    // Leaf 0 of CPUID as KVM gives it: EBX, ECX, EDX.
    let vendor = with_another_vcpu(&victim, |vcpu| {
        let place = find(vcpu, ours).unwrap();
        vcpu[place..place + theirs.len()].copy_from_slice(theirs);
    });
    let victim = Victim::new();
    // Leaf 1, behind its number, index and flags: EAX stays, and ECX has every feature.
    let feature = with_another_vcpu(&victim, |vcpu| {
        let place = find(vcpu, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        vcpu[place + 20..place + 24].fill(0xff);
    });
    for (reason, results) in [("a processor of", vendor), ("which this host's has not", feature)] {
        for result in results {
            let error = result.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Incompatible, "{}", error.report());
            assert!(error.report().contains(reason), "{}", error.report());
        }
    }
}

/// An unsigned number as postcard writes it.
fn varint(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[test]
fn a_guest_whose_counter_has_another_rate_is_given_that_rate_or_refused() {
    let victim = Victim::new();
    let manifest = Manifest::from_json(&victim.read("manifest.json")).unwrap();
    let rate: u32 = manifest.cpu["tsc_khz"].parse().unwrap();
    // 300 ppm more, which no guest puts up with.
    let other = rate + rate / 10_000 * 3;
    let results = with_another_vcpu(&victim, |vcpu| {
        let (before, after) = (varint(rate), varint(other));
        let place = find(vcpu, &before).unwrap();
        vcpu[place..place + after.len()].copy_from_slice(&after);
    });
    for result in results {
        match result {
            Ok(restored) => drop(Report::of(&*restored.sandbox)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Incompatible, "{}", error.report());
                assert!(error.report().contains("kHz"), "{}", error.report());
            }
        }
    }
}

#[test]
fn kvms_own_registers_are_saved() {
    let state = Victim::new().read("state");
    // Wall clock and system time, and what a guest enables of the rest: asynchronous page faults, steal time, the end of
    // interrupts. An entry is the number, nothing, and the value.
    let saved = |index: &u32| {
        let entry = [index.to_le_bytes(), [0; 4]].concat();
        find(&state, &entry).is_some()
    };
    let numbers: Vec<u32> = (0x4b56_4d00..=0x4b56_4d04).filter(saved).collect();
    assert_eq!(numbers.len(), 5, "{numbers:x?}");
}

#[test]
fn a_full_disk_leaves_no_snapshot_and_the_guest_running() {
    let folder = TempFolder::new();
    let Some(small) = SmallDisk::mount(folder.path()) else {
        return;
    };
    let original = checker::running();
    let path = small.0.join("snapshot");
    let mut filler = File::create(small.0.join("filler")).unwrap();
    filler.seek(SeekFrom::Start(0)).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
    // From no room at all to nearly enough.
    for freed in [0, 4, 16, 64, 100] {
        let length = filler.metadata().unwrap().len();
        filler.set_len(length - freed * 4096).unwrap();
        let before = fs::read_dir(&small.0).unwrap().count();
        match original.snapshot(&path, &SnapshotOptions::default()) {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::HostExhausted, "{}", error.report());
                assert_eq!(fs::read_dir(&small.0).unwrap().count(), before, "something is left");
            }
            Ok(_) => break,
        }
        assert_eq!(original.state(), State::Running);
        Report::of(&*original);
    }
    drop(filler);
    fs::remove_file(small.0.join("filler")).unwrap();
    let _ = fs::remove_dir_all(&path);
    snapshot(&*original, &path, &SnapshotOptions::default());
    assert!(runtime().restore(&path, &RestoreOptions::default()).is_ok());
}

/// A file system of one MiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Says that the test is skipped where nothing may be mounted.
    fn mount(folder: &Path) -> Option<Self> {
        let path = folder.join("disk");
        fs::create_dir(&path).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "small"])
            .arg(&path)
            .status();
        match mounted {
            Ok(status) if status.success() => Some(Self(path)),
            _ => {
                crate::support::skip("needs root to mount a small file system");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
