//! Snapshot folders, and sandboxes that come out of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use sandbox::snapshot::{AfterSnapshot, MemoryRestore, Verify};
use sandbox::{
    ErrorKind, Exit, Manifest, Phase, RestoreOptions, Restored, Sandbox, SandboxSpec, SnapshotOptions, State,
};

use crate::checker::{self, Report};
use crate::support::{PATIENCE, TempFolder, bare, created, runtime, started};

/// The ways in which memory is brought in.
pub const WAYS: [MemoryRestore; 2] = [MemoryRestore::Cow, MemoryRestore::Eager];

pub fn snapshot(sandbox: &dyn Sandbox, folder: &Path, options: &SnapshotOptions) -> Manifest {
    match sandbox.snapshot(folder, options) {
        Ok(manifest) => manifest,
        Err(error) => panic!("{}", error.report()),
    }
}

pub fn restored(folder: &Path, options: &RestoreOptions) -> Restored {
    match runtime().restore(folder, options) {
        Ok(restored) => restored,
        Err(error) => panic!("{}", error.report()),
    }
}

pub fn running(way: MemoryRestore) -> RestoreOptions {
    RestoreOptions {
        memory: way,
        start: true,
        ..RestoreOptions::default()
    }
}

#[test]
fn a_restored_guest_goes_on_where_it_stood_and_so_does_the_original() {
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let original = checker::running();
    let before = Report::of(&*original);
    let manifest = snapshot(&*original, &path, &SnapshotOptions::default());
    assert_eq!(original.state(), State::Running);
    assert_eq!((manifest.backend.as_str(), manifest.memory), ("kvm", 16 << 20));
    assert_eq!(Report::of(&*original).line(), before.line() + 1);
    for way in WAYS {
        for _ in 0..2 {
            let clone = restored(&path, &running(way)).sandbox;
            clone.wait_ready(PATIENCE).unwrap();
            let report = Report::of(&*clone);
            assert_eq!(report.nonce(), before.nonce(), "{way:?}: a new start");
            assert_eq!(report.line(), before.line() + 1, "{way:?}");
            let timeline = clone.timeline();
            for (earlier, later) in [
                (Phase::Called, Phase::SnapshotChecked),
                (Phase::SnapshotChecked, Phase::VmCreated),
                (Phase::MemoryMapped, Phase::StateRestored),
                (Phase::StateRestored, Phase::FirstEntry),
            ] {
                assert!(
                    timeline.between(earlier, later).is_some(),
                    "{earlier:?} before {later:?}: {timeline:?}"
                );
            }
        }
    }
}

#[test]
fn a_snapshot_can_end_its_sandbox_and_outlives_it() {
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let original = checker::running();
    let before = Report::of(&*original);
    let options = SnapshotOptions {
        after: AfterSnapshot::Stop,
        ..SnapshotOptions::default()
    };
    snapshot(&*original, &path, &options);
    assert_eq!(original.state(), State::Stopped);
    assert_eq!(original.wait(Some(Duration::ZERO)).unwrap(), Exit::Killed);
    original.teardown().wait(PATIENCE).unwrap();
    let clone = restored(&path, &RestoreOptions::default()).sandbox;
    assert_eq!(clone.state(), State::Paused);
    clone.resume().unwrap();
    assert_eq!(Report::of(&*clone).nonce(), before.nonce());
}

#[test]
fn a_paused_sandbox_stays_paused_and_a_restored_one_can_be_saved_again() {
    let folder = TempFolder::new();
    let first = folder.path().join("first");
    let second = folder.path().join("second");
    let third = folder.path().join("third");
    let original = checker::running();
    let before = Report::of(&*original);
    original.pause().unwrap();
    snapshot(&*original, &first, &SnapshotOptions::default());
    assert_eq!(original.state(), State::Paused);
    // Once without having run, once after.
    let clone = restored(&first, &RestoreOptions::default()).sandbox;
    snapshot(&*clone, &second, &SnapshotOptions::default());
    clone.resume().unwrap();
    assert_eq!(Report::of(&*clone).line(), before.line() + 1);
    snapshot(&*clone, &third, &SnapshotOptions::default());
    for (path, line) in [(&second, 1), (&third, 2)] {
        let clone = restored(path, &running(MemoryRestore::Cow)).sandbox;
        let report = Report::of(&*clone);
        assert_eq!((report.nonce(), report.line()), (before.nonce(), before.line() + line));
    }
}

