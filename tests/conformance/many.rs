//! Many at once.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::Finding;
use crate::subject::Subject;
use crate::support::{created, leftovers};

pub fn starts_many_at_once(subject: &dyn Subject) -> Finding {
    static CROWDS: AtomicU32 = AtomicU32::new(0);
    let crowd = format!(
        "crowd-{}-{}-",
        std::process::id(),
        CROWDS.fetch_add(1, Ordering::Relaxed)
    );
    std::thread::scope(|scope| {
        for number in 0..subject.crowd() {
            let mut spec = subject.speaker();
            spec.id = Some(format!("{crowd}{number}"));
            scope.spawn(move || {
                let sandbox = created(&spec);
                sandbox.start().unwrap();
                let patience = 10 * subject.patience();
                assert_eq!(sandbox.wait(Some(patience)).unwrap(), subject.well());
                sandbox.teardown().wait(patience).unwrap();
            });
        }
    });
    assert_eq!(leftovers(&crowd), Vec::<String>::new());
    Finding::Kept
}
