//! How guests end, and who hears of it.

use std::sync::Arc;
use std::time::Duration;

use sandbox::{ErrorKind, Exit, Sandbox, State};

use crate::Finding;
use crate::subject::Subject;
use crate::support::{console_text, created};

pub fn tells_every_end_apart(subject: &dyn Subject) -> Finding {
    for (spec, expected) in subject.ends() {
        let sandbox = created(&spec);
        sandbox.start().unwrap();
        let exit = sandbox.wait(Some(subject.patience())).unwrap();
        assert_eq!(exit, expected, "{:?}: {}", spec.guest, console_text(&*sandbox));
    }
    Finding::Kept
}

pub fn tells_everybody_who_waits(subject: &dyn Subject) -> Finding {
    let sandbox: Arc<dyn Sandbox> = created(&subject.speaker()).into();
    let patience = subject.patience();
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let sandbox = Arc::clone(&sandbox);
            std::thread::spawn(move || sandbox.wait(Some(patience)).unwrap())
        })
        .collect();
    sandbox.start().unwrap();
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), subject.well());
    }
    assert_eq!(sandbox.wait(Some(Duration::ZERO)).unwrap(), subject.well());
    Finding::Kept
}

pub fn stops_what_does_not_end(subject: &dyn Subject) -> Finding {
    for guest in [subject.idler(), subject.runner()] {
        let sandbox = guest.start(subject);
        let ended = sandbox.stop(Duration::from_millis(1)).unwrap();
        // Some runtimes' first process ends when it is asked to, if it is quick enough.
        assert!(matches!(ended, Exit::Killed | Exit::Signal(libc::SIGTERM)), "{ended}");
        assert_eq!(sandbox.state(), State::Stopped);
        let again = sandbox.stop(Duration::ZERO).unwrap();
        assert_eq!(again, ended, "a second stop tells the same");
    }
    let never_started = created(&subject.idler().spec);
    assert_eq!(never_started.stop(Duration::ZERO).unwrap(), Exit::Killed);
    Finding::Kept
}

pub fn times_out_on_waits(subject: &dyn Subject) -> Finding {
    let sandbox = subject.idler().start(subject);
    let error = sandbox.wait(Some(Duration::from_millis(5))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(sandbox.state(), State::Running);
    Finding::Kept
}