#[test]
fn only_what_the_guest_touched_is_stored() {
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let mut spec = checker::spec();
    spec.memory = 512 << 20;
    let original = started(&spec);
    original.wait_ready(PATIENCE).unwrap();
    snapshot(&*original, &path, &SnapshotOptions::default());
    let memory = fs::metadata(path.join("memory")).unwrap();
    assert!(memory.len() > 512 << 20);
    assert!(
        memory.blocks() * 512 < 1 << 20,
        "{} bytes on disk",
        memory.blocks() * 512
    );
    assert_eq!(memory.mode() & 0o077, 0, "a guest's memory is nobody else's to read");
    let clone = restored(&path, &running(MemoryRestore::Cow)).sandbox;
    Report::of(&*clone);
    let touched = clone.stats().unwrap().memory.guest_touched.unwrap();
    assert!(touched < 1 << 20, "{touched} bytes");
}

#[test]
fn a_folder_in_use_can_be_removed_cut_and_restored_from_at_once() {
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let original = checker::running();
    let before = Report::of(&*original);
    snapshot(&*original, &path, &SnapshotOptions::default());
    let all_at_once = WAYS.into_iter().chain(WAYS);
    let clones: Vec<_> = std::thread::scope(|scope| {
        let path = &path;
        let restore = move |way| {
            let options = RestoreOptions {
                memory: way,
                ..RestoreOptions::default()
            };
            restored(path, &options).sandbox
        };
        let restores: Vec<_> = all_at_once.map(|way| scope.spawn(move || restore(way))).collect();
        restores.into_iter().map(|restore| restore.join().unwrap()).collect()
    });
    // What is mapped is not the file: neither a shorter nor a missing one reaches a clone, or this process.
    fs::OpenOptions::new()
        .write(true)
        .open(path.join("memory"))
        .unwrap()
        .set_len(0)
        .unwrap();
    fs::remove_dir_all(&path).unwrap();
    for clone in clones {
        clone.resume().unwrap();
        assert_eq!(Report::of(&*clone).nonce(), before.nonce());
    }
}

fn with_digest(folder: &Path) -> Box<dyn Sandbox> {
    let original = checker::running();
    let options = SnapshotOptions {
        digest: true,
        ..SnapshotOptions::default()
    };
    snapshot(&*original, folder, &options);
    original
}

#[test]
fn a_change_in_place_is_found_by_the_digest_and_only_by_it() {
    use std::os::unix::fs::FileExt;
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let original = with_digest(&path);
    let full = |way| RestoreOptions {
        verify: Verify::Full,
        ..running(way)
    };
    for way in WAYS {
        let clone = restored(&path, &full(way)).sandbox;
        assert_eq!(Report::of(&*clone).nonce(), Report::of(&*original).nonce());
    }
    // The guest's own code, which was stored: the first page behind the header that is no hole.
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path.join("memory"))
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4096 + 0x10_0000).unwrap();
    file.write_all_at(&[!byte[0]], 4096 + 0x10_0000).unwrap();
    for way in WAYS {
        let error = runtime().restore(&path, &full(way)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
        assert!(runtime().restore(&path, &RestoreOptions::default()).is_ok());
    }
}

#[test]
fn a_digest_that_was_not_taken_cannot_be_verified() {
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let original = checker::running();
    snapshot(&*original, &path, &SnapshotOptions::default());
    let options = RestoreOptions {
        verify: Verify::Full,
        ..RestoreOptions::default()
    };
    let error = runtime().restore(&path, &options).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidSpec, Some("verify")));
}

