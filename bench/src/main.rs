//! Measures the SDK against the bare KVM calls and its peers, where it stands: on a host with KVM or inside the
//! emulated one. `cargo xtask bench` builds what it needs and runs it in both.

mod c_abi;
mod clock;
mod cold_start;
mod containers;
mod data_path;
mod elf;
mod exits;
mod memory;
mod peers;
mod ping;
mod report;
mod snapshot;
mod unikernels;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use report::{Report, Where};

const USAGE: &str = "\
usage: sandbox-bench BENCH [OPTIONS]
  cold-start         hello from call to torn down: floor, SDK and QEMU in turn
  linux              a stock Linux kernel from call to /init: SDK and QEMU in turn
  unikernels         a stand-in of each family from call to its line and to torn down, cold and pooled
  containers         a container from create to given back: SDK and runtime by hand in turn
  data-path          disk and network of a stock Linux guest: what a request costs
  c-abi              calls through the C interface and in Rust, in turn
  exits              one port-I/O exit to user space and back
  snapshot           snapshots, restores and forks of http-reply
  snapshot-linux     the same of a stock Linux guest
  memory             what a halted guest costs beyond the pages it touched
  once               one cold start of hello between two getppid calls, for strace
    --rounds N       counted rounds (default 30)
    --icount         processor time counts instructions here
    --floor FILE     the floor program
    --restore-floor FILE  that of restores (snapshot)
    --qemu FILE      QEMU, if there is one
    --kernel FILE    uncompressed Linux kernel (linux, snapshot-linux, data-path)
    --initrd FILE    its initial RAM disk (linux, snapshot-linux, data-path)
    --root FILE      its root disk (data-path)
    --json FILE      append one JSON object per line";

/// What the command line says.
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) place: Where,
    pub(crate) floor: Option<PathBuf>,
    pub(crate) restore_floor: Option<PathBuf>,
    pub(crate) qemu: Option<PathBuf>,
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) root: Option<PathBuf>,
    pub(crate) json: Option<PathBuf>,
}

fn main() -> ExitCode {
    sandbox::worker::run_if_worker();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (bench, options) = parse()?;
    let place = match (&*bench, options.place) {
        ("containers", Where::Kvm) => Where::Host,
        (_, place) => place,
    };
    let mut report = Report::new(bench.clone(), place);
    match bench.as_str() {
        "cold-start" => cold_start::hello(&options, &mut report)?,
        "linux" => cold_start::linux(&options, &mut report)?,
        "unikernels" => unikernels::measure(&options, &mut report)?,
        "containers" => containers::measure(&options, &mut report)?,
        "data-path" => data_path::measure(&options, &mut report)?,
        "snapshot" => snapshot::server(&options, &mut report)?,
        "snapshot-linux" => snapshot::linux(&options, &mut report)?,
        "memory" => memory::beyond_guest(&mut report)?,
        "c-abi" => c_abi::overhead(&options, &mut report)?,
        "exits" => exits::round_trip(&options, &mut report)?,
        "once" => return cold_start::once(),
        _ => bail!("there is no bench {bench}\n{USAGE}"),
    }
    report.print();
    match &options.json {
        Some(path) => report
            .append_json(path)
            .with_context(|| format!("cannot write {}", path.display())),
        None => Ok(()),
    }
}

fn parse() -> Result<(String, Options)> {
    let mut options = Options {
        rounds: 30,
        place: Where::Kvm,
        floor: None,
        restore_floor: None,
        qemu: None,
        kernel: None,
        initrd: None,
        root: None,
        json: None,
    };
    let mut bench = None;
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("rounds") => options.rounds = arguments.value()?.parse()?,
            Long("icount") => options.place = Where::EmulatedIcount,
            Long("floor") => options.floor = Some(arguments.value()?.into()),
            Long("restore-floor") => options.restore_floor = Some(arguments.value()?.into()),
            Long("qemu") => options.qemu = Some(arguments.value()?.into()),
            Long("kernel") => options.kernel = Some(arguments.value()?.into()),
            Long("initrd") => options.initrd = Some(arguments.value()?.into()),
            Long("root") => options.root = Some(arguments.value()?.into()),
            Long("json") => options.json = Some(arguments.value()?.into()),
            Value(name) if bench.is_none() => bench = Some(name.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok((bench.with_context(|| format!("which bench?\n{USAGE}"))?, options))
}
