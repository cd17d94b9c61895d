//! Snapshots, and what comes out of them.

use std::path::{Path, PathBuf};

use sandbox::snapshot::AfterSnapshot;
use sandbox::{Capability, ErrorKind, Exit, RestoreOptions, Sandbox, SnapshotOptions, State};

use crate::Finding;
use crate::subject::Subject;
use crate::support::{TempFolder, runtime};

/// A guest that counts, and its snapshot.
struct Saved {
    sandbox: Box<dyn Sandbox>,
    snapshot: PathBuf,
    _folder: TempFolder,
    /// The word that it counts behind.
    word: String,
    /// A number that it had reached before.
    number: u64,
}

impl Saved {
    /// Starts the guest and takes its snapshot. Where the backend does not claim to be able to, it must refuse, and the
    /// guest go on as if it had not been asked.
    fn take(subject: &dyn Subject, after: AfterSnapshot, needed: Capability) -> Result<Self, Finding> {
        let Some(guest) = subject.counter() else {
            return Err(Finding::Absent("no guest that counts"));
        };
        let folder = TempFolder::new();
        let snapshot = folder.path().join("snapshot");
        let sandbox = guest.start(subject);
        let (word, number) = subject.tick(&*sandbox);
        let options = SnapshotOptions {
            after,
            ..SnapshotOptions::default()
        };
        let taken = sandbox.snapshot(&snapshot, &options);
        let saved = Self {
            sandbox,
            snapshot,
            _folder: folder,
            word,
            number,
        };
        match (taken, saved.sandbox.capabilities().contains(&needed)) {
            (Ok(_), true) => Ok(saved),
            (Err(error), false) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report());
                assert!(!saved.snapshot.exists());
                saved.goes_on(subject, &*saved.sandbox);
                Err(Finding::Absent(match after {
                    AfterSnapshot::Stop => "no snapshots",
                    AfterSnapshot::Resume => "no snapshots that the guest survives",
                }))
            }
            (Err(error), true) => panic!("{}", error.report()),
            (Ok(_), false) => panic!("it can do what it does not claim: {needed:?}"),
        }
    }

    /// Checks that `sandbox` counts where the guest was, and tells how far it has come.
    fn goes_on(&self, subject: &dyn Subject, sandbox: &dyn Sandbox) -> u64 {
        let (word, number) = subject.tick(sandbox);
        assert_eq!(word, self.word, "it began anew");
        assert!(number > self.number, "{number} after {}", self.number);
        number
    }
}

/// Goes on from the snapshot at once.
fn restored(snapshot: &Path) -> Box<dyn Sandbox> {
    let options = RestoreOptions {
        start: true,
        ..RestoreOptions::default()
    };
    match runtime().restore(snapshot, &options) {
        Ok(restored) => restored.sandbox,
        Err(error) => panic!("{}", error.report()),
    }
}

pub fn goes_on_from_a_snapshot(subject: &dyn Subject) -> Finding {
    let saved = match Saved::take(subject, AfterSnapshot::Stop, Capability::Snapshot) {
        Ok(saved) => saved,
        Err(finding) => return finding,
    };
    assert_eq!(saved.sandbox.state(), State::Stopped);
    assert_eq!(saved.sandbox.wait(Some(subject.patience())).unwrap(), Exit::Killed);
    let can_hold = saved.sandbox.capabilities().contains(&Capability::RestorePaused);
    saved.sandbox.teardown().wait(subject.patience()).unwrap();
    let held = runtime().restore(&saved.snapshot, &RestoreOptions::default());
    match (held, can_hold) {
        (Ok(restored), true) => assert_eq!(restored.sandbox.state(), State::Paused),
        (Err(error), false) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report()),
        (held, _) => panic!("{held:?}, can be held paused: {can_hold}"),
    }
    let restored = restored(&saved.snapshot);
    assert_eq!(restored.state(), State::Running);
    saved.goes_on(subject, &*restored);
    restored.teardown().wait(subject.patience()).unwrap();
    Finding::Kept
}

pub fn goes_on_beside_its_snapshot(subject: &dyn Subject) -> Finding {
    let saved = match Saved::take(subject, AfterSnapshot::Resume, Capability::SnapshotResume) {
        Ok(saved) => saved,
        Err(finding) => return finding,
    };
    assert_eq!(saved.sandbox.state(), State::Running);
    saved.goes_on(subject, &*saved.sandbox);
    // The original lives and its snapshot does too.
    let restored = restored(&saved.snapshot);
    assert_ne!(restored.id(), saved.sandbox.id());
    let later = saved.goes_on(subject, &*restored);
    saved.sandbox.teardown().wait(subject.patience()).unwrap();
    assert!(saved.goes_on(subject, &*restored) > later, "it ended with the original");
    restored.teardown().wait(subject.patience()).unwrap();
    Finding::Kept
}
