//! Running test programs in the emulated host, all in one start of it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

use super::programs::Program;
use super::report::ProgramRun;
use super::{Plan, libtest, skips};
use crate::host_kind::HostKind;
use crate::kvm_host::{self, Carried, Ending, HostRun, shell_word};
use crate::process;
use crate::scratch::Scratch;
use crate::workspace::Workspace;

/// Guests with more memory than most tests need are among them, and each is
/// held by the emulated host; memory that nobody touches costs nothing.
const MEMORY_MIB: u64 = 6144;
const CPUS: u32 = 2;
/// The script that runs one program after another, inside the host.
const SCRIPT: &str = "/etc/kvm-host/tests";
/// Where the programs' skips are collected; what lies in `/out` comes back.
const SKIPS: &str = "/out/skips";
/// Begins the lines in which the script tells how far it is.
const MARK: &str = "::test-program ";
/// What the harness exits with when tests failed.
const TESTS_FAILED: u8 = 101;
const KILLED: u8 = 128 + 9;

/// Runs the programs and gives one result for each.
pub(super) fn run(
    workspace: &Workspace,
    plan: &Plan,
    programs: &[&Program],
    helpers: &[PathBuf],
) -> Result<Vec<ProgramRun>> {
    let scratch = Scratch::below(&workspace.target().join("kvm-host"), "tests")?;
    let mut host = HostRun::new(vec!["/bin/sh".into(), SCRIPT.into()]);
    host.assets = true;
    host.cpus = CPUS;
    host.memory_mib = Some(MEMORY_MIB);
    host.timeout = plan.emulated_limit;
    host.environment = kvm_host::passed_on_variables();
    host.environment.extend(plan.environment.iter().cloned());
    host.out = Some(scratch.path().join("out"));
    host.carried.push(Carried::Text {
        destination: PathBuf::from(SCRIPT),
        content: script(plan, programs),
    });
    let files = programs.iter().map(|program| &program.executable);
    for (number, file) in files.chain(helpers).enumerate() {
        host.carried.push(Carried::Path {
            source: without_debug_information(file, &scratch.path().join(number.to_string()))?,
            destination: file.clone(),
        });
    }

    let transcript = Transcript::new(programs);
    let ending = kvm_host::run(workspace, &host, transcript.clone(), transcript.clone())?;
    let sections = sections(&transcript.text());
    let mut runs = Vec::new();
    for (number, program) in programs.iter().enumerate() {
        let skips = scratch.path().join("out/skips").join(number.to_string());
        let section = sections.get(&number);
        let output = section.map_or("", |section| &section.output);
        runs.push(ProgramRun {
            label: program.label.clone(),
            kind: HostKind::Emulated,
            outcome: libtest::parse(output),
            skips: skips::reported(&skips)?,
            problem: problem(section, &ending, plan),
            took: None,
            output: output.to_owned(),
        });
    }
    Ok(runs)
}

/// The shell script that runs the programs one after another.
fn script(plan: &Plan, programs: &[&Program]) -> Vec<u8> {
    let seconds = plan.program_limit.as_secs();
    let mut script = format!("mkdir -p {SKIPS}\n").into_bytes();
    for (number, program) in programs.iter().enumerate() {
        let directory = shell_word(program.directory.as_os_str());
        let executable = shell_word(program.executable.as_os_str());
        let filter = plan.filter.as_deref().map(shell_word).unwrap_or_default();
        script.extend(format!("echo '{MARK}{number} begins'\nmkdir -p ").bytes());
        script.extend([&directory[..], b"; cd ", &directory].concat());
        script.extend(format!("\nSANDBOX_SKIP_FILE={SKIPS}/{number} timeout -s KILL {seconds} ").bytes());
        script.extend([&executable[..], b" ", &filter].concat());
        // The first echo ends a line that the program may have left open.
        script.extend(format!(" 2>&1\nstatus=$?; echo; echo '{MARK}{number}' ended $status\n").bytes());
    }
    script
}