#[test]
fn a_name_is_had_by_one_sandbox_at_a_time() {
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let mut spec = checker::spec();
    spec.id = Some("only-one".to_owned());
    let original = started(&spec);
    original.wait_ready(PATIENCE).unwrap();
    snapshot(&*original, &path, &SnapshotOptions::default());
    let error = runtime().restore(&path, &RestoreOptions::default()).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::AlreadyExists, Some("id")));
    let mut renamed = RestoreOptions::default();
    renamed.overrides.id = Some("another".to_owned());
    assert_eq!(restored(&path, &renamed).sandbox.id(), "another");
    original.teardown().wait(PATIENCE).unwrap();
    assert_eq!(restored(&path, &RestoreOptions::default()).sandbox.id(), "only-one");
}

#[test]
fn limits_can_be_others_than_the_originals() {
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let original = checker::running();
    snapshot(&*original, &path, &SnapshotOptions::default());
    let mut options = running(MemoryRestore::Cow);
    options.overrides.limits = Some(sandbox::limits::Limits {
        deadline_ms: Some(50),
        ..Default::default()
    });
    let clone = restored(&path, &options).sandbox;
    assert_eq!(clone.wait(Some(PATIENCE)).unwrap(), Exit::Deadline);
}

#[test]
fn snapshots_that_cannot_be_taken_are_refused_and_leave_nothing() {
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let refused = |sandbox: &dyn Sandbox, path: &Path, options: &SnapshotOptions| {
        sandbox.snapshot(path, options).unwrap_err().kind()
    };
    let default = SnapshotOptions::default();
    let never_started = created(&bare("hello", &[]));
    assert_eq!(refused(&*never_started, &path, &default), ErrorKind::WrongState);
    let ended = started(&bare("hello", &[]));
    ended.wait(Some(PATIENCE)).unwrap();
    assert_eq!(refused(&*ended, &path, &default), ErrorKind::WrongState);
    let original = checker::running();
    assert_eq!(refused(&*original, folder.path(), &default), ErrorKind::AlreadyExists);
    assert_eq!(
        refused(&*original, Path::new("/nonexistent/snapshot"), &default),
        ErrorKind::NotFound
    );
    let difference = SnapshotOptions {
        base: Some(path.clone()),
        ..default
    };
    assert_eq!(refused(&*original, &path, &difference), ErrorKind::Unsupported);
    assert_eq!(original.state(), State::Running);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    Report::of(&*original);
}

/// The page tables of a guest's memory, by their numbers. A processor with nested paging walks them with the right to
/// mark them, and so they count as written though their content is as before (AMD64 Architecture Programmer's Manual
/// volume 2, 15.25.5).
fn page_tables(memory: &[[u8; 4096]]) -> Vec<usize> {
    let entry = |page: usize, index: usize| {
        let bytes = &memory[page][index * 8..index * 8 + 8];
        u64::from_le_bytes(bytes.try_into().unwrap())
    };
    // Where an entry leads, if it is a present one that names another table of this memory.
    let table = |entry: u64| {
        let page = (entry & 0x000f_ffff_ffff_f000) as usize / 4096;
        (entry & 0x83 == 3 && page < memory.len()).then_some(page)
    };
    let maps_itself = |page: usize| (0..8).all(|index| entry(page, index) & !0xfff == (index as u64) << 21);
    for root in 0..memory.len() {
        let Some(second) = table(entry(root, 0)) else { continue };
        let Some(third) = table(entry(second, 0)).filter(|page| maps_itself(*page)) else {
            continue;
        };
        let others = (1..512).filter_map(|index| table(entry(second, index)));
        return [root, second, third].into_iter().chain(others).collect();
    }
    panic!("the guest has no page tables");
}

fn tracked() -> SandboxSpec {
    let mut spec = checker::spec();
    spec.track_dirty = true;
    spec
}

