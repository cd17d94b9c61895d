//! Attacks by what the processor does: each ends its own guest, by itself or when it is told, and is told apart.

use std::time::Duration;

use sandbox::{ErrorKind, Exit};

use super::neighbour::{end, ending, with_neighbour};
use super::support::{PATIENCE, started};

#[test]
fn a_triple_fault_is_its_own_guests_end() {
    with_neighbour(|neighbour| {
        let sandbox = started(&ending("triple-fault"));
        let exit = neighbour.during(|| sandbox.wait(Some(PATIENCE)).unwrap());
        assert!(matches!(exit, Exit::TripleFault(_)), "{exit}");
        end(&*sandbox);
    });
}

#[test]
fn guests_that_never_leave_the_processor_end_at_their_deadline() {
    with_neighbour(|neighbour| {
        for name in ["spin", "halt"] {
            let mut spec = ending(name);
            spec.limits.deadline_ms = Some(300);
            let sandbox = started(&spec);
            let exit = neighbour.during(|| sandbox.wait(Some(PATIENCE)).unwrap());
            assert_eq!(exit, Exit::Deadline, "{name}");
            end(&*sandbox);
        }
    });
}

#[test]
fn endless_console_output_is_bounded_and_can_be_stopped() {
    with_neighbour(|neighbour| {
        let mut spec = ending("flood");
        spec.limits.console_bytes = 4096;
        let sandbox = started(&spec);
        neighbour.during(|| {
            // More than is kept has come by then.
            sandbox.console().wait_from(4096, PATIENCE);
            let error = sandbox.wait(Some(Duration::from_millis(500))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout);
            assert_eq!(sandbox.stop(Duration::ZERO).unwrap(), Exit::Killed);
        });
        let kept = sandbox.console().read_from(0);
        assert!(
            kept.bytes.len() <= 4096 && kept.end() > 4096,
            "{} of {}",
            kept.bytes.len(),
            kept.end()
        );
        end(&*sandbox);
    });
}
