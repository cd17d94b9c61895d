//! `cargo xtask test`: everything that must hold before a change lands.

mod checks;
mod conformance;
mod emulated;
mod function;
mod libtest;
mod native;
mod programs;
mod report;
mod skips;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lexopt::prelude::*;

use crate::assets::{self, Assets};
use crate::demo;
use crate::functions;
use crate::fuzz;
use crate::host_kind::{self, HostKind};
use crate::install;
use crate::packages::{self, Package};
use crate::scratch::Scratch;
use crate::workspace::Workspace;

use programs::{Built, Program};
use report::{ProgramRun, Report};
use skips::Expected;

/// What `cargo xtask help` says about it.
pub(crate) const USAGE: &str = "\
test [OPTIONS] [FILTER]          check formatting, lints and documentation, run all tests
    --native-only       leave out the emulated host
    --emulated-only     run only the tests of the emulated host, whatever this machine is
    FILTER              run only tests whose names contain it, and no checks";

/// What `cargo xtask help` says about the long form.
pub(crate) const SOAK_USAGE: &str = "\
soak [OPTIONS] [FILTER]          the same with every loop at its full number of rounds";

/// How long each fuzz target runs over its kept corpus.
const FUZZ_SECONDS: u32 = 3;

/// The variable by which tests know how many rounds are wanted.
const ROUNDS: &str = "SANDBOX_TEST_ROUNDS";

const PACKAGES: &[Package] = &[
    Package {
        name: "acpica-tools",
        why: "checks the ACPI tables that guests are given",
    },
    Package {
        name: "binutils",
        why: "makes test programs small enough for the emulated host",
    },
    Package {
        name: "chromium",
        why: "shows the function platform's page",
    },
    Package {
        name: "g++",
        why: "compiles the C header as C++",
    },
    Package {
        name: "golang-go",
        why: "builds and tests the Go package",
    },
    Package {
        name: "libc6-dbg",
        why: "lets valgrind see into the C library",
    },
    Package {
        name: "pkg-config",
        why: "tells compilers where the C library is",
    },
    Package {
        name: "python3",
        why: "calls the C library without a compiler",
    },
    Package {
        name: "valgrind",
        why: "finds what programs do wrong with memory",
    },
    Package {
        name: "containernetworking-plugins",
        why: "attaches sandboxes to networks by CNI",
    },
    Package {
        name: "golang-go",
        why: "compiles a function that is run in containers",
    },
    Package {
        name: "nftables",
        why: "translates addresses and publishes ports of sandboxes",
    },
    Package {
        name: "criu",
        why: "saves and restores the processes of runc's containers",
    },
    Package {
        name: "crun",
        why: "is one of the OCI runtimes that are tested",
    },
    Package {
        name: "iptables",
        why: "holds a container's network still while CRIU saves it",
    },
    Package {
        name: "nodejs",
        why: "runs a function in containers",
    },
    Package {
        name: "runc",
        why: "is one of the OCI runtimes that are tested",
    },
    Package {
        name: "runsc",
        why: "is one of the OCI runtimes that are tested",
    },
    Package {
        name: "skopeo",
        why: "copies container images from one form to another",
    },
    Package {
        name: "umoci",
        why: "makes container images",
    },
];

/// What one invocation runs, and how long it may take.
#[derive(Clone)]
struct Plan {
    filter: Option<OsString>,
    /// Variables that tests get besides the user's own.
    environment: Vec<(OsString, OsString)>,
    /// Files that tests need, at the same path in the emulated host.
    carried: Vec<PathBuf>,
    /// The folder of the papers' functions, which tests of the function platform need at the same path too.
    functions: Option<PathBuf>,
    /// How long one test program may take.
    program_limit: Duration,
    /// How long all programs in the emulated host may take together.
    emulated_limit: Duration,
}

/// The places in which tests run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Places {
    All,
    NativeOnly,
    EmulatedOnly,
}

/// Runs the checks and tests that the arguments ask for.
pub(crate) fn main(workspace: &Workspace, arguments: lexopt::Parser) -> Result<ExitCode> {
    let (places, filter) = parse(arguments)?;
    let plan = Plan {
        filter,
        environment: Vec::new(),
        carried: Vec::new(),
        functions: None,
        program_limit: Duration::from_secs(600),
        emulated_limit: Duration::from_secs(2400),
    };
    run(workspace, places, plan)
}

