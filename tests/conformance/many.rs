//! Many at once.

use crate::Finding;
use crate::subject::Subject;
use crate::support::created;

pub fn starts_many_at_once(subject: &dyn Subject) -> Finding {
    let spec = subject.speaker();
    std::thread::scope(|scope| {
        for _ in 0..subject.crowd() {
            scope.spawn(|| {
                let sandbox = created(&spec);
                sandbox.start().unwrap();
                let patience = 10 * subject.patience();
                assert_eq!(sandbox.wait(Some(patience)).unwrap(), subject.well());
                sandbox.teardown().wait(patience).unwrap();
            });
        }
    });
    Finding::Kept
}
