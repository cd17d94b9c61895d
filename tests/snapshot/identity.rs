//! Clones are told apart by what they draw, what they are called, what time they think it is and where they are reached.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use sandbox::snapshot::{Given, NetworkOverride};
use sandbox::spec::{ReadyCheck, TapSpec};
use sandbox::{ErrorKind, RestoreOptions, Restored, Sandbox};
use std::time::Duration;

use crate::checker::{self, Report};
use crate::support::network::{GUEST, get, in_namespace, network, with_guest_address};
use crate::support::{PATIENCE, bare, started};

const CLONES: u32 = 10;
/// How far a clone's clock may be off, in nanoseconds.
const CLOCK_TOLERANCE: u64 = 2_000_000_000;

fn forked(parent: &dyn Sandbox, options: &RestoreOptions) -> Vec<Restored> {
    match parent.as_fork().unwrap().fork(CLONES, options) {
        Ok(clones) => clones,
        Err(error) => panic!("{}", error.report()),
    }
}

fn running(keep_identity: bool) -> RestoreOptions {
    RestoreOptions {
        start: true,
        keep_identity,
        ..RestoreOptions::default()
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}

fn distinct(reports: &[Report], field: &str) -> usize {
    let values: HashSet<&str> = reports.iter().map(|report| report.text(field)).collect();
    values.len()
}

#[test]
fn clones_of_a_guest_that_uses_its_identity_are_all_different() {
    let parent = checker::running();
    let nonce = Report::of(&*parent).nonce().to_owned();
    let before = now();
    let clones = forked(&*parent, &running(false));
    let mut reports = Vec::new();
    for clone in &clones {
        let told = clone.uniqueness;
        assert_eq!((told.entropy, told.ids), (Given::Notified, Given::Notified));
        let renewed = clone.sandbox.as_renewed().unwrap();
        let confirmed = renewed.wait_confirmed(PATIENCE).unwrap();
        assert_eq!(
            (confirmed.entropy, confirmed.ids, confirmed.clock, confirmed.address),
            (
                Given::GuestConfirmed,
                Given::GuestConfirmed,
                Given::GuestConfirmed,
                Given::NotGiven
            )
        );
        assert_eq!(renewed.uniqueness(), confirmed);
        reports.push(Report::of(&*clone.sandbox));
    }
    let after = now();
    assert!(reports.iter().all(|report| report.nonce() == nonce), "a new start");
    for field in ["random", "id", "generation"] {
        assert_eq!(distinct(&reports, field), CLONES as usize, "{field}: {reports:?}");
    }
    for report in &reports {
        let clock = report.number("clock");
        assert!(
            (before - CLOCK_TOLERANCE..=after + CLOCK_TOLERANCE).contains(&clock),
            "{clock}"
        );
    }
    assert!(parent.as_renewed().is_none(), "the parent is no clone");
    assert_eq!(Report::of(&*parent).number("generation"), 0);
}

/// Without which the test above would prove nothing.
#[test]
fn clones_that_keep_the_identity_repeat_each_other() {
    let parent = checker::running();
    Report::of(&*parent);
    let clones = forked(&*parent, &running(true));
    let reports: Vec<Report> = clones.iter().map(|clone| Report::of(&*clone.sandbox)).collect();
    for field in ["nonce", "random", "id", "generation", "clock"] {
        assert_eq!(distinct(&reports, field), 1, "{field}: {reports:?}");
    }
    assert_eq!(reports[0].number("generation"), 0);
    assert_eq!(clones[0].uniqueness.entropy, Given::NotGiven);
    assert_eq!(clones[0].uniqueness.ids, Given::NotGiven);
}

#[test]
fn clones_of_clones_are_told_again() {
    let parent = checker::running();
    let first = forked(&*parent, &running(false)).remove(0).sandbox;
    first.as_renewed().unwrap().wait_confirmed(PATIENCE).unwrap();
    let before = Report::of(&*first);
    let second = forked(&*first, &running(false)).remove(0).sandbox;
    second.as_renewed().unwrap().wait_confirmed(PATIENCE).unwrap();
    let after = Report::of(&*second);
    assert_eq!(before.nonce(), after.nonce());
    assert_ne!(before.text("generation"), after.text("generation"));
    assert_ne!(before.text("id"), after.text("id"));
}

#[test]
fn a_guest_that_uses_no_identity_is_reported_so() {
    let mut spec = bare("endings", &["end=echo"]);
    spec.ready = Some(ReadyCheck::BootPort);
    let parent = started(&spec);
    parent.wait_ready(PATIENCE).unwrap();
    let clone = forked(&*parent, &running(false)).remove(0);
    assert_eq!(clone.uniqueness.entropy, Given::NotGiven);
    assert_eq!(clone.uniqueness.ids, Given::NotGiven);
    let renewed = clone.sandbox.as_renewed().unwrap();
    let error = renewed.wait_confirmed(Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    clone.sandbox.stop(Duration::ZERO).unwrap();
    let error = renewed.wait_confirmed(PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GuestEnded);
}

#[test]
fn a_web_server_answers_from_its_clones_addresses() {
    in_namespace(|| {
        let mut spec = bare("http-reply", &[]);
        spec.networks = vec![with_guest_address(network())];
        spec.ready = Some(ReadyCheck::BootPort);
        let parent = started(&spec);
        parent.wait_ready(PATIENCE).unwrap();
        assert_eq!(get(GUEST), "hello from http-reply\nrequest 1\n");
        let clones: Vec<Restored> = (1..4)
            .map(|number| {
                let network = NetworkOverride {
                    tap: Some(TapSpec::Create {
                        name: None,
                        host_address: Some(format!("10.0.{number}.1/24")),
                    }),
                    mac: Some(format!("02:00:00:00:00:0{number}")),
                    address: Some(format!("10.0.{number}.2/24")),
                };
                let mut options = running(false);
                options.overrides.networks = [("net".to_owned(), network)].into();
                let mut clones = parent.as_fork().unwrap().fork(1, &options).unwrap();
                clones.remove(0)
            })
            .collect();
        for (number, clone) in (1..).zip(&clones) {
            let confirmed = clone.sandbox.as_renewed().unwrap().wait_confirmed(PATIENCE).unwrap();
            assert_eq!(
                (confirmed.address, confirmed.entropy),
                (Given::GuestConfirmed, Given::GuestConfirmed)
            );
            let page = get(Ipv4Addr::new(10, 0, number, 2));
            assert_eq!(
                page, "hello from http-reply\nrequest 2\n",
                "it counts on from the parent's"
            );
        }
        assert_eq!(get(GUEST), "hello from http-reply\nrequest 2\n");
    });
}
