//! Snapshots, and what comes out of them.

use sandbox::snapshot::AfterSnapshot;
use sandbox::{Capability, ErrorKind, Exit, RestoreOptions, SnapshotOptions, State};

use crate::Finding;
use crate::subject::Subject;
use crate::support::{TempFolder, runtime};

pub fn goes_on_from_a_snapshot(subject: &dyn Subject) -> Finding {
    let Some(guest) = subject.counter() else {
        return Finding::Absent("no guest that counts");
    };
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let sandbox = guest.start(subject);
    let (word, number) = subject.tick(&*sandbox);
    let options = SnapshotOptions {
        after: AfterSnapshot::Stop,
        ..SnapshotOptions::default()
    };
    if !sandbox.capabilities().contains(&Capability::Snapshot) {
        let error = sandbox.snapshot(&path, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(!path.exists());
        return Finding::Absent("no snapshots");
    }
    if let Err(error) = sandbox.snapshot(&path, &options) {
        panic!("{}", error.report());
    }
    assert_eq!(sandbox.state(), State::Stopped);
    assert_eq!(sandbox.wait(Some(subject.patience())).unwrap(), Exit::Killed);
    let can_hold = sandbox.capabilities().contains(&Capability::RestorePaused);
    sandbox.teardown().wait(subject.patience()).unwrap();
    let held = runtime().restore(&path, &RestoreOptions::default());
    match (held, can_hold) {
        (Ok(restored), true) => assert_eq!(restored.sandbox.state(), State::Paused),
        (Err(error), false) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report()),
        (held, _) => panic!("{held:?}, can be held paused: {can_hold}"),
    }
    let options = RestoreOptions {
        start: true,
        ..RestoreOptions::default()
    };
    let restored = match runtime().restore(&path, &options) {
        Ok(restored) => restored.sandbox,
        Err(error) => panic!("{}", error.report()),
    };
    assert_eq!(restored.state(), State::Running);
    let (same, later) = subject.tick(&*restored);
    assert_eq!(same, word, "it began anew");
    assert!(later > number, "{later} after {number}");
    restored.teardown().wait(subject.patience()).unwrap();
    Finding::Kept
}

pub fn goes_on_beside_its_snapshot(subject: &dyn Subject) -> Finding {
    let Some(guest) = subject.counter() else {
        return Finding::Absent("no guest that counts");
    };
    let folder = TempFolder::new();
    let path = folder.path().join("snapshot");
    let sandbox = guest.start(subject);
    let (word, number) = subject.tick(&*sandbox);
    let options = SnapshotOptions {
        after: AfterSnapshot::Resume,
        ..SnapshotOptions::default()
    };
    if !sandbox.capabilities().contains(&Capability::SnapshotResume) {
        let error = sandbox.snapshot(&path, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report());
        assert!(!path.exists());
        let (same, later) = subject.tick(&*sandbox);
        assert!(same == word && later > number, "a refusal changed it");
        return Finding::Absent("no snapshots that the guest survives");
    }
    if let Err(error) = sandbox.snapshot(&path, &options) {
        panic!("{}", error.report());
    }
    assert_eq!(sandbox.state(), State::Running);
    let (same, later) = subject.tick(&*sandbox);
    assert!(same == word && later > number, "{later} after {number}");
    // The original lives and its snapshot does too.
    let options = RestoreOptions {
        start: true,
        ..RestoreOptions::default()
    };
    let restored = match runtime().restore(&path, &options) {
        Ok(restored) => restored.sandbox,
        Err(error) => panic!("{}", error.report()),
    };
    assert_ne!(restored.id(), sandbox.id());
    let (same, later) = subject.tick(&*restored);
    assert!(same == word && later > number, "{later} after {number}");
    sandbox.teardown().wait(subject.patience()).unwrap();
    let (_, last) = subject.tick(&*restored);
    assert!(last > later, "it ended with the original");
    restored.teardown().wait(subject.patience()).unwrap();
    Finding::Kept
}
