//! Guests that are held still.

use std::time::Duration;

use sandbox::{Capability, ErrorKind, Exit, State};

use crate::Finding;
use crate::subject::Subject;

/// Output that was on its way when the guest was held has arrived by then.
const SETTLING: Duration = Duration::from_millis(100);

pub fn stands_still_while_paused(subject: &dyn Subject) -> Finding {
    let sandbox = subject.writer().start(subject);
    let console = sandbox.console();
    if !sandbox.capabilities().contains(&Capability::Pause) {
        assert_eq!(sandbox.pause().unwrap_err().kind(), ErrorKind::Unsupported);
        return Finding::Absent("no pause");
    }
    for _ in 0..3 {
        let before = console.read_from(u64::MAX).end();
        let running = console.wait_from(before, subject.patience());
        assert!(running.end() > before, "no output while running");
        sandbox.pause().unwrap();
        assert_eq!(sandbox.state(), State::Paused);
        assert_eq!(sandbox.pause().unwrap_err().kind(), ErrorKind::WrongState);
        let mut at = console.read_from(u64::MAX).end();
        // What the guest wrote before may still be on its way from a pipe; then nothing more comes.
        loop {
            let later = console.wait_from(at, SETTLING);
            if later.bytes.is_empty() {
                break;
            }
            assert!(later.end() - at <= 1 << 20, "output while paused");
            at = later.end();
        }
        sandbox.resume().unwrap();
    }
    sandbox.pause().unwrap();
    assert_eq!(
        sandbox.stop(Duration::from_secs(1)).unwrap(),
        Exit::Killed,
        "a paused guest can be stopped"
    );
    Finding::Kept
}
