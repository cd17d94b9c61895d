//! States, and the verbs between them.

use std::time::Duration;

use sandbox::{ErrorKind, Exit, Phase, State};

use crate::Finding;
use crate::subject::Subject;
use crate::support::{created, leftovers};

pub fn lives_from_create_to_torn_down(subject: &dyn Subject) -> Finding {
    let sandbox = created(&subject.speaker());
    assert_eq!(sandbox.state(), State::Created);
    assert_eq!(sandbox.console().read_from(0).end(), 0, "something ran before start");
    sandbox.start().unwrap();
    let exit = sandbox.wait(Some(subject.patience())).unwrap();
    assert_eq!(exit, subject.well());
    assert_eq!(sandbox.state(), State::Stopped);
    sandbox.teardown().wait(subject.patience()).unwrap();
    assert_eq!(sandbox.state(), State::TornDown);
    assert_eq!(sandbox.wait(None).unwrap(), exit, "the exit status outlives teardown");
    Finding::Kept
}

pub fn refuses_verbs_in_the_wrong_state(subject: &dyn Subject) -> Finding {
    let wrong = |result: sandbox::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::WrongState);
    let sandbox = created(&subject.idler().spec);
    wrong(sandbox.pause());
    wrong(sandbox.resume());
    wrong(sandbox.wait_ready(Duration::ZERO));
    wrong(sandbox.console_write(b"x").map(drop));
    assert_eq!(sandbox.state(), State::Created);
    sandbox.start().unwrap();
    wrong(sandbox.start());
    wrong(sandbox.resume());
    assert_eq!(sandbox.state(), State::Running);
    sandbox.stop(Duration::ZERO).unwrap();
    wrong(sandbox.start());
    wrong(sandbox.pause());
    wrong(sandbox.resume());
    sandbox.teardown().wait(subject.patience()).unwrap();
    wrong(sandbox.start());
    wrong(sandbox.stop(Duration::ZERO).map(drop));
    wrong(sandbox.stats().map(drop));
    Finding::Kept
}

pub fn tears_down_from_every_state(subject: &dyn Subject) -> Finding {
    let made = created(&subject.idler().spec);
    let running = subject.idler().start(subject);
    let stopped = subject.idler().start(subject);
    stopped.stop(Duration::ZERO).unwrap();
    let ended = created(&subject.speaker());
    ended.start().unwrap();
    ended.wait(Some(subject.patience())).unwrap();
    for (sandbox, expected) in [
        (made, Exit::Killed),
        (running, Exit::Killed),
        (stopped, Exit::Killed),
        (ended, subject.well()),
    ] {
        let before = sandbox.state();
        sandbox.teardown().wait(subject.patience()).unwrap();
        sandbox.teardown().wait(subject.patience()).unwrap();
        assert_eq!(sandbox.state(), State::TornDown, "from {before}");
        assert_eq!(
            sandbox.wait(Some(subject.patience())).unwrap(),
            expected,
            "from {before}"
        );
    }
    Finding::Kept
}

pub fn leaves_nothing_behind(subject: &dyn Subject) -> Finding {
    // A name of its own, by which what is left would be found.
    let mut spec = subject.idler().spec;
    spec.id = Some(format!("conformance-{}-{:p}", std::process::id(), &raw const spec));
    let sandbox = created(&spec);
    sandbox.start().unwrap();
    let name = sandbox.id().to_owned();
    sandbox.teardown().wait(subject.patience()).unwrap();
    assert_eq!(leftovers(&name), Vec::<String>::new());
    // A failure half-way leaves as little.
    drop(sandbox);
    spec.limits.deadline_ms = Some(0);
    crate::support::runtime().create(&spec).unwrap_err();
    assert_eq!(leftovers(&name), Vec::<String>::new());
    Finding::Kept
}

pub fn keeps_a_timeline(subject: &dyn Subject) -> Finding {
    let sandbox = created(&subject.speaker());
    sandbox.start().unwrap();
    sandbox.wait(Some(subject.patience())).unwrap();
    sandbox.teardown().wait(subject.patience()).unwrap();
    let timeline = sandbox.timeline();
    for (earlier, later) in [
        (Phase::Called, Phase::SpecChecked),
        (Phase::SpecChecked, Phase::VmCreated),
        (Phase::VmCreated, Phase::Created),
        (Phase::Created, Phase::StartCalled),
        (Phase::StartCalled, Phase::FirstEntry),
        (Phase::FirstEntry, Phase::Ended),
        (Phase::Ended, Phase::ExitPublished),
        (Phase::TeardownCalled, Phase::TornDown),
    ] {
        let between = timeline.between(earlier, later);
        assert!(between.is_some(), "{earlier:?} before {later:?}: {timeline:?}");
    }
    Finding::Kept
}
