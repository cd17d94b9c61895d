//! Snapshots, restores and forks of each family: clones go on where the original stood, find the machine that it had and
//! end as it does, and what they do not have of their own is said.

use std::path::Path;

use sandbox::snapshot::{Given, MemoryRestore};
use sandbox::spec::{DiskSpec, UnikernelGuest};
use sandbox::{Capability, ErrorKind, Exit, RestoreOptions, Restored, Sandbox, SandboxSpec, State, Uniqueness};

use super::support::{PATIENCE, TempFolder, await_console, console_text, runtime, started};
use super::{auto, disk, words};

/// A guest of a family that waits for a line, and how it ends when it has had one.
struct Waiting {
    name: &'static str,
    spec: SandboxSpec,
    end: Exit,
}

impl Waiting {
    fn new(name: &'static str, memory: u64, end: Exit, change: impl FnOnce(&mut UnikernelGuest)) -> Self {
        Self {
            name,
            spec: auto(name, memory, change),
            end,
        }
    }

    /// With a disk that clones share.
    fn with_disk(mut self, folder: &TempFolder) -> Self {
        self.spec.disks.push(DiskSpec {
            read_only: true,
            ..disk(folder, "root")
        });
        self
    }

    fn running(&self) -> Box<dyn Sandbox> {
        let sandbox = started(&self.spec);
        await_console(&*sandbox, &format!("{}: waits\n", self.name));
        sandbox
    }

    /// Gives it its line, and sees it to its end.
    fn finish(&self, sandbox: &dyn Sandbox) {
        assert_eq!(sandbox.console_write(b"\n").unwrap(), 1);
        let exit = sandbox.wait(Some(PATIENCE)).unwrap();
        let said = console_text(sandbox);
        assert!(said.contains(&format!("{}: goes on\n", self.name)), "{said}");
        assert!(!said.contains("wrong"), "{said}");
        assert_eq!(exit, self.end, "{said}");
    }

    fn check_clone(&self, clone: &Restored) {
        assert_eq!(clone.uniqueness, CLOCK_ALONE, "{}", self.name);
        self.finish(&*clone.sandbox);
    }
}

/// What clones of all these have of their own: none of the families can be told.
const CLOCK_ALONE: Uniqueness = Uniqueness {
    entropy: Given::NotGiven,
    ids: Given::NotGiven,
    clock: Given::Applied,
    address: Given::NotGiven,
};

fn families(folder: &TempFolder) -> [Waiting; 4] {
    let application = folder.file("application", &[1; 5000]);
    [
        Waiting::new("as-unikraft", 2, Exit::PowerOff, |guest| {
            guest.args = words(&["wait=1"])
        }),
        Waiting::new("as-nanos", 11, Exit::Code(42), |guest| {
            guest.cmdline = Some("wait=1 exit=42".to_owned());
        })
        .with_disk(folder),
        Waiting::new("as-osv", 14, Exit::PowerOff, |guest| {
            guest.args = words(&["/server", "wait=1"])
        }),
        Waiting::new("as-hermit", 10, Exit::Code(0), |guest| {
            guest.initrd = Some(application);
            guest.args = words(&["wait=1"]);
        }),
    ]
}

fn running(memory: MemoryRestore) -> RestoreOptions {
    RestoreOptions {
        memory,
        start: true,
        ..RestoreOptions::default()
    }
}

fn restored(folder: &Path, memory: MemoryRestore) -> Restored {
    match runtime().restore(folder, &running(memory)) {
        Ok(restored) => restored,
        Err(error) => panic!("{}", error.report()),
    }
}

#[test]
fn a_snapshot_of_each_family_goes_on_and_says_what_it_was_not_given() {
    let folder = TempFolder::new();
    for family in families(&folder) {
        let path = folder.path().join(family.name);
        let original = family.running();
        let manifest = original.snapshot(&path, &Default::default()).unwrap();
        assert_eq!(manifest.uniqueness, CLOCK_ALONE, "{}", family.name);
        family.finish(&*original);
        original.teardown().wait(PATIENCE).unwrap();
        for way in [MemoryRestore::Cow, MemoryRestore::Eager] {
            family.check_clone(&restored(&path, way));
        }
    }
}

#[test]
fn forks_of_each_family_go_on_each_for_itself() {
    let folder = TempFolder::new();
    for family in families(&folder) {
        let parent = family.running();
        let clones = parent.as_fork().unwrap().fork(2, &running(MemoryRestore::Cow)).unwrap();
        for clone in &clones {
            family.check_clone(clone);
        }
        assert_eq!(parent.state(), State::Running);
        family.finish(&*parent);
    }
}

#[test]
fn a_solo5_guest_cannot_be_saved_and_says_so() {
    let folder = TempFolder::new();
    let sandbox = started(&auto("hvt-plain", 4, |guest| guest.args = words(&["end=wait"])));
    await_console(&*sandbox, "end=wait\n");
    assert!(!sandbox.capabilities().contains(&Capability::Snapshot));
    assert!(sandbox.as_fork().is_none());
    let error = sandbox
        .snapshot(&folder.path().join("snapshot"), &Default::default())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report());
    assert_eq!(sandbox.state(), State::Running);
}