/// The pages of a snapshot's own memory file, the header's left out; those that are zero are holes, or not.
fn pages(folder: &Path) -> Vec<[u8; 4096]> {
    let bytes = fs::read(folder.join("memory")).unwrap();
    bytes.as_chunks().0[1..].to_vec()
}

/// Where the segments lie that a processor starts with: the lowest page.
const PAGE_OF_DESCRIPTORS: usize = 0;

#[test]
fn differences_hold_the_pages_that_changed_and_page_tables() {
    let folder = TempFolder::new();
    let name = |kind: &str, number: u64| folder.path().join(format!("{kind}-{number}"));
    let original = started(&tracked());
    original.wait_ready(PATIENCE).unwrap();
    // A page that the guest reads for the first time counts as written as well: KVM gives it to be written. So it does
    // all that it will do once before, but for the processor itself: when it first takes an interrupt, which may be at
    // any time, it reads the page of its descriptors.
    assert_eq!(Report::of(&*original).line(), 1);
    let full = |number| snapshot(&*original, &name("full", number), &SnapshotOptions::default());
    original.pause().unwrap();
    full(1);
    for number in 2..=4 {
        original.resume().unwrap();
        assert_eq!(Report::of(&*original).line(), number);
        original.pause().unwrap();
        let on_full = SnapshotOptions {
            base: Some(name("full", number - 1)),
            ..SnapshotOptions::default()
        };
        snapshot(&*original, &name("difference", number), &on_full);
        full(number);
        let (before, after) = (pages(&name("full", number - 1)), pages(&name("full", number)));
        let changed = (0..after.len()).filter(|page| before[*page] != after[*page]);
        let changed: Vec<usize> = changed.collect();
        assert!(!changed.is_empty(), "the guest did nothing");
        let difference = pages(&name("difference", number));
        for page in &changed {
            assert!(difference[*page] == after[*page], "page {page} is missing");
        }
        let mut tables = page_tables(&after);
        tables.push(PAGE_OF_DESCRIPTORS);
        let needless =
            (0..difference.len()).filter(|page| difference[*page] != [0; 4096] && before[*page] == after[*page]);
        let needless: Vec<usize> = needless.filter(|page| !tables.contains(page)).collect();
        assert!(
            needless.is_empty(),
            "{needless:?} are as before; {changed:?} changed, {tables:?} are the processor's tables"
        );
    }
}

#[test]
fn differences_hold_what_changed_and_restore_with_their_bases() {
    let folder = TempFolder::new();
    let name = |number: u64| folder.path().join(format!("{number}"));
    let original = started(&tracked());
    original.wait_ready(PATIENCE).unwrap();
    let nonce = Report::of(&*original).nonce().to_owned();
    snapshot(&*original, &name(1), &SnapshotOptions::default());
    let on = |number| SnapshotOptions {
        base: Some(name(number)),
        digest: true,
        ..SnapshotOptions::default()
    };
    for number in 2..=4 {
        assert_eq!(Report::of(&*original).line(), number);
        let manifest = snapshot(&*original, &name(number), &on(number - 1));
        assert_eq!(manifest.bases.len() as u64, number - 1);
    }
    let skipped = original.snapshot(&folder.path().join("x"), &on(2)).unwrap_err();
    assert_eq!(
        (skipped.kind(), skipped.field()),
        (ErrorKind::InvalidSpec, Some("base"))
    );
    // Every folder stands for itself.
    for number in 1..=3 {
        fs::remove_dir_all(name(number)).unwrap();
    }
    for way in WAYS {
        let clone = restored(&name(4), &running(way)).sandbox;
        let report = Report::of(&*clone);
        assert_eq!((report.nonce(), report.line()), (&nonce[..], 5));
        // And a clone goes on from there.
        let again = folder.path().join("again");
        snapshot(&*clone, &again, &on(4));
        let second = restored(&again, &running(way)).sandbox;
        assert_eq!(Report::of(&*second).line(), 6);
        fs::remove_dir_all(&again).unwrap();
    }
}
