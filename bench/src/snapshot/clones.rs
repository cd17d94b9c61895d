//! One clone from the call to its end, and bursts of them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandbox::pool::Pool;
use sandbox::{Backend, Phase, Restored, Runtime, Timeline};

use super::parent::{Parent, get};
use super::{Way, single};
use crate::clock::{self, Span};
use crate::cold_start::PATIENCE;
use crate::report::{Report, Unit};

/// Clones that are made by one call.
const BURST: u32 = 30;

/// What was measured of one clone, all from the call.
pub(super) struct Clone {
    first_entry: Span,
    /// The first time that the guest needs its host again; its first instruction lies between this and the entry.
    first_exit: Option<Span>,
    first_response: Option<Span>,
    /// Processor time up to the response without that of the guest's own processor, in nanoseconds.
    beside_guest: u64,
    /// From the teardown's call to everything given back.
    torn_down: Span,
}

impl Clone {
    pub(super) fn report(&self, case: &str, report: &mut Report) {
        report.add_span(case, "call_to_first_entry", self.first_entry);
        if let Some(span) = self.first_exit {
            report.add_span(case, "call_to_first_exit", span);
        }
        if let Some(span) = self.first_response {
            report.add_span(case, "call_to_first_response", span);
            let beside = self.beside_guest as f64 / 1000.0;
            report.add(case, "cpu_beside_guest_to_response", Unit::Microseconds, beside, None);
        }
        report.add_span(case, "teardown", self.torn_down);
    }
}

/// When something was called, on the clocks of a timeline.
pub(super) struct Call {
    at: Instant,
    span: Span,
}

impl Call {
    pub(super) fn now() -> Self {
        Self {
            at: Instant::now(),
            span: clock::now(),
        }
    }

    /// From the call to a phase of a clone's timeline, which begins a little later.
    pub(super) fn to(&self, timeline: &Timeline, phase: Phase) -> Option<Span> {
        let began = timeline.origin().saturating_duration_since(self.at);
        let real = began + Duration::from_nanos(timeline.at(phase)?);
        Some(Span {
            real: real.as_nanos() as u64,
            // It counts from the timeline's beginning; what the call did before was to read its arguments.
            cpu: timeline.cpu_at(phase)?,
        })
    }

    pub(super) fn till_now(&self) -> Span {
        clock::now().since(self.span)
    }
}

/// Makes one clone, has it answer, and gives it back.
pub(super) fn one(runtime: &Runtime, parent: &Parent, way: Way) -> Result<Clone> {
    let mut options = parent.options(&parent.tap);
    let call = Call::now();
    let clone = match way {
        Way::Fork => single(
            parent
                .sandbox
                .as_fork()
                .context("forks are missing")?
                .fork(1, &options)?,
        )?,
        Way::Restore(memory) => {
            options.memory = memory;
            runtime.kvm()?.restore(parent.folder(), &options)?
        }
    };
    get(parent.tap.guest())?;
    let first_response = call.till_now();
    let guest = clone.sandbox.stats()?.cpu.guest.unwrap_or_default();
    let timeline = clone.sandbox.timeline();
    let torn_down = tear_down(clone)?;
    Ok(Clone {
        first_entry: call.to(&timeline, Phase::FirstEntry).context("it never ran")?,
        first_exit: call.to(&timeline, Phase::FirstExit),
        first_response: Some(first_response),
        beside_guest: first_response.cpu.saturating_sub(guest),
        torn_down,
    })
}

/// The same with clones that were restored ahead of time, in VMs that were made ahead of time: what is left is to let
/// them run.
pub(super) fn pooled(runtime: &Runtime, parent: &Parent, rounds: usize, report: &mut Report) -> Result<()> {
    let case = "sdk/http-reply/in_process/pool";
    let mut options = parent.options(&parent.tap);
    options.start = false;
    let kvm = runtime.kvm()?;
    let folder = parent.folder().to_owned();
    for round in 0..=rounds {
        // A pool of one each time: two clones cannot stand at one tap.
        let (kvm, folder, options) = (kvm.clone(), folder.clone(), options.clone());
        let pool = Pool::new(1, move || kvm.restore(&folder, &options))?;
        ensure!(pool.wait_full(PATIENCE), "the pool stays empty: {:?}", pool.metrics());
        let call = Call::now();
        let clone = pool.take().context("the pool is empty")?;
        clone.sandbox.resume()?;
        get(parent.tap.guest())?;
        let first_response = call.till_now();
        let guest = clone.sandbox.stats()?.cpu.guest.unwrap_or_default();
        let timeline = clone.sandbox.timeline();
        let entry = timeline.origin() + Duration::from_nanos(timeline.at(Phase::FirstEntry).context("it never ran")?);
        let beside = first_response.cpu.saturating_sub(guest);
        if round > 0 {
            let real = entry.saturating_duration_since(call.at).as_nanos() as f64 / 1000.0;
            report.add(case, "call_to_first_entry", Unit::Microseconds, real, None);
            report.add_span(case, "call_to_first_response", first_response);
            report.add(
                case,
                "cpu_beside_guest_to_response",
                Unit::Microseconds,
                beside as f64 / 1000.0,
                None,
            );
        }
        drop(pool);
        tear_down(clone)?;
    }
    Ok(())
}

/// Gives a clone back and waits for it.
pub(super) fn tear_down(clone: Restored) -> Result<Span> {
    let before = clock::now();
    clone.sandbox.teardown().wait(PATIENCE)?;
    Ok(clock::now().since(before))
}

/// Many clones by one call, without a network: how long each takes of it, and how many come in a second.
pub(super) fn burst(parent: &Parent, report: &mut Report) -> Result<()> {
    let case = "sdk/http-reply/in_process/fork";
    let mut options = parent.options(&parent.tap);
    // Taps that the kernel names and makes: what each has of the network is its own.
    for network in options.overrides.networks.values_mut() {
        network.tap = Some(sandbox::spec::TapSpec::default());
    }
    let before = clock::now();
    let clones = parent
        .sandbox
        .as_fork()
        .context("forks are missing")?
        .fork(BURST, &options)?;
    let span = clock::now().since(before);
    let each = Span {
        real: span.real / u64::from(BURST),
        cpu: span.cpu / u64::from(BURST),
    };
    report.add_span(case, "per_clone", each);
    let per_second = f64::from(BURST) * 1e9 / span.real as f64;
    report.add(case, "clones_per_second", Unit::Count, per_second, None);
    for clone in clones {
        tear_down(clone)?;
    }
    Ok(())
}
