//! Specs that no backend takes.

use sandbox::{ErrorKind, SandboxSpec};

use crate::Finding;
use crate::subject::Subject;
use crate::support::runtime;

pub fn refuses_wrong_specs_alike(subject: &dyn Subject) -> Finding {
    type Change = fn(&mut SandboxSpec);
    let cases: [(&str, Change); 6] = [
        ("id", |spec| spec.id = Some("no/name".to_owned())),
        ("vcpus", |spec| spec.vcpus = 0),
        ("memory", |spec| spec.memory = 4095),
        ("limits.pids", |spec| spec.limits.pids = Some(0)),
        ("limits.deadline_ms", |spec| spec.limits.deadline_ms = Some(0)),
        ("limits.console_bytes", |spec| spec.limits.console_bytes = 0),
    ];
    for (field, change) in cases {
        let mut spec = subject.speaker();
        change(&mut spec);
        let error = runtime().create(&spec).unwrap_err();
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::InvalidSpec, Some(field)),
            "{}",
            error.report()
        );
    }
    Finding::Kept
}
