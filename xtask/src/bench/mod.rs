//! `cargo xtask bench`: builds the measuring program and the floor, and runs them on this machine's KVM and in the
//! emulated host, where processor time is a count of instructions.

mod before_run;
mod papers;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use crate::assets::Assets;
use crate::host_kind::{self, HostKind};
use crate::kvm_host::{self, Carried, Ending, HostRun};
use crate::packages::{self, Package};
use crate::process;
use crate::workspace::Workspace;

/// What `cargo xtask help` says about it.
pub(crate) const USAGE: &str = "\
bench NAME [OPTIONS]             measure: cold-start, unikernels, containers, snapshot, data-path, c-abi or papers
    --json FILE         write one JSON object per line
    --rounds N          rounds on this machine (default 30); a fifth of it in the emulated host
    --native-only       leave the emulated host out
    --emulated-only     leave this machine's own KVM out
    --quick             papers: in minutes
    --only TEXT[,TEXT]  papers: functions whose name contains one of these
    --experiments A,B   papers: these experiments instead of all";

const PACKAGES: [Package; 3] = [
    Package {
        name: "qemu-system-x86",
        why: "is the peer that cold starts are compared with",
    },
    Package {
        name: "gcc",
        why: "compiles the floor program",
    },
    Package {
        name: "strace",
        why: "counts system calls before a guest runs",
    },
];

const RUNTIMES: [Package; 3] = [
    Package {
        name: "crun",
        why: "runs the containers that are measured",
    },
    Package {
        name: "runc",
        why: "runs the containers that are measured",
    },
    Package {
        name: "runsc",
        why: "runs the containers that are measured",
    },
];

/// What QEMU needs beside its program and libraries, where Debian puts it.
const QEMU_DATA: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];
/// Memory for a host in which QEMU and a Linux guest run side by side, in MiB.
const HOST_MEMORY: u64 = 3000;
const JSON_NAME: &str = "bench.json";
/// Names the program of worker processes.
const WORKER_VARIABLE: &str = "SANDBOX_WORKER";

#[derive(Clone)]
struct Options {
    name: String,
    rounds: usize,
    native: bool,
    emulated: bool,
    quick: bool,
    only: Option<String>,
    experiments: Vec<String>,
    json: Option<PathBuf>,
}

/// The programs that measure.
struct Programs {
    bench: PathBuf,
    worker: PathBuf,
    floor: PathBuf,
    restore_floor: PathBuf,
    qemu: PathBuf,
}

