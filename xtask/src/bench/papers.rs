//! The papers' experiments by the function platform: on this machine, and in the emulated host by instructions.
//!
//! Results are kept below `target/bench/papers`, so that a run that was cut short goes on where it stood; removing that
//! folder begins anew.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Options, RUNTIMES, append, carried};
use crate::functions;
use crate::host_kind::{self, HostKind};
use crate::kvm_host::{self, Carried, Ending, HostRun};
use crate::packages::{self, Package};
use crate::process;
use crate::workspace::Workspace;

const LOADS: [Package; 3] = [
    Package {
        name: "hey",
        why: "makes requests for the papers' experiments",
    },
    Package {
        name: "wrk",
        why: "makes requests for the papers' experiments",
    },
    Package {
        name: "nftables",
        why: "translates addresses of instances",
    },
];
/// How far experiments that grow go in the emulated host: an emulated processor boots a Linux in ten seconds.
const EMULATED_SCALE: [&str; 6] = ["--instances", "10", "--requests", "4096", "--seconds", "1"];
/// The functions that are measured there in a short run.
const QUICK_FUNCTIONS: &str = "hello,noop-c";
/// Room for the functions' files, which are in the host's memory, and for instances.
const HOST_MEMORY: u64 = 8192;
const RESULTS: &str = "results.jsonl";

/// Measures, and says where the reports are.
pub(super) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    packages::ensure(&LOADS)?;
    packages::ensure(&RUNTIMES)?;
    let functions = functions::build(workspace)?;
    process::run(
        workspace
            .cargo()
            .args(["build", "--release", "--quiet", "--package", "faas-harness"]),
    )?;
    let harness = workspace.target().join("release/faas-harness");
    let mut reports = Vec::new();
    let (kind, reason) = host_kind::probe();
    println!("this machine: {} ({reason})", kind.name());
    if options.native && kind != HostKind::Missing {
        let out = folder(workspace, "native")?;
        native(&harness, &functions, options, &out)?;
        reports.push(out);
    }
    if options.emulated {
        let out = folder(workspace, "emulated")?;
        emulated(workspace, &harness, &functions, options, &out)?;
        reports.push(out);
    }
    if let Some(target) = &options.json {
        if target.exists() {
            fs::remove_file(target)?;
        }
        for report in &reports {
            append(&report.join("bench.jsonl"), target)?;
        }
    }
    for report in &reports {
        println!("report: {}", report.join("report.html").display());
    }
    Ok(ExitCode::SUCCESS)
}

fn folder(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let folder = workspace.target().join("bench/papers").join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// What the platform is told, `rounds` of each.
fn arguments(options: &Options, functions: &Path, out: &Path, rounds: usize) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["bench".into(), "--listen".into(), "127.0.0.1:0".into()];
    arguments.extend(options.experiments.iter().map(OsString::from));
    if options.quick {
        arguments.push("--quick".into());
    }
    arguments.extend(["--rounds".into(), rounds.to_string().into()]);
    if let Some(only) = &options.only {
        arguments.extend(["--only".into(), only.into()]);
    }
    arguments.extend(["--functions".into(), functions.join("functions.json").into()]);
    arguments.extend(["--out".into(), out.into()]);
    arguments
}

fn native(harness: &Path, functions: &Path, options: &Options, out: &Path) -> Result<()> {
    let rounds = if options.quick { 3 } else { options.rounds };
    println!("\non this machine's /dev/kvm, {rounds} rounds");
    let mut command = std::process::Command::new(harness);
    let status = command.args(arguments(options, functions, out, rounds)).status()?;
    match status.success() {
        true => Ok(()),
        false => bail!("{} ended with {status}", harness.display()),
    }
}

fn emulated(workspace: &Workspace, harness: &Path, functions: &Path, options: &Options, out: &Path) -> Result<()> {
    let rounds = if options.quick { 2 } else { (options.rounds / 5).max(1) };
    println!("\nin the emulated host, counting instructions, {rounds} rounds");
    let mut options = options.clone();
    if options.quick && options.only.is_none() {
        options.only = Some(QUICK_FUNCTIONS.to_owned());
    }
    let inside = Path::new("/out/papers");
    let mut command = vec![harness.as_os_str().to_owned()];
    command.extend(arguments(&options, functions, inside, rounds));
    if !options.quick {
        command.extend(EMULATED_SCALE.map(OsString::from));
    }
    command.extend(["--whole-host", "--counting-clock", "--place", "emulated-icount"].map(OsString::from));
    let mut run = HostRun::new(command);
    let programs = RUNTIMES.iter().map(|package| package.name);
    let programs = programs
        .chain(["nft", "node", "hey", "wrk"])
        .filter_map(|name| process::find_program(name.as_ref()));
    run.carried.extend(programs.map(|path| carried(&path)));
    run.carried.extend([carried(harness), carried(functions)]);
    let before = out.join(RESULTS);
    if before.exists() {
        run.carried.push(Carried::Path {
            source: before,
            destination: inside.join(RESULTS),
        });
    }
    run.assets = true;
    run.icount = true;
    run.memory_mib = Some(HOST_MEMORY);
    run.timeout = Duration::from_secs(if options.quick { 3600 } else { 12 * 3600 });
    let brought = workspace.target().join("bench/papers/out");
    run.out = Some(brought.clone());
    let ending = kvm_host::run(workspace, &run, io::stdout(), io::stderr())?;
    copy_files(&brought.join("papers"), out)?;
    match ending {
        Ending::Exited(0) => Ok(()),
        Ending::Exited(status) => bail!("the platform ended with status {status} in the emulated host"),
        Ending::TimedOut(words) | Ending::Died(words) => bail!("the emulated host did not finish:\n{words}"),
    }
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("nothing came back in {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
