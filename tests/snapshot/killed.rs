//! A process that is killed while it writes a snapshot: what stands there by its name is whole, and what is not goes with
//! the next snapshot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sandbox::snapshot::MemoryRestore;
use sandbox::{RestoreOptions, SnapshotOptions, State};

use crate::checker::{self, Report};
use crate::restore::{restored, running, snapshot};
use crate::support::{TempFolder, has_time, runtime};

/// Tells this program that it is the process to be killed, and where it writes.
const VICTIM: &str = "SANDBOX_TEST_WRITES_SNAPSHOTS_TO";
const TEST: &str = "killed::a_process_that_is_killed_in_a_snapshot_leaves_a_whole_one_or_none";
/// How often it may be too late: the snapshot has its name by the time the signal arrives.
const ATTEMPTS: u32 = 50;

/// How often the victim has to be killed in the midst of its work.
fn rounds() -> u32 {
    match has_time() {
        true => 200,
        false => 4,
    }
}

/// Writes snapshots until it is killed.
fn write_for_ever(folder: &Path) -> ! {
    let sandbox = checker::running();
    let options = SnapshotOptions {
        digest: true,
        ..SnapshotOptions::default()
    };
    for number in 0_u64.. {
        snapshot(&*sandbox, &folder.join(number.to_string()), &options);
    }
    unreachable!("nobody counts that far");
}

/// `scratch` gets what it can no longer tidy up.
fn victim(folder: &Path, scratch: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(VICTIM, folder)
        .env("TMPDIR", scratch)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The folders in `folder`: those that are snapshots by their name, and the others.
fn listed(folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.partition(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'))
}

/// Kills the victim when an unfinished snapshot has come so far that it has `files` files.
fn kill_amid(mut victim: Child, folder: &Path, files: usize) {
    let far_enough = |path: &PathBuf| fs::read_dir(path).is_ok_and(|entries| entries.count() >= files);
    while !listed(folder).1.iter().any(far_enough) {
        assert!(victim.try_wait().unwrap().is_none(), "the victim ended by itself");
        std::thread::yield_now();
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
}

#[test]
fn a_process_that_is_killed_in_a_snapshot_leaves_a_whole_one_or_none() {
    if let Some(folder) = std::env::var_os(VICTIM) {
        write_for_ever(Path::new(&folder));
    }
    let (folder, scratch) = (TempFolder::new(), TempFolder::new());
    let original = checker::running();
    let (mut amid, mut attempts) = (0, 0);
    while amid < rounds() {
        attempts += 1;
        assert!(attempts <= rounds() + ATTEMPTS, "it always came too late");
        // Before anything is in it, with memory, with state, with the manifest.
        let victim = victim(folder.path(), scratch.path());
        kill_amid(victim, folder.path(), attempts as usize % 4);
        let (whole, unfinished) = listed(folder.path());
        assert!(unfinished.len() <= 1, "{unfinished:?}");
        amid += unfinished.len() as u32;
        for path in &whole {
            let options = RestoreOptions {
                verify: sandbox::snapshot::Verify::Full,
                ..running(MemoryRestore::Eager)
            };
            Report::of(&*restored(path, &options).sandbox);
            fs::remove_dir_all(path).unwrap();
        }
        for path in &unfinished {
            let refused = runtime().restore(path, &RestoreOptions::default());
            let manifest = path.join("manifest.json").exists();
            assert!(refused.is_err() || manifest, "{} was restored", path.display());
        }

        let next = folder.path().join("next");
        snapshot(&*original, &next, &SnapshotOptions::default());
        assert_eq!(listed(folder.path()), (vec![next.clone()], Vec::new()));
        fs::remove_dir_all(&next).unwrap();
        assert_eq!(original.state(), State::Running);
    }
    Report::of(&*original);
}

#[test]
fn a_snapshot_that_is_being_written_is_not_swept_by_another() {
    let folder = TempFolder::new();
    let sandboxes: Vec<_> = (0..3).map(|_| checker::running()).collect();
    std::thread::scope(|scope| {
        for (index, sandbox) in sandboxes.iter().enumerate() {
            let parent = folder.path();
            scope.spawn(move || {
                for number in 0..rounds() {
                    let path = parent.join(format!("{index}-{number}"));
                    snapshot(&**sandbox, &path, &SnapshotOptions::default());
                }
            });
        }
    });
    let (whole, unfinished) = listed(folder.path());
    assert_eq!((whole.len() as u32, unfinished), (3 * rounds(), Vec::new()));
}
