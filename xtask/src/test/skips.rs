//! Tests that cannot run on a kind of host, and the lists of those that may.
//!
//! A test that finds out at run time that it cannot run appends a line
//! `test name<TAB>reason` to the file that `SANDBOX_SKIP_FILE` names and
//! returns. Each skip must match a line of `tests/skips/<kind>.txt`:
//! `test name: reason`, where `*` stands for anything. So no test can cease to
//! run without anybody noticing.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::libtest::Skip;
use crate::host_kind::HostKind;

/// Begins the reason of a test that found out that there is nothing to test:
/// the backend does not claim the ability, and was seen to refuse it.
const ABSENT: &str = "absent: ";

/// Skips, parted into those of tests that could not run here and those of
/// abilities that a backend does not have anywhere.
pub(super) fn part(skips: Vec<Skip>) -> (Vec<Skip>, Vec<Skip>) {
    skips.into_iter().partition(|skip| !skip.reason.starts_with(ABSENT))
}

/// The environment variable that names the file of skips.
pub(super) const VARIABLE: &str = "SANDBOX_SKIP_FILE";

/// The skips that tests reported in `file`; without the file there are none.
pub(super) fn reported(file: &Path) -> Result<Vec<Skip>> {
    match fs::read_to_string(file) {
        Ok(text) => parse_reported(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read the skips in {}", file.display())),
    }
}

fn parse_reported(text: &str) -> Result<Vec<Skip>> {
    let mut skips = Vec::new();
    for line in text.lines() {
        let (test, reason) = line
            .split_once('\t')
            .with_context(|| format!("a test reported a skip without a reason: {line}"))?;
        skips.push(Skip {
            test: test.to_owned(),
            reason: reason.to_owned(),
        });
    }
    skips.sort();
    // A test that reports twice is still one test.
    skips.dedup_by(|a, b| a.test == b.test);
    Ok(skips)
}

/// The skips that are expected on one kind of host.
pub(super) struct Expected(Vec<Skip>);

impl Expected {
    /// Reads the checked-in list of a kind of host.
    pub(super) fn load(root: &Path, kind: HostKind) -> Result<Self> {
        let file = root.join("tests/skips").join(kind.name()).with_extension("txt");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not a list of skips", file.display()))
    }

    /// Reads the text of a list.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut entries = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(": ") {
                Some((test, reason)) => entries.push(Skip {
                    test: test.to_owned(),
                    reason: reason.trim().to_owned(),
                }),
                None => bail!("the line has no `: ` between test and reason: {line}"),
            }
        }
        Ok(Self(entries))
    }

    /// Whether the list allows this skip.
    pub(super) fn allows(&self, skip: &Skip) -> bool {
        self.0
            .iter()
            .any(|entry| matches(&entry.test, &skip.test) && matches(&entry.reason, &skip.reason))
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, rest)) => text.strip_prefix(before).is_some_and(|text| {
            text.char_indices()
                .map(|(start, _)| start)
                .chain([text.len()])
                .any(|start| matches(rest, &text[start..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(test: &str, reason: &str) -> Skip {
        Skip {
            test: test.to_owned(),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("a*", "a"),
            ("a*c", "abc"),
            ("*b*", "abc"),
            ("a*b*c", "aXbYbZc"),
            ("ü*", "üß"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a", "ab"), ("a*c", "ab"), ("*b", "abc")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn only_listed_skips_with_their_reason_are_allowed() {
        let list = "# no KVM\n\nboot::linux: needs *KVM*\nnet::*: needs root\n";
        let expected = Expected::parse(list).unwrap();
        assert!(expected.allows(&skip("boot::linux", "needs a hardware KVM here")));
        assert!(expected.allows(&skip("net::tap::made", "needs root")));
        assert!(!expected.allows(&skip("boot::linux", "disk full")));
        assert!(!expected.allows(&skip("boot::linux_smp", "needs KVM")));
        assert!(Expected::parse("no separator").is_err());
    }

    #[test]
    fn reports_are_read_and_counted_once() {
        let text = "b\tsecond\na\tfirst\nb\tsecond\n";
        let skips = parse_reported(text).unwrap();
        assert_eq!(skips, [skip("a", "first"), skip("b", "second")]);
        assert!(parse_reported("no tab\n").is_err());
    }
}
