//! Running test programs in emulated hosts, one for each processor of this
//! machine, each of which runs its part of the tests in one start.

mod parts;
mod transcript;

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};

use super::programs::{Built, Program};
use super::report::ProgramRun;
use super::{Plan, libtest, skips};
use crate::host_kind::HostKind;
use crate::kvm_host::{self, Carried, Ending, HostRun};
use crate::process;
use crate::scratch::Scratch;
use crate::workspace::Workspace;
use parts::Piece;
use transcript::{Section, Transcript};

/// Guests with more memory than most tests need are among them, and each is
/// held by the emulated host; memory that nobody touches costs nothing.
const MEMORY_MIB: u64 = 6144;
/// More hosts at a time than these would rather fill this machine's memory
/// than save time.
const MOST_HOSTS: usize = 4;
/// The script that runs one program after another, inside the host.
const SCRIPT: &str = "/etc/kvm-host/tests";
/// Programs of this machine that tests use beside what cargo built: OCI
/// runtimes and what they call, and what makes networks.
const PROGRAMS: [&str; 14] = [
    "runc",
    "crun",
    "runsc",
    "criu",
    "iptables-restore",
    "ip6tables-restore",
    // GNU tar, by which CRIU saves what is in a tmpfs; that of busybox lacks the options.
    "tar",
    "skopeo",
    "umoci",
    "node",
    "nft",
    "/usr/lib/cni/bridge",
    "/usr/lib/cni/host-local",
    "/usr/lib/cni/tuning",
];
/// Libraries that those programs open by name: how iptables reads the rules by which CRIU holds a network still.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/xtables/libxt_mark.so",
    "/usr/lib/x86_64-linux-gnu/xtables/libxt_standard.so",
];
/// What the harness exits with when tests failed.
const TESTS_FAILED: u8 = 101;
const KILLED: u8 = 128 + 9;

/// Runs the programs and gives one result for each program in each host.
pub(super) fn run(workspace: &Workspace, plan: &Plan, programs: &[&Program], built: &Built) -> Result<Vec<ProgramRun>> {
    let scratch = Scratch::below(&workspace.target().join("kvm-host"), "tests")?;
    let mut pieces = Vec::new();
    for (number, program) in programs.iter().enumerate() {
        let copy = scratch.path().join(number.to_string());
        strip_debug_information(&program.executable, &copy)?;
        pieces.push(Piece {
            program,
            copy,
            tests: parts::tests_of(plan, program)?,
        });
    }
    let large = large_files(plan, built, &pieces, scratch.path())?;
    let hosts = thread::available_parallelism().map_or(1, usize::from).min(MOST_HOSTS);
    let parts = parts::divide(&pieces, hosts);
    println!("   {} hosts at a time", parts.len());
    thread::scope(|scope| {
        let hosts: Vec<_> = (0..)
            .zip(&parts)
            .map(|(number, part)| {
                let out = scratch.path().join(format!("out-{number}"));
                let (helpers, large) = (&built.helpers, &large);
                scope.spawn(move || {
                    let large = if calls_functions(part) { &large[..] } else { &[] };
                    run_part(workspace, plan, part, helpers, large, &out)
                })
            })
            .collect();
        let mut runs = Vec::new();
        for host in hosts {
            match host.join() {
                Ok(part) => runs.extend(part?),
                Err(_) => bail!("a thread that runs an emulated host failed"),
            }
        }
        runs.sort_by(|a: &ProgramRun, b| a.label.cmp(&b.label));
        Ok(runs)
    })
}

/// Runs one host to its end.
fn run_part(
    workspace: &Workspace,
    plan: &Plan,
    pieces: &[Piece<'_>],
    helpers: &[PathBuf],
    large: &[(PathBuf, PathBuf)],
    out: &Path,
) -> Result<Vec<ProgramRun>> {
    let mut host = HostRun::new(vec!["/bin/sh".into(), SCRIPT.into()]);
    host.assets = true;
    host.memory_mib = Some(MEMORY_MIB);
    host.timeout = plan.emulated_limit;
    host.environment = kvm_host::passed_on_variables();
    host.environment.extend(plan.environment.iter().cloned());
    host.out = Some(out.to_path_buf());
    host.carried.push(Carried::Text {
        destination: PathBuf::from(SCRIPT),
        content: transcript::script(plan, pieces),
    });
    let copies = pieces.iter().map(|piece| (&piece.copy, &piece.program.executable));
    let programs = PROGRAMS.iter().filter_map(|name| process::find_program(name.as_ref()));
    let libraries = LIBRARIES.iter().map(PathBuf::from).filter(|path| path.exists());
    let programs: Vec<PathBuf> = programs.chain(libraries).collect();
    let as_they_are = helpers
        .iter()
        .chain(&programs)
        .chain(&plan.carried)
        .map(|file| (file, file));
    host.carried.extend(
        copies
            .chain(as_they_are)
            .chain(large.iter().map(|(from, to)| (from, to)))
            .map(|(source, destination)| Carried::Path {
                source: source.clone(),
                destination: destination.clone(),
            }),
    );

    let transcript = Transcript::new(pieces);
    let ending = kvm_host::run(workspace, &host, transcript.clone(), transcript.clone())?;
    let sections = transcript::sections(&transcript.text());
    let mut runs = Vec::new();
    for (number, piece) in pieces.iter().enumerate() {
        let section = sections.get(&number);
        let output = section.map_or("", |section| &section.output);
        let (skips, absent) = skips::part(skips::reported(&out.join("skips").join(number.to_string()))?);
        runs.push(ProgramRun {
            label: piece.program.label.clone(),
            kind: HostKind::Emulated,
            outcome: libtest::parse(output),
            skips,
            absent,
            problem: problem(section, &ending, plan),
            took: None,
            output: output.to_owned(),
        });
    }
    Ok(runs)
}

fn calls_functions(pieces: &[Piece<'_>]) -> bool {
    pieces
        .iter()
        .any(|piece| piece.program.calls_functions() && !piece.tests.is_empty())
}

/// What only the tests of the papers' functions need, with its place in the host: the functions and their platform.
fn large_files(plan: &Plan, built: &Built, pieces: &[Piece<'_>], scratch: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let (Some(functions), Some(platform)) = (&plan.functions, &built.platform) else {
        return Ok(Vec::new());
    };
    if !calls_functions(pieces) {
        return Ok(Vec::new());
    }
    let copy = scratch.join("platform");
    strip_debug_information(platform, &copy)?;
    Ok(vec![(functions.clone(), functions.clone()), (copy, platform.clone())])
}

/// Makes a copy of a program that is small enough to be unpacked at every start.
fn strip_debug_information(program: &Path, copy: &Path) -> Result<()> {
    process::run(process::tool("objcopy").arg("--strip-debug").arg(program).arg(copy))
        .with_context(|| format!("cannot strip {}", program.display()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_way_of_not_ending_well_is_told() {
        let plan = Plan {
            filter: None,
            environment: Vec::new(),
            carried: Vec::new(),
            functions: None,
            program_limit: Duration::from_secs(5),
            emulated_limit: Duration::from_secs(50),
        };
        let ended = |status| Section {
            status,
            ..Section::default()
        };
        let told = |section: Option<&Section>, ending| problem(section, &ending, &plan);
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
}
