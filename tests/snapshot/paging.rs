//! Restored guests whose pages come when they are asked for.

use std::fs::{self, File};
use std::time::Duration;

use sandbox::snapshot::{MemoryRestore, Verify};
use sandbox::{ErrorKind, Exit, RestoreOptions, Restored, SnapshotOptions};

use crate::checker::{self, Report};
use crate::restore::{restored, running, snapshot};
use crate::support::{PATIENCE, TempFolder, runtime, skip};

const WORKING_SET: &str = "working-set";

/// A snapshot to be restored on demand, and the nonce of its guest; `None`, and the test is skipped, where the host does
/// not let this process serve page faults.
fn paged() -> Option<(TempFolder, String)> {
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let original = checker::running();
    let nonce = Report::of(&*original).nonce().to_owned();
    snapshot(&*original, &path, &SnapshotOptions::default());
    let options = RestoreOptions {
        memory: MemoryRestore::Uffd,
        ..RestoreOptions::default()
    };
    match runtime().restore(&path, &options) {
        Ok(_) => Some((folder, nonce)),
        Err(error) => {
            assert_eq!((error.kind(), error.field()), (ErrorKind::Unsupported, Some("memory")));
            skip("needs root or another right to serve page faults");
            None
        }
    }
}

fn on_demand(folder: &TempFolder) -> Restored {
    restored(&folder.path().join("snapshot"), &running(MemoryRestore::Uffd))
}

#[test]
fn a_guest_goes_on_by_demand_and_leaves_a_list_for_the_next() {
    let Some((folder, nonce)) = paged() else {
        return;
    };
    let list = folder.path().join("snapshot").join(WORKING_SET);
    let first = on_demand(&folder).sandbox;
    assert_eq!(Report::of(&*first).nonce(), nonce);
    while !list.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let left = fs::read(&list).unwrap();
    for _ in 0..2 {
        // Frozen while what is on the list comes ahead of time.
        let second = on_demand(&folder).sandbox;
        let fork = second.as_fork().unwrap().fork(1, &running(MemoryRestore::Cow)).unwrap();
        for sandbox in [&second, &fork[0].sandbox] {
            assert_eq!(Report::of(&**sandbox).nonce(), nonce);
        }
    }
    assert_eq!(fs::read(&list).unwrap(), left);
    // A list that is none, or of another snapshot, is made anew.
    fs::write(&list, b"no list").unwrap();
    let again = on_demand(&folder).sandbox;
    assert_eq!(Report::of(&*again).nonce(), nonce);
    while fs::read(&list).unwrap() == b"no list" {
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_file_that_is_cut_under_it_ends_the_guest_and_nobody_hangs() {
    let Some((folder, _)) = paged() else {
        return;
    };
    let path = folder.path().join("snapshot");
    let options = RestoreOptions {
        memory: MemoryRestore::Uffd,
        ..RestoreOptions::default()
    };
    let clone = restored(&path, &options).sandbox;
    File::options()
        .write(true)
        .open(path.join("memory"))
        .unwrap()
        .set_len(8192)
        .unwrap();
    // A page that was asked for meanwhile, to read ahead, has ended it already.
    if let Err(error) = clone.resume() {
        assert_eq!(error.kind(), ErrorKind::WrongState, "{}", error.report());
    }
    let exit = clone.wait(Some(PATIENCE)).unwrap();
    assert!(
        matches!(&exit, Exit::GuestFault(report) if report.what.contains("snapshot")),
        "{exit:?}"
    );
    clone.teardown().wait(PATIENCE).unwrap();
}

#[test]
fn what_was_not_asked_for_yet_belongs_to_forks_and_snapshots() {
    let Some((folder, nonce)) = paged() else {
        return;
    };
    let paused = RestoreOptions {
        memory: MemoryRestore::Uffd,
        ..RestoreOptions::default()
    };
    let clone = restored(&folder.path().join("snapshot"), &paused).sandbox;
    let second = folder.path().join("second");
    snapshot(&*clone, &second, &SnapshotOptions::default());
    let forks = clone.as_fork().unwrap().fork(2, &RestoreOptions::default()).unwrap();
    let from_folder = restored(&second, &running(MemoryRestore::Cow));
    for sandbox in forks.into_iter().map(|fork| fork.sandbox).chain([clone]) {
        sandbox.resume().unwrap();
        assert_eq!(Report::of(&*sandbox).nonce(), nonce);
    }
    assert_eq!(Report::of(&*from_folder.sandbox).nonce(), nonce);
}

#[test]
fn a_digest_is_not_verified_on_demand() {
    let Some((folder, _)) = paged() else {
        return;
    };
    let options = RestoreOptions {
        verify: Verify::Full,
        ..running(MemoryRestore::Uffd)
    };
    let error = runtime()
        .restore(&folder.path().join("snapshot"), &options)
        .unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Unsupported, Some("verify")));
}
