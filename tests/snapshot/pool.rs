//! What is made ahead of time is there at once, and is made again behind the caller's back.

use std::time::Duration;

use sandbox::pool::Pool;
use sandbox::spec::Isolation;
use sandbox::{Backend, ErrorKind, Exit, KvmOptions, RestoreOptions, Restored, Runtime, SnapshotOptions, State};

use crate::checker::{self, Report};
use crate::support::{HOME, PATIENCE, TempFolder, bare};

/// Longer than any pool here takes to fill.
const FILLED: Duration = PATIENCE;

/// Whether VMs are kept ready for sandboxes that live where those of this program do. Where not, that is told.
fn has_shells() -> bool {
    if HOME == Isolation::InProcess {
        return true;
    }
    let kvm = crate::support::runtime().kvm().unwrap();
    let error = kvm.keep_shells(&checker::spec(), 1).unwrap_err();
    assert_eq!(
        (error.kind(), error.field()),
        (ErrorKind::Unsupported, Some("isolation"))
    );
    false
}

#[test]
fn starts_restores_and_forks_take_shells_that_fit() {
    if !has_shells() {
        return;
    }
    // A runtime of its own: others would take its shells.
    let runtime = Runtime::with_kvm_options(KvmOptions::default());
    let kvm = runtime.kvm().unwrap();
    let spec = checker::spec();
    kvm.keep_shells(&spec, 3).unwrap();
    let taken = || kvm.shell_metrics(&spec).unwrap().unwrap().taken;

    let parent = runtime.create(&spec).unwrap();
    parent.start().unwrap();
    parent.wait_ready(PATIENCE).unwrap();
    let before = Report::of(&*parent);
    let first = taken() + kvm.shell_metrics(&spec).unwrap().unwrap().missed;
    assert_eq!(first, 1, "a start did not ask for a shell");

    let options = RestoreOptions {
        start: true,
        ..RestoreOptions::default()
    };
    let folder = TempFolder::new();
    let snapshot = folder.path().join("snapshot");
    parent.snapshot(&snapshot, &SnapshotOptions::default()).unwrap();
    let restored = kvm.restore(&snapshot, &options).unwrap().sandbox;
    let forked = parent.as_fork().unwrap().fork(2, &options).unwrap();
    for clone in forked.iter().map(|clone| &clone.sandbox).chain([&restored]) {
        let report = Report::of(&**clone);
        assert_eq!((report.nonce(), report.line()), (before.nonce(), before.line() + 1));
    }
    let metrics = kvm.shell_metrics(&spec).unwrap().unwrap();
    assert_eq!(metrics.taken + metrics.missed, 4, "{metrics:?}");
    assert!(metrics.made >= metrics.taken, "{metrics:?}");

    let mut other = spec.clone();
    other.memory *= 2;
    assert_eq!(kvm.shell_metrics(&other).unwrap(), None);
    kvm.keep_shells(&spec, 0).unwrap();
    assert_eq!(kvm.shell_metrics(&spec).unwrap(), None);
}

#[test]
fn a_guest_in_a_shell_is_as_any_other() {
    if !has_shells() {
        return;
    }
    let runtime = Runtime::with_kvm_options(KvmOptions::default());
    let kvm = runtime.kvm().unwrap();
    let mut spec = bare("hello", &["exit=7"]);
    spec.vcpus = 2;
    kvm.keep_shells(&spec, 1).unwrap();
    for _ in 0..3 {
        assert!(kvm.wait_for_shells(&spec, 1, PATIENCE).unwrap());
        let sandbox = runtime.create(&spec).unwrap();
        sandbox.start().unwrap();
        assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Code(7));
        sandbox.teardown().wait(PATIENCE).unwrap();
    }
    let metrics = kvm.shell_metrics(&spec).unwrap().unwrap();
    assert_eq!((metrics.taken, metrics.missed), (3, 0));
    assert!(!kvm.wait_for_shells(&spec, 2, PATIENCE).unwrap(), "one is kept");
    kvm.keep_shells(&spec, 0).unwrap();
    assert!(!kvm.wait_for_shells(&spec, 1, PATIENCE).unwrap(), "none is kept");
}

#[test]
fn clones_wait_in_a_pool_and_run_when_they_are_taken() {
    let parent = checker::running();
    let before = Report::of(&*parent);
    let folder = TempFolder::new();
    let snapshot = folder.path().join("snapshot");
    parent.snapshot(&snapshot, &SnapshotOptions::default()).unwrap();
    let kvm = crate::support::runtime().kvm().unwrap();
    let pool: Pool<Restored> = Pool::new(2, move || kvm.restore(&snapshot, &RestoreOptions::default())).unwrap();
    let mut identities = Vec::new();
    for _ in 0..4 {
        assert!(pool.wait_full(FILLED), "{:?}", pool.metrics());
        let clone = pool.take().unwrap().sandbox;
        assert_eq!(clone.state(), State::Paused);
        clone.resume().unwrap();
        clone.as_renewed().unwrap().wait_confirmed(PATIENCE).unwrap();
        let report = Report::of(&*clone);
        assert_eq!((report.nonce(), report.line()), (before.nonce(), before.line() + 1));
        identities.push(report.text("id").to_owned());
    }
    identities.sort();
    identities.dedup();
    assert_eq!(identities.len(), 4, "clones of one pool are alike");
    let metrics = pool.metrics();
    assert_eq!((metrics.taken, metrics.missed, metrics.failed), (4, 0, 0));
}

#[test]
fn a_pool_that_cannot_be_filled_says_why() {
    let kvm = crate::support::runtime().kvm().unwrap();
    let folder = TempFolder::new();
    let missing = folder.path().join("missing");
    let pool = Pool::new(1, move || kvm.restore(&missing, &RestoreOptions::default())).unwrap();
    assert!(!pool.wait_full(FILLED));
    assert!(pool.take().is_none());
    assert!(pool.metrics().last_error.is_some());
    let mut spec = checker::spec();
    spec.isolation = Isolation::InProcess;
    let error = crate::support::runtime()
        .kvm()
        .unwrap()
        .keep_shells(&spec, sandbox::pool::MAX_SIZE + 1)
        .unwrap_err();
    assert_eq!(error.field(), Some("size"));
}
