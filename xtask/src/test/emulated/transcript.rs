//! What the script of tests says on its way, and how that is read.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::parts::Piece;
use crate::kvm_host::shell_word;
use crate::test::Plan;

/// Where the programs' skips are collected; what lies in `/out` comes back.
const SKIPS: &str = "/out/skips";
/// Begins the lines in which the script tells how far it is.
const MARK: &str = "::test-program ";

/// The shell script that runs the programs one after another.
pub(super) fn script(plan: &Plan, pieces: &[Piece<'_>]) -> Vec<u8> {
    let seconds = plan.program_limit.as_secs();
    let mut script = format!("mkdir -p {SKIPS}\n").into_bytes();
    for (number, piece) in pieces.iter().enumerate() {
        let directory = shell_word(piece.program.directory.as_os_str());
        script.extend(format!("echo '{MARK}{number} begins'\nmkdir -p ").bytes());
        script.extend([&directory[..], b"; cd ", &directory].concat());
        script.extend(format!("\nSANDBOX_SKIP_FILE={SKIPS}/{number} timeout -s KILL {seconds} ").bytes());
        script.extend(shell_word(piece.program.executable.as_os_str()));
        script.extend(b" --exact");
        for test in &piece.tests {
            script.push(b' ');
            script.extend(shell_word(test.as_ref()));
        }
        // The first echo ends a line that the program may have left open.
        script.extend(format!(" 2>&1\nstatus=$?; echo; echo '{MARK}{number}' ended $status\n").bytes());
    }
    script
}

/// What one program wrote, and its status if it came to its end.
#[derive(Default, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) output: String,
    pub(super) status: Option<u8>,
}

/// The programs' sections of a transcript, by their numbers.
pub(super) fn sections(transcript: &str) -> BTreeMap<usize, Section> {
    let mut sections: BTreeMap<usize, Section> = BTreeMap::new();
    let mut current = None;
    for line in transcript.lines() {
        match mark(line) {
            Some((number, status)) => {
                sections.entry(number).or_default().status = status;
                current = status.is_none().then_some(number);
            }
            None => {
                if let Some(section) = current.and_then(|number| sections.get_mut(&number)) {
                    section.output += line;
                    section.output.push('\n');
                }
            }
        }
    }
    sections
}

/// The number of the program that a line tells about, and its status if the
/// line tells of its end.
fn mark(line: &str) -> Option<(usize, Option<u8>)> {
    let (number, event) = line.strip_prefix(MARK)?.split_once(' ')?;
    let number = number.parse().ok()?;
    match event.strip_prefix("ended ") {
        Some(status) => Some((number, Some(status.parse().ok()?))),
        None => Some((number, None)),
    }
}

/// Collects the output and tells how long each program took.
#[derive(Clone)]
pub(super) struct Transcript {
    labels: Arc<[String]>,
    text: Arc<Mutex<Vec<u8>>>,
    line: Vec<u8>,
    begun: Instant,
}

impl Transcript {
    pub(super) fn new(pieces: &[Piece<'_>]) -> Self {
        Self {
            labels: pieces.iter().map(|piece| piece.program.label.clone()).collect(),
            text: Arc::default(),
            line: Vec::new(),
            begun: Instant::now(),
        }
    }

    /// All that was written.
    pub(super) fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let Some((number, status)) = mark(&String::from_utf8_lossy(&line)) else {
            return;
        };
        let label = self.labels.get(number).map_or("", String::as_str);
        match status {
            None => self.begun = Instant::now(),
            Some(_) => println!("   {label} took {:.1} s", self.begun.elapsed().as_secs_f64()),
        }
    }
}

impl Write for Transcript {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                byte => self.line.push(*byte),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::programs::Program;
    use std::path::PathBuf;
    use std::time::Duration;

    #[test]
    fn a_transcript_falls_into_the_programs_parts() {
        let transcript = "::test-program 0 begins\nrunning 1 test\n\n::test-program 0 ended 0\n\
                          noise\n::test-program 1 begins\nhalf a li";
        let sections = sections(transcript);
        assert_eq!(sections[&0].output, "running 1 test\n\n");
        assert_eq!(sections[&0].status, Some(0));
        assert_eq!(sections[&1].output, "half a li\n");
        assert_eq!(sections[&1].status, None);
    }

    #[test]
    fn every_word_of_the_script_is_quoted() {
        let program = Program {
            label: "sandbox tests/x".to_owned(),
            package: "sandbox".to_owned(),
            executable: PathBuf::from("/dir with space/x"),
            directory: PathBuf::from("/it's"),
            runs_guests: true,
        };
        let piece = Piece {
            program: &program,
            copy: PathBuf::from("/copy"),
            tests: vec!["a::b".to_owned(), "c".to_owned()],
        };
        let plan = Plan {
            filter: None,
            environment: Vec::new(),
            carried: Vec::new(),
            functions: None,
            program_limit: Duration::from_secs(5),
            emulated_limit: Duration::from_secs(50),
        };
        let script = String::from_utf8(script(&plan, &[piece])).unwrap();
        assert!(script.contains("cd '/it'\\''s'"), "{script}");
        assert!(script.contains("timeout -s KILL 5 '/dir with space/x' --exact 'a::b' 'c' 2>&1"));
    }
}
