//! Dividing tests among several emulated hosts, which run at the same time.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process;
use crate::test::Plan;
use crate::test::programs::Program;

/// Tests of one program that one host runs.
#[derive(Clone)]
pub(super) struct Piece<'a> {
    pub(super) program: &'a Program,
    /// The copy of the program that goes into the host.
    pub(super) copy: PathBuf,
    pub(super) tests: Vec<String>,
}

/// The names of a program's tests that the plan's filter lets through.
pub(super) fn tests_of(plan: &Plan, program: &Program) -> Result<Vec<String>> {
    let mut command = std::process::Command::new(&program.executable);
    command.arg("--list").args(&plan.filter).current_dir(&program.directory);
    let list = process::output(&mut command).with_context(|| format!("cannot list the tests of {}", program.label))?;
    Ok(parse_list(&String::from_utf8_lossy(&list)))
}

fn parse_list(list: &str) -> Vec<String> {
    list.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect()
}

/// Deals the tests out one by one, so that those of the same subject, which
/// take about the same time, are spread over all hosts.
pub(super) fn divide<'a>(programs: &[Piece<'a>], hosts: usize) -> Vec<Vec<Piece<'a>>> {
    let mut parts: Vec<Vec<Piece<'a>>> = vec![Vec::new(); hosts];
    let mut next = 0;
    for whole in programs {
        for (offset, part) in parts.iter_mut().enumerate() {
            let first = (offset + hosts - next) % hosts;
            let tests: Vec<String> = whole.tests.iter().skip(first).step_by(hosts).cloned().collect();
            if !tests.is_empty() {
                part.push(Piece { tests, ..whole.clone() });
            }
        }
        next = (next + whole.tests.len()) % hosts;
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_a_list() {
        let list = "a::b: test\nc: test\nd: benchmark\n\n2 tests, 1 benchmark\n";
        assert_eq!(parse_list(list), ["a::b", "c"]);
    }

    #[test]
    fn every_test_is_dealt_out_once_and_evenly() {
        let program = Program {
            label: "sandbox tests/x".to_owned(),
            package: "sandbox".to_owned(),
            executable: PathBuf::from("/x"),
            directory: PathBuf::from("/"),
            runs_guests: true,
        };
        let piece = |tests: &[&str]| Piece {
            program: &program,
            copy: PathBuf::from("/copy"),
            tests: tests.iter().map(|test| (*test).to_owned()).collect(),
        };
        let programs = [piece(&["a", "b", "c"]), piece(&["d"]), piece(&[]), piece(&["e", "f"])];
        let parts = divide(&programs, 2);
        let dealt = |part: &[Piece<'_>]| -> Vec<String> { part.iter().flat_map(|piece| piece.tests.clone()).collect() };
        assert_eq!(dealt(&parts[0]), ["a", "c", "e"]);
        assert_eq!(dealt(&parts[1]), ["b", "d", "f"]);
        assert_eq!(divide(&[piece(&["alone"])], 2).len(), 1);
    }
}
