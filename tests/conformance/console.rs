//! What guests write and read.

use std::time::Duration;

use sandbox::{Capability, ErrorKind};

use crate::Finding;
use crate::subject::Subject;
use crate::support::{console_text, created};

pub fn shows_what_is_written(subject: &dyn Subject) -> Finding {
    let sandbox = created(&subject.speaker());
    sandbox.start().unwrap();
    sandbox.wait(Some(subject.patience())).unwrap();
    // Whoever knows of the end finds all of the output.
    let text = console_text(&*sandbox);
    assert!(text.contains(subject.word()), "{text:?}");
    let console = sandbox.console();
    let end = console.read_from(u64::MAX).end();
    assert!(console.wait_from(end, subject.patience()).closed);
    Finding::Kept
}

pub fn takes_input(subject: &dyn Subject) -> Finding {
    let (guest, question, answer) = subject.listener();
    let sandbox = guest.start(subject);
    if !sandbox.capabilities().contains(&Capability::ConsoleInput) {
        let error = sandbox.console_write(question.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        return Finding::Absent("no console input");
    }
    assert_eq!(sandbox.console_write(question.as_bytes()).unwrap(), question.len());
    let heard = sandbox.console().wait_for(answer.as_bytes(), 0, subject.patience());
    assert!(heard.is_some(), "{}", console_text(&*sandbox));
    sandbox.stop(Duration::ZERO).unwrap();
    Finding::Kept
}

pub fn keeps_a_bounded_log(subject: &dyn Subject) -> Finding {
    const KEPT: usize = 4096;
    let mut guest = subject.writer();
    guest.spec.limits.console_bytes = KEPT as u64;
    let sandbox = guest.start(subject);
    let console = sandbox.console();
    // More than is kept, twice.
    let chunk = console.wait_from(2 * KEPT as u64, subject.patience());
    assert!(chunk.end() > 2 * KEPT as u64);
    assert!(console.read_from(0).bytes.len() <= KEPT);
    sandbox.stop(Duration::ZERO).unwrap();
    Finding::Kept
}
