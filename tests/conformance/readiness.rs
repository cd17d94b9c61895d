//! When guests count as ready.

use std::time::Duration;

use sandbox::spec::ReadyCheck;
use sandbox::{ErrorKind, Phase};

use crate::Finding;
use crate::subject::Subject;
use crate::support::created;

pub fn is_ready_when_started(subject: &dyn Subject) -> Finding {
    let mut spec = subject.idler().spec;
    spec.ready = Some(ReadyCheck::Started);
    let sandbox = created(&spec);
    sandbox.start().unwrap();
    sandbox.wait_ready(subject.patience()).unwrap();
    sandbox.wait_ready(Duration::ZERO).unwrap();
    assert!(sandbox.timeline().at(Phase::Ready).is_some());
    Finding::Kept
}

pub fn is_ready_by_console(subject: &dyn Subject) -> Finding {
    let mut spec = subject.speaker();
    spec.ready = Some(ReadyCheck::Console {
        marker: subject.word().to_owned(),
    });
    let sandbox = created(&spec);
    sandbox.start().unwrap();
    sandbox.wait_ready(subject.patience()).unwrap();
    assert!(sandbox.timeline().at(Phase::Ready).is_some());
    Finding::Kept
}

pub fn tells_of_an_end_before(subject: &dyn Subject) -> Finding {
    let never = || {
        Some(ReadyCheck::Console {
            marker: "never said by anybody".to_owned(),
        })
    };
    let mut spec = subject.speaker();
    spec.ready = never();
    let sandbox = created(&spec);
    sandbox.start().unwrap();
    let error = sandbox.wait_ready(subject.patience()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GuestEnded);
    let mut spec = subject.idler().spec;
    spec.ready = never();
    let sandbox = created(&spec);
    sandbox.start().unwrap();
    let error = sandbox.wait_ready(Duration::from_millis(10)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    Finding::Kept
}
