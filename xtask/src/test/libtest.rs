//! What the output of Rust's test harness says.

use std::collections::BTreeSet;

/// A test that did not run, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Skip {
    pub(super) test: String,
    pub(super) reason: String,
}

/// The outcome of one run of a test program, or of several after another.
#[derive(Default, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Number of tests that passed.
    pub(super) passed: usize,
    /// Number of tests that failed.
    pub(super) failed: usize,
    /// Names of those that passed, as far as their lines were whole: a test
    /// may write into the harness's output.
    pub(super) passed_names: BTreeSet<String>,
    /// Names of those that failed.
    pub(super) failed_names: BTreeSet<String>,
    /// Tests marked `#[ignore]`.
    pub(super) ignored: Vec<Skip>,
    /// How many harnesses came to their end and said their result.
    pub(super) results: usize,
}

/// Reads the output of one or more harnesses.
pub(super) fn parse(output: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in output.lines() {
        if let Some(result) = line.strip_prefix("test result: ") {
            outcome.passed += count(result, "passed");
            outcome.failed += count(result, "failed");
            outcome.results += 1;
        } else if let Some(test) = line.strip_prefix("test ") {
            outcome.add_test(test);
        }
    }
    outcome
}

impl Outcome {
    fn add_test(&mut self, line: &str) {
        let Some((test, verdict)) = line.rsplit_once(" ... ") else {
            return;
        };
        // `#[should_panic]` tests have that note behind their name.
        let test = test.trim_end_matches(" - should panic").to_owned();
        match verdict {
            "ok" => {
                self.passed_names.insert(test);
            }
            "FAILED" => {
                self.failed_names.insert(test);
            }
            _ => {
                if let Some(reason) = verdict.strip_prefix("ignored") {
                    let reason = reason.trim_start_matches(", ");
                    self.ignored.push(Skip {
                        test,
                        reason: format!("marked as ignored: {reason}"),
                    });
                }
            }
        }
    }
}

/// The number before a word in `ok. 3 passed; 0 failed; …`.
fn count(result: &str, word: &str) -> usize {
    result
        .split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(word))
        .find_map(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 4 tests
test a::works ... ok
test a::panics - should panic ... ok
test a::later ... ignored, needs a moon
test a::broken ... FAILED

failures:

---- a::broken stdout ----
thread 'a::broken' panicked at src/a.rs:1:1:
test result of something else

failures:
    a::broken

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn names_and_counts_are_read() {
        let outcome = parse(OUTPUT);
        assert_eq!((outcome.passed, outcome.failed, outcome.results), (2, 1, 1));
        let names: Vec<&str> = outcome.passed_names.iter().map(String::as_str).collect();
        assert_eq!(names, ["a::panics", "a::works"]);
        assert!(outcome.failed_names.contains("a::broken"));
        assert_eq!(
            outcome.ignored,
            [Skip {
                test: "a::later".to_owned(),
                reason: "marked as ignored: needs a moon".to_owned()
            }]
        );
    }

    #[test]
    fn several_results_add_up() {
        let outcome = parse(&OUTPUT.repeat(3));
        assert_eq!((outcome.passed, outcome.failed, outcome.results), (6, 3, 3));
    }

    #[test]
    fn a_harness_that_died_has_no_result() {
        let outcome = parse("running 2 tests\ntest a ... ok\n");
        assert_eq!((outcome.passed, outcome.results), (0, 0));
    }
}
