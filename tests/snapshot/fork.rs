//! Clones in memory.

use sandbox::snapshot::{DiskOverride, MemoryRestore, Overrides};
use sandbox::spec::DiskSpec;
use sandbox::{Capability, ErrorKind, Exit, RestoreOptions, Restored, Sandbox, State};
use std::time::Duration;

use crate::checker::{self, Report};
use crate::support::{PATIENCE, TempFolder, bare, created, started};

fn forked(parent: &dyn Sandbox, count: u32) -> Vec<Restored> {
    let options = RestoreOptions {
        start: true,
        ..RestoreOptions::default()
    };
    match parent.as_fork().unwrap().fork(count, &options) {
        Ok(clones) => clones,
        Err(error) => panic!("{}", error.report()),
    }
}

#[test]
fn clones_go_on_where_the_parent_stood_and_each_for_itself() {
    let parent = checker::running();
    assert!(parent.capabilities().contains(&Capability::Fork));
    let before = Report::of(&*parent);
    let clones = forked(&*parent, 3);
    assert_eq!(parent.state(), State::Running);
    for (number, clone) in clones.iter().enumerate() {
        assert_eq!(clone.sandbox.state(), State::Running);
        for turn in 0..=number {
            let report = Report::of(&*clone.sandbox);
            assert_eq!(report.nonce(), before.nonce(), "not a clone but a new start");
            assert_eq!(report.line(), before.line() + 1 + turn as u64);
        }
    }
    assert_eq!(
        Report::of(&*parent).line(),
        before.line() + 1,
        "the parent goes on alone"
    );
}

#[test]
fn clones_of_clones_carry_what_happened_on_the_way() {
    let mut generation = checker::running();
    let nonce = Report::of(&*generation).nonce().to_owned();
    for depth in 2..8 {
        let clone = forked(&*generation, 1).remove(0).sandbox;
        let report = Report::of(&*clone);
        assert_eq!((report.nonce(), report.line()), (&nonce[..], depth));
        generation.teardown().wait(PATIENCE).unwrap();
        generation = clone;
    }
}

#[test]
fn a_paused_parent_stays_paused_and_its_clones_wait_until_they_are_resumed() {
    let parent = checker::running();
    let before = Report::of(&*parent);
    parent.pause().unwrap();
    let clones = parent.as_fork().unwrap().fork(2, &RestoreOptions::default()).unwrap();
    assert_eq!(parent.state(), State::Paused);
    for clone in &clones {
        assert_eq!(clone.sandbox.state(), State::Paused);
        clone.sandbox.resume().unwrap();
        assert_eq!(Report::of(&*clone.sandbox).line(), before.line() + 1);
    }
    parent.resume().unwrap();
    assert_eq!(Report::of(&*parent).line(), before.line() + 1);
}

#[test]
fn a_clone_that_never_ran_can_be_forked_stopped_and_torn_down() {
    let parent = checker::running();
    let before = Report::of(&*parent);
    let clone = parent.as_fork().unwrap().fork(1, &RestoreOptions::default()).unwrap();
    let second = forked(&*clone[0].sandbox, 1);
    assert_eq!(Report::of(&*second[0].sandbox).line(), before.line() + 1);
    assert_eq!(clone[0].sandbox.stop(Duration::ZERO).unwrap(), Exit::Killed);
    clone[0].sandbox.teardown().wait(PATIENCE).unwrap();
    parent.teardown().wait(PATIENCE).unwrap();
    assert_eq!(
        Report::of(&*second[0].sandbox).nonce(),
        before.nonce(),
        "it outlives its ancestors"
    );
}

#[test]
fn what_cannot_be_forked_is_told() {
    let refused = |sandbox: &dyn Sandbox, options: &RestoreOptions| {
        let error = sandbox.as_fork().unwrap().fork(2, options).unwrap_err();
        (error.kind(), error.field().unwrap_or_default().to_owned())
    };
    let never_started = created(&bare("hello", &[]));
    assert_eq!(
        refused(&*never_started, &RestoreOptions::default()).0,
        ErrorKind::WrongState
    );
    let parent = checker::running();
    let eager = RestoreOptions {
        memory: MemoryRestore::Eager,
        ..RestoreOptions::default()
    };
    assert_eq!(refused(&*parent, &eager), (ErrorKind::Unsupported, "memory".to_owned()));
    let mut named = RestoreOptions::default();
    named.overrides.id = Some("twin".to_owned());
    assert_eq!(
        refused(&*parent, &named),
        (ErrorKind::InvalidSpec, "overrides.id".to_owned())
    );
    named.overrides.id = None;
    named.overrides.limits = Some(sandbox::limits::Limits {
        pids: Some(3),
        ..Default::default()
    });
    assert_eq!(
        refused(&*parent, &named),
        (ErrorKind::Unsupported, "limits.pids".to_owned())
    );
    assert_eq!(parent.state(), State::Running);
}

#[test]
fn clones_of_a_guest_with_a_disk_need_one_of_their_own() {
    let folder = TempFolder::new();
    let disk = |name: &str, private: bool| DiskSpec {
        id: "data".to_owned(),
        path: folder.file(name, &[0; 64 << 10]),
        private,
        ..DiskSpec::default()
    };
    let mut spec = checker::spec();
    spec.disks = vec![disk("written", false)];
    let parent = started(&spec);
    parent.wait_ready(PATIENCE).unwrap();
    let fork = |parent: &dyn Sandbox, overrides: Overrides, count| {
        let options = RestoreOptions {
            overrides,
            start: true,
            ..RestoreOptions::default()
        };
        parent.as_fork().unwrap().fork(count, &options)
    };
    let error = fork(&*parent, Overrides::default(), 1).unwrap_err();
    assert_eq!(
        (error.kind(), error.field()),
        (ErrorKind::InvalidSpec, Some("overrides.disks.data"))
    );
    let with = |given: DiskOverride| Overrides {
        disks: [("data".to_owned(), given)].into(),
        ..Overrides::default()
    };
    let private = DiskOverride {
        private: true,
        ..DiskOverride::default()
    };
    // The parent goes on writing the file, which a clone must not have under it.
    let error = fork(&*parent, with(private.clone()), 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{}", error.report());
    let shared = DiskOverride {
        path: Some(folder.file("shared", &[0; 64 << 10])),
        ..private
    };
    let clones = fork(&*parent, with(shared), 2).unwrap();
    let reports: Vec<_> = clones.iter().map(|clone| Report::of(&*clone.sandbox)).collect();
    assert_eq!(reports[0].nonce(), reports[1].nonce());
    let smaller = DiskOverride {
        path: Some(folder.file("smaller", &[0; 32 << 10])),
        ..DiskOverride::default()
    };
    let error = fork(&*parent, with(smaller), 1).unwrap_err();
    assert!(error.report().contains("sectors"), "{}", error.report());
    spec.disks = vec![disk("private", true)];
    let parent = started(&spec);
    parent.wait_ready(PATIENCE).unwrap();
    let clones = fork(&*parent, Overrides::default(), 3).unwrap();
    clones.iter().for_each(|clone| drop(Report::of(&*clone.sandbox)));
}
