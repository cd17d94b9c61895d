//! One list of behaviours, against the trait alone, for every backend that this host can offer.
//!
//! A test is called `backend::behaviour`. What a backend does not claim to be able to do is checked to be refused, and
//! told as absent; `cargo xtask test` ends with the table.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod console;
mod ending;
mod exec;
mod limits;
mod many;
mod pausing;
mod readiness;
mod refusals;
mod snapshots;
mod states;
mod subject;

use subject::Subject;

/// What a behaviour finds out.
enum Finding {
    /// It is as promised.
    Kept,
    /// The backend does not claim it, and says so.
    Absent(&'static str),
}

/// Runs one behaviour for one backend, if it is here.
fn check(subject: &dyn Subject, behaviour: fn(&dyn Subject) -> Finding) {
    if !subject.is_here() {
        return;
    }
    if let Finding::Absent(reason) = behaviour(subject) {
        support::skip(&format!("absent: {reason}"));
    }
}

macro_rules! conformance {
    ($($backend:ident: $subject:expr;)*) => {
        $(mod $backend {
            behaviours!($subject);
        })*
    };
}

macro_rules! behaviours {
    ($subject:expr) => {
        behaviours! { $subject =>
            states: lives_from_create_to_torn_down, refuses_verbs_in_the_wrong_state, tears_down_from_every_state,
                leaves_nothing_behind, keeps_a_timeline;
            ending: tells_every_end_apart, tells_everybody_who_waits, stops_what_does_not_end, times_out_on_waits;
            console: shows_what_is_written, takes_input, keeps_a_bounded_log;
            readiness: is_ready_when_started, is_ready_by_console, tells_of_an_end_before;
            limits: ends_at_the_deadline, bounds_memory, bounds_processor_time, bounds_processes, bounds_disk_reads,
                bounds_disk_writes, counts_what_is_used;
            pausing: stands_still_while_paused;
            exec: runs_further_commands;
            snapshots: goes_on_from_a_snapshot, goes_on_beside_its_snapshot;
            many: starts_many_at_once;
            refusals: refuses_wrong_specs_alike;
        }
    };
    ($subject:expr => $($module:ident: $($behaviour:ident),*;)*) => {
        $($(
            #[test]
            fn $behaviour() {
                crate::check(&$subject, crate::$module::$behaviour);
            }
        )*)*
    };
}

conformance! {
    own_guest: crate::subject::Own(sandbox::spec::Isolation::InProcess);
    own_guest_worker: crate::subject::Own(sandbox::spec::Isolation::Worker);
    linux: crate::subject::Linux;
    runc: crate::subject::Oci("runc");
    crun: crate::subject::Oci("crun");
    runsc: crate::subject::Oci("runsc");
}
