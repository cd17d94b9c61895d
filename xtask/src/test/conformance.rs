//! The table of which backend keeps which behaviour, from the results of the
//! conformance suite, whose tests are called `backend::behaviour`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::report::ProgramRun;

/// The end of the suite's label.
const SUITE: &str = "tests/conformance";

/// What is known of a behaviour of a backend; the worst that any run found
/// counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Skipped,
    Absent,
    Kept,
    Broken,
}

impl Mark {
    fn text(self) -> &'static str {
        match self {
            Mark::Skipped => "?",
            Mark::Absent => "-",
            Mark::Kept => "yes",
            Mark::Broken => "NO",
        }
    }
}

/// The table, empty if the suite did not run.
pub(super) fn table(runs: &[ProgramRun]) -> String {
    let mut marks: BTreeMap<String, BTreeMap<String, Mark>> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.label.ends_with(SUITE)) {
        let is_among = |list: &[super::libtest::Skip], test: &str| list.iter().any(|skip| skip.test == test);
        let failed = run.outcome.failed_names.iter().map(|test| (test, Mark::Broken));
        let passed = run.outcome.passed_names.iter().map(|test| {
            let mark = match () {
                () if is_among(&run.absent, test) => Mark::Absent,
                () if is_among(&run.skips, test) => Mark::Skipped,
                () => Mark::Kept,
            };
            (test, mark)
        });
        for (test, mark) in failed.chain(passed) {
            if let Some((backend, behaviour)) = test.split_once("::") {
                let behaviours = marks.entry(behaviour.to_owned()).or_default();
                let known = behaviours.entry(backend.to_owned()).or_insert(mark);
                *known = mark.max(*known);
            }
        }
    }
    written(&marks)
}

fn written(marks: &BTreeMap<String, BTreeMap<String, Mark>>) -> String {
    let mut backends: Vec<&str> = marks.values().flat_map(|row| row.keys().map(String::as_str)).collect();
    backends.sort_unstable();
    backends.dedup();
    if backends.is_empty() {
        return String::new();
    }
    let wide = marks.keys().map(String::len).max().unwrap_or(0);
    let mut text = String::from("conformance (- is an ability that the backend does not claim, ? could not run):\n");
    let _ = write!(text, "   {:wide$}", "");
    for backend in &backends {
        let _ = write!(text, "  {backend:>9}");
    }
    text.push('\n');
    for (behaviour, row) in marks {
        let _ = write!(text, "   {:wide$}", behaviour.replace('_', " "));
        for backend in &backends {
            let mark = row.get(*backend).map_or("?", |mark| mark.text());
            let _ = write!(text, "  {mark:>9}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_kind::HostKind;
    use crate::test::libtest::{self, Skip};

    fn run(output: &str, skips: &[(&str, &str)]) -> ProgramRun {
        let skips = skips.iter().map(|(test, reason)| Skip {
            test: (*test).to_owned(),
            reason: (*reason).to_owned(),
        });
        let (skips, absent) = super::super::skips::part(skips.collect());
        ProgramRun {
            label: "sandbox tests/conformance".to_owned(),
            kind: HostKind::Software,
            outcome: libtest::parse(output),
            skips,
            absent,
            problem: None,
            took: None,
            output: String::new(),
        }
    }

    #[test]
    fn every_backend_has_a_column_and_the_best_and_worst_of_all_runs_counts() {
        let here = run(
            "test kvm::holds ... ok\ntest runc::holds ... ok\ntest kvm::forks ... ok\n",
            &[("kvm::forks", "absent: no forks"), ("runc::holds", "not here")],
        );
        let there = run("test runc::holds ... ok\ntest kvm::holds ... FAILED\n", &[]);
        let table = table(&[here, there]);
        let lines: Vec<Vec<&str>> = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines,
            [vec!["kvm", "runc"], vec!["forks", "-", "?"], vec!["holds", "NO", "yes"]]
        );
    }

    #[test]
    fn without_the_suite_there_is_no_table() {
        assert_eq!(table(&[]), "");
    }
}