/// A copy of a program that is small enough to be unpacked at every start.
fn without_debug_information(program: &Path, copy: &Path) -> Result<PathBuf> {
    process::run(process::tool("objcopy").arg("--strip-debug").arg(program).arg(copy))
        .with_context(|| format!("cannot strip {}", program.display()))?;
    Ok(copy.to_path_buf())
}

/// What one program wrote, and its status if it came to its end.
#[derive(Default, Debug, PartialEq, Eq)]
struct Section {
    output: String,
    status: Option<u8>,
}

fn sections(transcript: &str) -> BTreeMap<usize, Section> {
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

/// Why a program's outcome is not the whole truth, if so.
fn problem(section: Option<&Section>, ending: &Ending, plan: &Plan) -> Option<String> {
    match section.and_then(|section| section.status) {
        Some(0 | TESTS_FAILED) => return None,
        Some(KILLED) => {
            return Some(format!(
                "was killed, by itself or after {} s",
                plan.program_limit.as_secs()
            ));
        }
        Some(status) => return Some(format!("ended with status {status}")),
        None => {}
    }
    let begun = match section {
        Some(_) => "did not come to its end",
        None => "did not begin",
    };
    let why = match ending {
        Ending::Exited(status) => format!("the script of tests ended with status {status}"),
        Ending::TimedOut(last_words) => format!(
            "all programs together took longer than {} s; the host said last:\n{last_words}",
            plan.emulated_limit.as_secs()
        ),
        Ending::Died(last_words) => format!("the emulated host died:\n{last_words}"),
    };
    Some(format!("{begun}: {why}"))
}

/// Collects the output and tells how long each program took.
#[derive(Clone)]
struct Transcript {
    labels: Arc<[String]>,
    text: Arc<Mutex<Vec<u8>>>,
    line: Vec<u8>,
    begun: Instant,
}

impl Transcript {
    fn new(programs: &[&Program]) -> Self {
        Self {
            labels: programs.iter().map(|program| program.label.clone()).collect(),
            text: Arc::default(),
            line: Vec::new(),
            begun: Instant::now(),
        }
    }

    fn text(&self) -> String {
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
    use std::time::Duration;

    fn plan() -> Plan {
        Plan {
            filter: None,
            environment: Vec::new(),
            program_limit: Duration::from_secs(5),
            emulated_limit: Duration::from_secs(50),
        }
    }

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
    fn every_way_of_not_ending_well_is_told() {
        let ended = |status| Section {
            status,
            ..Section::default()
        };
        let told = |section: Option<&Section>, ending| problem(section, &ending, &plan());
        assert_eq!(told(Some(&ended(Some(0))), Ending::Exited(0)), None);
        assert_eq!(told(Some(&ended(Some(101))), Ending::Exited(0)), None);
        for (section, ending, words) in [
            (Some(ended(Some(137))), Ending::Exited(0), "5 s"),
            (Some(ended(Some(134))), Ending::Exited(0), "134"),
            (Some(ended(None)), Ending::TimedOut(String::new()), "50 s"),
            (None, Ending::Died("panic".to_owned()), "panic"),
        ] {
            let told = told(section.as_ref(), ending).unwrap();
            assert!(told.contains(words), "{told}");
        }
    }

    #[test]
    fn a_shell_runs_the_script_as_meant() {
        let program = Program {
            label: "sandbox tests/x".to_owned(),
            package: "sandbox".to_owned(),
            executable: PathBuf::from("/dir with space/x"),
            directory: PathBuf::from("/it's"),
            runs_guests: true,
        };
        let script = String::from_utf8(script(&plan(), &[&program])).unwrap();
        assert!(script.contains("cd '/it'\\''s'"), "{script}");
        assert!(script.contains("timeout -s KILL 5 '/dir with space/x'  2>&1"));
    }
}