/// Measures what the arguments name.
pub(crate) fn main(workspace: &Workspace, arguments: lexopt::Parser) -> Result<ExitCode> {
    let options = parse(arguments)?;
    if options.name == "papers" {
        return papers::run(workspace, &options);
    }
    packages::ensure(&PACKAGES)?;
    let programs = build(workspace)?;
    let json = workspace.target().join("bench").join(JSON_NAME);
    if json.exists() {
        fs::remove_file(&json)?;
    }
    let (kind, reason) = host_kind::probe();
    println!("this machine: {} ({reason})", kind.name());
    match options.name.as_str() {
        "cold-start" => {
            if options.native && kind != HostKind::Missing {
                native(&programs, "cold-start", &options, &json)?;
                native(&programs, "memory", &options, &json)?;
                before_run::count(&programs.bench, &json)?;
            }
            if options.emulated {
                for bench in ["cold-start", "exits", "linux"] {
                    emulated(workspace, &programs, bench, &options, &json)?;
                }
            }
        }
        "snapshot" => {
            if options.native && kind != HostKind::Missing {
                native(&programs, "snapshot", &options, &json)?;
            }
            if options.emulated {
                for bench in ["snapshot", "snapshot-linux"] {
                    emulated(workspace, &programs, bench, &options, &json)?;
                }
            }
        }
        "containers" => {
            packages::ensure(&RUNTIMES)?;
            if options.native {
                native(&programs, "containers", &options, &json)?;
            }
            if options.emulated {
                emulated(workspace, &programs, "containers", &options, &json)?;
            }
        }
        "data-path" => emulated(workspace, &programs, "data-path", &options, &json)?,
        bench @ ("c-abi" | "unikernels") => {
            if options.native && kind != HostKind::Missing {
                native(&programs, bench, &options, &json)?;
            }
            if options.emulated {
                emulated(workspace, &programs, bench, &options, &json)?;
            }
        }
        other => {
            let known = "cold-start, unikernels, containers, snapshot, data-path, c-abi and papers";
            bail!("there is no bench {other}; there are {known}")
        }
    }
    if let Some(target) = &options.json {
        fs::copy(&json, target).with_context(|| format!("cannot write {}", target.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(mut arguments: lexopt::Parser) -> Result<Options> {
    let mut options = Options {
        name: String::new(),
        rounds: 30,
        native: true,
        emulated: true,
        quick: false,
        only: None,
        experiments: Vec::new(),
        json: None,
    };
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("json") => options.json = Some(arguments.value()?.into()),
            Long("rounds") => options.rounds = arguments.value()?.parse()?,
            Long("native-only") => options.emulated = false,
            Long("emulated-only") => options.native = false,
            Long("quick") => options.quick = true,
            Long("only") => options.only = Some(arguments.value()?.string()?),
            Long("experiments") => {
                let list = arguments.value()?.string()?;
                options.experiments = list.split(',').map(str::to_owned).collect();
            }
            Value(name) if options.name.is_empty() => options.name = name.string()?,
            other => return Err(other.unexpected().into()),
        }
    }
    match options.name.is_empty() {
        false => Ok(options),
        true => bail!("which bench?\n{USAGE}"),
    }
}

fn build(workspace: &Workspace) -> Result<Programs> {
    let folder = workspace.target().join("bench");
    fs::create_dir_all(&folder)?;
    let compiled = |name: &str| -> Result<PathBuf> {
        let program = folder.join(name);
        let source = workspace.root().join(format!("bench/floor/{name}.c"));
        let mut gcc = process::tool("gcc");
        gcc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o"]);
        process::run(gcc.arg(&program).arg(source))?;
        Ok(program)
    };
    let (floor, restore_floor) = (compiled("floor")?, compiled("restore")?);
    process::run(
        workspace
            .cargo()
            .args(["build", "--release", "--quiet", "--package", "sandbox-bench"]),
    )?;
    let worker = build_worker(workspace)?;
    let qemu = process::find_program("qemu-system-x86_64".as_ref());
    Ok(Programs {
        worker,
        bench: workspace.target().join("release/sandbox-bench"),
        floor,
        restore_floor,
        qemu: qemu.context("there is no qemu-system-x86_64")?,
    })
}

/// The worker as one would install it: without the work of a dynamic linker at each start.
fn build_worker(workspace: &Workspace) -> Result<PathBuf> {
    let target = workspace.target().join("static");
    process::run(
        workspace
            .cargo()
            .args([
                "rustc",
                "--release",
                "--quiet",
                "--package",
                "sandbox",
                "--bin",
                "sandbox-worker",
            ])
            .arg("--target-dir")
            .arg(&target)
            .args([
                "--",
                "-C",
                "target-feature=+crt-static",
                "-C",
                "relocation-model=static",
            ]),
    )?;
    Ok(target.join("release/sandbox-worker"))
}

fn native(programs: &Programs, bench: &str, options: &Options, json: &Path) -> Result<()> {
    println!("\non this machine's /dev/kvm: {bench}, {} rounds", options.rounds);
    let status = std::process::Command::new(&programs.bench)
        .arg(bench)
        .args(["--rounds", &options.rounds.to_string()])
        .arg("--floor")
        .arg(&programs.floor)
        .arg("--restore-floor")
        .arg(&programs.restore_floor)
        .arg("--qemu")
        .arg(&programs.qemu)
        .arg("--json")
        .arg(json)
        .env(WORKER_VARIABLE, &programs.worker)
        .status()?;
    match status.success() {
        true => Ok(()),
        false => bail!("{bench} failed: {status}"),
    }
}

fn emulated(workspace: &Workspace, programs: &Programs, bench: &str, options: &Options, json: &Path) -> Result<()> {
    let rounds = (options.rounds / 5).max(1);
    println!("\nin the emulated host, counting instructions: {bench}, {rounds} rounds");
    let assets = Assets::build(workspace)?;
    let file = |name: &str| assets.folder().join(name).into_os_string();
    let mut command: Vec<OsString> = vec![programs.bench.clone().into(), bench.into(), "--icount".into()];
    command.extend(["--rounds".into(), rounds.to_string().into()]);
    command.extend(["--json".into(), format!("/out/{JSON_NAME}").into()]);
    match bench {
        "linux" | "snapshot-linux" => command.extend([
            "--kernel".into(),
            file("cloud/vmlinux"),
            "--initrd".into(),
            file("marker.cpio"),
        ]),
        "data-path" => command.extend([
            "--kernel".into(),
            file("cloud/vmlinux"),
            "--initrd".into(),
            file("boot-cloud.cpio.gz"),
            "--root".into(),
            file("root.ext4"),
        ]),
        _ => command.extend([
            "--floor".into(),
            programs.floor.clone().into(),
            "--restore-floor".into(),
            programs.restore_floor.clone().into(),
        ]),
    }
    let mut run = HostRun::new(command);
    if matches!(bench, "cold-start" | "linux") {
        run.command.extend(["--qemu".into(), programs.qemu.clone().into()]);
        run.carried = QEMU_DATA.iter().map(|path| carried(Path::new(path))).collect();
        run.carried.push(carried(&programs.qemu));
    }
    if bench == "containers" {
        let runtimes = RUNTIMES
            .iter()
            .filter_map(|package| process::find_program(package.name.as_ref()));
        run.carried.extend(runtimes.map(|path| carried(&path)));
    }
    run.carried.push(carried(&programs.floor));
    run.carried.push(carried(&programs.worker));
    run.environment
        .push((WORKER_VARIABLE.into(), programs.worker.clone().into()));
    run.carried.push(carried(&programs.restore_floor));
    run.assets = true;
    run.icount = true;
    run.memory_mib = Some(HOST_MEMORY);
    let out = workspace.target().join("bench/out");
    run.out = Some(out.clone());
    match kvm_host::run(workspace, &run, io::stdout(), io::stderr())? {
        Ending::Exited(0) => append(&out.join(JSON_NAME), json),
        Ending::Exited(status) => bail!("{bench} ended with status {status} in the emulated host"),
        Ending::TimedOut(words) | Ending::Died(words) => bail!("the emulated host did not finish {bench}:\n{words}"),
    }
}

fn carried(path: &Path) -> Carried {
    Carried::Path {
        source: path.to_path_buf(),
        destination: path.to_path_buf(),
    }
}

fn append(from: &Path, to: &Path) -> Result<()> {
    let lines = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let mut file = fs::OpenOptions::new().create(true).append(true).open(to)?;
    io::Write::write_all(&mut file, &lines)?;
    Ok(())
}
