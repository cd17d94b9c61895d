//! All results together: what failed, what was skipped, and the one line.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::libtest::{Outcome, Skip};
use super::skips::Expected;
use crate::host_kind::HostKind;

/// One test program's run in one place.
pub(super) struct ProgramRun {
    pub(super) label: String,
    /// The kind of host that it ran on.
    pub(super) kind: HostKind,
    pub(super) outcome: Outcome,
    /// Tests that found out that they cannot run; the harness takes them for
    /// passed.
    pub(super) skips: Vec<Skip>,
    /// Tests of abilities that a backend does not have; these did run.
    pub(super) absent: Vec<Skip>,
    /// What went wrong beside failed tests.
    pub(super) problem: Option<String>,
    /// How long it ran, where that is known.
    pub(super) took: Option<Duration>,
    /// All that the program wrote.
    pub(super) output: String,
}

impl ProgramRun {
    /// Whether every test of it did what it promises.
    pub(super) fn is_good(&self) -> bool {
        self.outcome.failed == 0 && self.problem.is_none() && self.outcome.results > 0
    }

    fn ran(&self, test: &str) -> bool {
        let outcome = &self.outcome;
        (outcome.passed_names.contains(test) || outcome.failed_names.contains(test))
            && !self.skips.iter().any(|skip| skip.test == test)
    }
}

/// The sum of everything, with a line for each thing worth reading.
#[derive(Default, Debug)]
pub(super) struct Report {
    passed: usize,
    failures: Vec<String>,
    skips: Vec<String>,
    moved: Vec<String>,
    table: String,
}

impl Report {
    /// Adds a step that is not made of tests.
    pub(super) fn add_check(&mut self, name: &str, failure: Option<String>) {
        match failure {
            None => self.passed += 1,
            Some(failure) => self.failures.push(format!("{name}: {failure}")),
        }
    }

    /// Adds all runs of test programs, those in the emulated host included.
    ///
    /// A test that cannot run on this machine but ran in the emulated host is
    /// not skipped, only moved; its absence here must be expected all the same.
    pub(super) fn add_runs(&mut self, runs: &[ProgramRun], expected: &BTreeMap<&'static str, Expected>) {
        for run in runs {
            self.passed += run.outcome.passed.saturating_sub(run.skips.len());
            self.add_failures(run);
            for skip in run.skips.iter().chain(&run.outcome.ignored) {
                let elsewhere = runs
                    .iter()
                    .filter(|other| other.label == run.label && other.kind != run.kind)
                    .any(|other| other.ran(&skip.test));
                let allowed = expected
                    .get(run.kind.name())
                    .is_some_and(|expected| expected.allows(skip));
                self.add_skip(run, skip, allowed, elsewhere);
            }
        }
    }

    fn add_failures(&mut self, run: &ProgramRun) {
        let place = run.kind.name();
        let names = &run.outcome.failed_names;
        for test in names {
            self.failures.push(format!("{} ({place}): {test}", run.label));
        }
        // Names get lost when a test writes into the harness's output.
        for _ in names.len()..run.outcome.failed {
            self.failures
                .push(format!("{} ({place}): a test, see its output", run.label));
        }
        if let Some(problem) = &run.problem {
            self.failures.push(format!("{} ({place}) {problem}", run.label));
        } else if run.outcome.results == 0 {
            self.failures.push(format!("{} ({place}) gave no result", run.label));
        }
    }

    fn add_skip(&mut self, run: &ProgramRun, skip: &Skip, allowed: bool, elsewhere: bool) {
        let kind = run.kind.name();
        let line = format!("{} ({kind}): {}: {}", run.label, skip.test, skip.reason);
        if !allowed {
            self.failures.push(format!(
                "{line}: this skip is not expected; if it is right, list it in tests/skips/{kind}.txt"
            ));
        } else if elsewhere {
            self.moved.push(line);
        } else {
            self.skips.push(line);
        }
    }

    /// Adds a table to be shown before the lists.
    pub(super) fn add_table(&mut self, table: String) {
        self.table = table;
    }

    /// Whether nothing failed.
    pub(super) fn is_good(&self) -> bool {
        self.failures.is_empty()
    }

    /// The lists, and the one line at the end.
    pub(super) fn text(&self) -> String {
        let mut text = self.table.clone();
        for (title, lines) in [
            ("run in the emulated host instead of here", &self.moved),
            ("skipped", &self.skips),
            ("failed", &self.failures),
        ] {
            if !lines.is_empty() {
                let _ = writeln!(text, "{title}:");
            }
            for line in lines {
                let _ = writeln!(text, "   {line}");
            }
        }
        let _ = write!(
            text,
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failures.len(),
            self.skips.len()
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::libtest;

    const OUTPUT: &str = "test a ... ok\ntest b ... ok\ntest result: ok. 2 passed; 0 failed; 0 \
                          ignored; 0 measured; 0 filtered out; finished in 0.00s\n";

    fn run(kind: HostKind, skipped: &[&str]) -> ProgramRun {
        ProgramRun {
            label: "sandbox tests/boot".to_owned(),
            kind,
            outcome: libtest::parse(OUTPUT),
            skips: skipped
                .iter()
                .map(|test| Skip {
                    test: (*test).to_owned(),
                    reason: "needs KVM".to_owned(),
                })
                .collect(),
            absent: Vec::new(),
            problem: None,
            took: None,
            output: OUTPUT.to_owned(),
        }
    }

    fn expected(list: &str) -> BTreeMap<&'static str, Expected> {
        let kinds = [HostKind::Software, HostKind::Emulated];
        kinds.map(|kind| (kind.name(), Expected::parse(list).unwrap())).into()
    }

    fn last_line(runs: &[ProgramRun], list: &str) -> String {
        let mut report = Report::default();
        report.add_runs(runs, &expected(list));
        let text = report.text();
        text.lines().last().unwrap().to_owned()
    }

    #[test]
    fn an_expected_skip_is_not_passed() {
        let runs = [run(HostKind::Software, &["a"])];
        assert_eq!(last_line(&runs, "a: needs *"), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn an_unexpected_skip_fails() {
        let runs = [run(HostKind::Software, &["a"])];
        assert_eq!(last_line(&runs, "b: *"), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_test_that_ran_in_the_emulated_host_is_not_skipped() {
        let runs = [run(HostKind::Software, &["a"]), run(HostKind::Emulated, &["b"])];
        assert_eq!(last_line(&runs, "*: *"), "2 passed, 0 failed, 0 skipped");
        let runs = [run(HostKind::Software, &["a"]), run(HostKind::Emulated, &["a"])];
        assert_eq!(last_line(&runs, "*: *"), "2 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn a_program_without_result_fails() {
        let mut died = run(HostKind::Software, &[]);
        died.outcome = libtest::parse("running 2 tests\n");
        assert!(!died.is_good());
        assert_eq!(last_line(&[died], ""), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn checks_count_like_tests() {
        let mut report = Report::default();
        report.add_check("formatting", None);
        report.add_check("clippy", Some("ended with 101".to_owned()));
        assert!(!report.is_good());
        assert!(report.text().ends_with("1 passed, 1 failed, 0 skipped"));
    }
}