/// Runs the same with the number of rounds that takes hours.
pub(crate) fn soak(workspace: &Workspace, arguments: lexopt::Parser) -> Result<ExitCode> {
    let (places, filter) = parse(arguments)?;
    let plan = Plan {
        filter,
        environment: vec![(ROUNDS.into(), "full".into())],
        carried: Vec::new(),
        functions: None,
        program_limit: Duration::from_secs(4 * 3600),
        emulated_limit: Duration::from_secs(12 * 3600),
    };
    run(workspace, places, plan)
}

fn parse(mut arguments: lexopt::Parser) -> Result<(Places, Option<OsString>)> {
    let mut places = Places::All;
    let mut filter = None;
    while let Some(argument) = arguments.next()? {
        let only = match argument {
            Long("native-only") => Places::NativeOnly,
            Long("emulated-only") => Places::EmulatedOnly,
            Value(text) if filter.is_none() => {
                filter = Some(text);
                continue;
            }
            other => return Err(other.unexpected().into()),
        };
        if places != Places::All {
            bail!("--native-only and --emulated-only together leave nothing to run");
        }
        places = only;
    }
    Ok((places, filter))
}

fn run(workspace: &Workspace, places: Places, mut plan: Plan) -> Result<ExitCode> {
    packages::ensure(PACKAGES)?;
    let (kind, reason) = host_kind::probe();
    println!("this host: {} ({reason})", kind.name());
    let mut report = Report::default();
    if places != Places::EmulatedOnly && plan.filter.is_none() {
        for check in &checks::ALL {
            step(check.name, || report.add_check(check.name, check.run(workspace)));
        }
    }
    if places != Places::EmulatedOnly && plan.filter.is_none() {
        step("the demo", || {
            report.add_check(
                "the demo",
                demo::check(workspace).err().map(|error| format!("{error:#}")),
            );
        });
    }
    if places != Places::EmulatedOnly && plan.filter.is_none() {
        step("fuzzing", || {
            let finding = fuzz::check(workspace, FUZZ_SECONDS).err();
            report.add_check("fuzzing", finding.map(|error| format!("{error:#}")));
        });
    }
    let assets = step("building what the tests boot", || Assets::build(workspace))?;
    plan.environment.push((assets::VARIABLE.into(), assets.folder().into()));
    let function = function::build(workspace)?;
    plan.environment
        .push((function::VARIABLE.into(), function.clone().into()));
    plan.carried.push(function);
    let functions = step("building the papers' functions", || functions::build(workspace))?;
    plan.environment
        .push((functions::VARIABLE.into(), functions.clone().into()));
    plan.functions = Some(functions);
    match step("building the tests", || programs::build(workspace)) {
        Ok(built) => {
            report.add_check("building the tests", None);
            run_tests(workspace, places, &plan, kind, &built, &mut report)?;
        }
        Err(error) => report.add_check("building the tests", Some(format!("{error:#}"))),
    }
    println!("\n{}", report.text());
    Ok(match report.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn run_tests(
    workspace: &Workspace,
    places: Places,
    plan: &Plan,
    kind: HostKind,
    built: &Built,
    report: &mut Report,
) -> Result<()> {
    let mut runs = Vec::new();
    if places != Places::EmulatedOnly {
        let mut plan = plan.clone();
        if programs::any_test_needs_library(&built.tests, plan.filter.as_deref())? {
            let prefix = step("installing the C library", || install::for_tests(workspace))?;
            plan.environment.push((install::VARIABLE.into(), prefix.into()));
        }
        step("tests on this machine", || -> Result<()> {
            for program in &built.tests {
                runs.push(told(run_natively(workspace, &plan, kind, program)?));
            }
            Ok(())
        })?;
        runs.push(step("documentation tests", || {
            run_documentation_tests(workspace, &plan, kind).map(told)
        })?);
    }
    let wanted = match places {
        Places::All => kind != HostKind::Hardware,
        Places::NativeOnly => false,
        Places::EmulatedOnly => true,
    };
    let guests: Vec<&Program> = built.tests.iter().filter(|test| test.runs_guests).collect();
    if wanted && !guests.is_empty() {
        let emulated = step("tests in the emulated host", || {
            emulated::run(workspace, plan, &guests, built)
        })?;
        runs.extend(emulated.into_iter().map(told));
    }
    let mut expected = BTreeMap::new();
    for run in &runs {
        expected.insert(run.kind.name(), Expected::load(workspace.root(), run.kind)?);
    }
    report.add_runs(&runs, &expected);
    report.add_table(conformance::table(&runs));
    Ok(())
}

fn run_natively(workspace: &Workspace, plan: &Plan, kind: HostKind, program: &Program) -> Result<ProgramRun> {
    let mut command = std::process::Command::new(&program.executable);
    command
        .args(&plan.filter)
        .current_dir(&program.directory)
        .env("CARGO_MANIFEST_DIR", &program.directory)
        .env("CARGO_PKG_NAME", &program.package);
    observe(workspace, plan, kind, &program.label, &mut command)
}

fn run_documentation_tests(workspace: &Workspace, plan: &Plan, kind: HostKind) -> Result<ProgramRun> {
    let mut command = workspace.cargo();
    command.args(["test", "--workspace", "--doc", "--no-fail-fast"]);
    if let Some(filter) = &plan.filter {
        command.args([OsStr::new("--"), filter]);
    }
    observe(workspace, plan, kind, "documentation tests", &mut command)
}

/// Runs a test program on this machine and reads what it says.
fn observe(
    workspace: &Workspace,
    plan: &Plan,
    kind: HostKind,
    label: &str,
    command: &mut std::process::Command,
) -> Result<ProgramRun> {
    let scratch = Scratch::below(&workspace.target().join("xtask"), "skips")?;
    let skip_file = scratch.path().join("skips");
    command
        .envs(plan.environment.iter().cloned())
        .env(skips::VARIABLE, &skip_file);
    let begin = Instant::now();
    let finished = native::run(command, plan.program_limit)?;
    let problem = match finished.status {
        None => Some(format!("took longer than {} s", plan.program_limit.as_secs())),
        Some(status) if matches!(status.code(), Some(0 | 101)) => None,
        Some(status) => Some(format!("ended with {status}")),
    };
    let (skips, absent) = skips::part(skips::reported(&skip_file)?);
    Ok(ProgramRun {
        label: label.to_owned(),
        kind,
        outcome: libtest::parse(&finished.output),
        skips,
        absent,
        problem,
        took: Some(begin.elapsed()),
        output: finished.output,
    })
}

/// Prints a program's result, and if it is not good, what it wrote.
fn told(run: ProgramRun) -> ProgramRun {
    let outcome = &run.outcome;
    let took = run
        .took
        .map(|took| format!(" in {:.1} s", took.as_secs_f64()))
        .unwrap_or_default();
    println!(
        "   {} ({}): {} passed, {} failed, {} skipped{took}",
        run.label,
        run.kind.name(),
        outcome.passed.saturating_sub(run.skips.len()),
        outcome.failed,
        run.skips.len() + outcome.ignored.len()
    );
    if !run.is_good() {
        let all_but_passed = run
            .output
            .lines()
            .filter(|line| !(line.starts_with("test ") && line.ends_with(" ... ok")));
        for line in all_but_passed {
            println!("{line}");
        }
    }
    run
}

/// Runs one step and prints its name and duration.
fn step<T>(name: &str, work: impl FnOnce() -> T) -> T {
    println!("== {name}");
    let begin = Instant::now();
    let result = work();
    println!("   {:.1} s", begin.elapsed().as_secs_f64());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<(Places, Option<OsString>)> {
        parse(lexopt::Parser::from_args(arguments))
    }

    #[test]
    fn places_and_filter_are_read() {
        let (places, filter) = parsed(&["--native-only", "boot"]).unwrap();
        assert!(places == Places::NativeOnly);
        assert_eq!(filter.as_deref(), Some(OsStr::new("boot")));
        let (places, filter) = parsed(&[]).unwrap();
        assert!(places == Places::All && filter.is_none());
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(parsed(&["--native-only", "--emulated-only"]).is_err());
        assert!(parsed(&["one", "two"]).is_err());
        assert!(parsed(&["--no-such"]).is_err());
    }
}
