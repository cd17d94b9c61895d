//! The emulated KVM host: a QEMU machine whose processor has complete
//! virtualisation (SVM with nested paging, emulated by TCG), in which one
//! command of the project runs as if on a machine with hardware KVM.
//!
//! A run costs about three seconds: Debian's cloud kernel is started as an
//! unpacked ELF file, its initial file system is a cached base archive with
//! this run's files appended, and big files stay on a disk.

mod base;
mod cli;
mod disk;
mod machine;
mod payload;
mod streams;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::assets::{self, Assets, Flavour, Kernel};
use crate::cache;
use crate::packages::{self, Package};
use crate::process;
use crate::scratch::Scratch;
use crate::workspace::Workspace;

pub(crate) use cli::{USAGE, main, passed_on_variables};
pub(crate) use payload::shell_word;

use machine::Machine;
use streams::{Control, Streams};

const PACKAGES: [Package; 2] = [
    assets::BUSYBOX,
    Package {
        name: "qemu-system-x86",
        why: "emulates a machine with hardware KVM",
    },
];

/// Longer than any command of the tests needs, shorter than the ten minutes
/// after which many build services call a silent command dead.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(540);

/// A file that the host gets besides its command.
pub(crate) enum Carried {
    /// A file or folder of this machine; programs bring their libraries along.
    Path { source: PathBuf, destination: PathBuf },
    /// A file made for this run.
    Text { destination: PathBuf, content: Vec<u8> },
}

/// One run of the emulated host.
pub(crate) struct HostRun {
    /// The command and its arguments. Its first word is a path, a name on
    /// `PATH`, or one of busybox' names.
    pub(crate) command: Vec<OsString>,
    /// Its environment, beyond `PATH` and `HOME`.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Its working directory, made if need be.
    pub(crate) directory: PathBuf,
    /// What else is inside.
    pub(crate) carried: Vec<Carried>,
    /// Whether the assets are inside too, at the same path as here.
    pub(crate) assets: bool,
    /// Number of processors.
    pub(crate) cpus: u32,
    /// Memory; by default what the files inside ask for.
    pub(crate) memory_mib: Option<u64>,
    /// Whether the clock counts executed instructions, one nanosecond each.
    pub(crate) icount: bool,
    /// How long start and command may take together.
    pub(crate) timeout: Duration,
    /// Where the files go that the command leaves in `/out`.
    pub(crate) out: Option<PathBuf>,
}

impl HostRun {
    /// A run of `command` with nothing but itself inside.
    pub(crate) fn new(command: Vec<OsString>) -> Self {
        Self {
            command,
            environment: Vec::new(),
            directory: PathBuf::from("/root"),
            carried: Vec::new(),
            assets: false,
            cpus: 1,
            memory_mib: None,
            icount: false,
            timeout: DEFAULT_TIMEOUT,
            out: None,
        }
    }
}

/// How a run of the emulated host ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The command ended with this status; 128 + n stands for signal n.
    Exited(u8),
    /// Time ran out, and the host was killed. Holds the end of its console.
    TimedOut(String),
    /// The host itself ended before the command did. Holds the same.
    Died(String),
}

/// Runs a command in the emulated host and passes its output on as it comes.
pub(crate) fn run(
    workspace: &Workspace,
    run: &HostRun,
    stdout: impl Write + Send + 'static,
    stderr: impl Write + Send + 'static,
) -> Result<Ending> {
    let deadline = Instant::now() + run.timeout;
    let scratch = Scratch::below(&workspace.target().join("kvm-host"), "run")?;
    let machine = prepare(workspace, run, &scratch)?;
    let (streams, ports) = Streams::open(stdout, stderr, run.out.as_deref())?;
    let mut qemu = machine
        .command(&ports, scratch.path())
        .stdin(Stdio::null())
        .spawn()
        .context("cannot run qemu-system-x86_64")?;
    // The readers see the end of the streams only once QEMU alone holds them.
    drop(ports);
    let ending = await_ending(&streams, deadline);
    // QEMU may have ended by itself; either way nothing of it stays.
    let _ = qemu.kill();
    qemu.wait()?;
    let passed_on = streams.finish();
    let last_words = machine::last_words(scratch.path());
    match ending {
        Ok(status) => passed_on.map(|()| Ending::Exited(status)),
        Err(RecvTimeoutError::Timeout) => Ok(Ending::TimedOut(last_words)),
        Err(RecvTimeoutError::Disconnected) => Ok(Ending::Died(last_words)),
    }
}

/// Waits until the host has passed everything on; answers the command's status.
fn await_ending(streams: &Streams, deadline: Instant) -> Result<u8, RecvTimeoutError> {
    let mut status = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match (streams.control().recv_timeout(left)?, status) {
            (Control::Exited(code), _) => status = Some(code),
            (Control::Done, Some(status)) => return Ok(status),
            (Control::Done, None) => return Err(RecvTimeoutError::Disconnected),
        }
    }
}

fn prepare(workspace: &Workspace, run: &HostRun, scratch: &Scratch) -> Result<Machine> {
    packages::ensure(&PACKAGES)?;
    let assets = match run.assets {
        true => Some(Assets::build(workspace)?),
        false => None,
    };
    let _lock = cache::lock(&workspace.target().join("xtask"))?;
    let folder = workspace.target().join("kvm-host");
    let kernel = Kernel::obtain(workspace, Flavour::Cloud)?;
    let vmlinux = folder.join("vmlinux");
    assets::build_vmlinux(&vmlinux, &kernel)?;
    let base = folder.join("base.cpio");
    base::build(&base, &kernel)?;
    let disk = match &assets {
        Some(assets) => Some(disk::build(&folder.join("assets.ext4"), assets.folder())?),
        None => None,
    };

    let payload = payload::collect(run, assets.as_ref().map(Assets::folder))?;
    let archive = scratch.path().join("initrd.cpio");
    payload::append(&payload, &base, &archive)?;
    Ok(Machine {
        kernel: vmlinux,
        archive,
        disk,
        cpus: run.cpus,
        memory_mib: run.memory_mib.unwrap_or_else(|| machine::memory_for(payload.size())),
        icount: run.icount,
    })
}

/// The program of this machine that a command's first word names.
fn program_of(word: &OsString) -> Option<PathBuf> {
    if word.to_string_lossy().contains('/') {
        return Some(PathBuf::from(word));
    }
    process::find_program(word)
}
