//! Reading a timeline: which phase took how long, and whose time it was.

use std::fmt::Write;

use sandbox::{Phase, Timeline};

/// Whose time a step was. What the host's kernel did for one of them is counted with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// The SDK set something up or took it apart.
    Sdk,
    /// The guest's processors ran; the exits that the SDK served meanwhile are among it.
    Guest,
    /// It was this program's turn: between two calls, or while it fetched the page.
    Program,
    /// The host's kernel gave memory, descriptors and interface back, which takes it its time. A caller of `teardown`
    /// does not wait for it unless it asks to.
    Background,
}

impl Share {
    /// All of them.
    pub const ALL: [Share; 4] = [Share::Sdk, Share::Guest, Share::Program, Share::Background];

    /// How reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Share::Sdk => "sdk",
            Share::Guest => "guest",
            Share::Program => "program",
            Share::Background => "background",
        }
    }
}

/// From one phase to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The phase that was reached.
    pub phase: Phase,
    /// When, in nanoseconds since the sandbox was asked for.
    pub at: u64,
    /// How long that took from the phase before, in nanoseconds.
    pub took: u64,
    /// Whose time it was.
    pub share: Share,
}

/// The steps of a life, in the order of time.
pub fn steps(timeline: &Timeline) -> Vec<Step> {
    let mut before = 0;
    let mut teardown = false;
    let mut steps = Vec::new();
    for entry in timeline.entries() {
        steps.push(Step {
            phase: entry.phase,
            at: entry.real,
            took: entry.real - before,
            share: share(entry.phase, teardown),
        });
        before = entry.real;
        teardown |= entry.phase == Phase::TeardownCalled;
    }
    steps
}

/// Whose time led up to `phase`. Once teardown was called, what happens to the guest is the SDK's doing.
fn share(phase: Phase, teardown: bool) -> Share {
    match phase {
        Phase::TornDown => Share::Background,
        _ if teardown => Share::Sdk,
        Phase::StartCalled | Phase::TeardownCalled => Share::Program,
        Phase::FirstExit | Phase::Ready | Phase::Ended => Share::Guest,
        _ => Share::Sdk,
    }
}

/// All the time of one share, in nanoseconds.
pub fn total(steps: &[Step], share: Share) -> u64 {
    steps
        .iter()
        .filter(|step| step.share == share)
        .map(|step| step.took)
        .sum()
}

/// The steps as a table for people, in microseconds.
pub fn table(steps: &[Step]) -> String {
    let mut table = format!("  {:<18}{:>12}{:>12}  whose\n", "phase", "at µs", "took µs");
    for step in steps {
        let (phase, share) = (step.phase.name(), step.share.name());
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "  {phase:<18}{:>12}{:>12}  {share}",
            microseconds(step.at),
            microseconds(step.took)
        );
    }
    let totals = Share::ALL.map(|share| format!("{} {} µs", share.name(), microseconds(total(steps, share))));
    let _ = writeln!(table, "  in all: {}", totals.join(", "));
    table
}

fn microseconds(nanoseconds: u64) -> String {
    format!("{}.{}", nanoseconds / 1000, nanoseconds % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::timeline::Recorder;

    fn recorded(phases: &[Phase]) -> Vec<Step> {
        let recorder = Recorder::start(None);
        phases.iter().for_each(|phase| recorder.record(*phase));
        steps(&recorder.timeline())
    }

    #[test]
    fn every_step_is_somebodys_and_together_they_are_the_whole() {
        let steps = recorded(&[Phase::Created, Phase::StartCalled, Phase::FirstEntry, Phase::FirstExit]);
        let shares: Vec<Share> = steps.iter().map(|step| step.share).collect();
        let expected = [Share::Sdk, Share::Sdk, Share::Program, Share::Sdk, Share::Guest];
        assert_eq!(shares, expected);
        let sum: u64 = Share::ALL.iter().map(|share| total(&steps, *share)).sum();
        assert_eq!(sum, steps[4].at);
    }

    #[test]
    fn an_end_is_the_guests_unless_teardown_made_it() {
        let by_itself = recorded(&[Phase::Ended, Phase::ExitPublished, Phase::TeardownCalled]);
        assert_eq!(by_itself[1].share, Share::Guest);
        assert_eq!(by_itself[3].share, Share::Program);
        let torn_down = recorded(&[Phase::TeardownCalled, Phase::Ended, Phase::TornDown]);
        assert_eq!(torn_down[2].share, Share::Sdk);
        assert_eq!(torn_down[3].share, Share::Background);
    }

    #[test]
    fn the_table_has_a_line_for_each_phase() {
        let table = table(&recorded(&[Phase::SpecChecked, Phase::VmCreated]));
        assert_eq!(table.lines().count(), 5, "{table}");
        assert!(table.contains("vm_created"), "{table}");
        assert_eq!(microseconds(1_234_567), "1234.5");
    }
}
