//! Any image that somebody brings: recognised, given what its family needs, booted, watched to its end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandbox::{Exit, Phase, Runtime, Sandbox, SandboxSpec};
use serde_json::{Value, json};

use crate::http;
use crate::network;
use crate::report::Life;
use crate::succession;

/// What is booted, and with what.
#[derive(Debug, PartialEq, Eq)]
pub struct Guest {
    /// The kernel file.
    pub image: PathBuf,
    /// Its initial RAM disk; for Hermit, the application.
    pub initrd: Option<PathBuf>,
    /// Its disks, `NAME=FILE` or `FILE`.
    pub disks: Vec<String>,
    /// What its card is called, if the guest wants it by name; `NAME=ADDRESS/PREFIX` for a card whose guest knows its own
    /// address, and this is the host's.
    pub network: Option<String>,
    /// Its memory in MiB.
    pub memory: u64,
    /// `linux64` or `pvh`, if not what the file has.
    pub protocol: Option<String>,
    /// `NAME=value`, for its environment.
    pub environment: Vec<String>,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it prints when it is up.
    pub marker: Option<String>,
    /// Fetch this page from it, `PORT/PATH`, over a network of its own.
    pub http: Option<String>,
    /// CPU features to hide from it.
    pub mask: Vec<String>,
    /// How often to boot it, one after the other.
    pub rounds: u32,
    /// How many virtual machines are kept made ahead of time.
    pub pool: usize,
    /// How many clones of it are to take its place, one after the other, once it is ready.
    pub clones: u32,
    /// How long to wait for it each time, in seconds.
    pub patience: u64,
}

impl Default for Guest {
    /// Nothing yet, in 128 MiB, once, within a minute.
    fn default() -> Self {
        Self {
            image: PathBuf::new(),
            initrd: None,
            disks: Vec::new(),
            network: None,
            memory: 128,
            protocol: None,
            environment: Vec::new(),
            arguments: Vec::new(),
            marker: None,
            http: None,
            mask: Vec::new(),
            rounds: 1,
            pool: 0,
            clones: 0,
            patience: 60,
        }
    }
}

/// Boots it as often as asked; the last life is the one reported.
pub fn run(runtime: &Runtime, guest: &Guest) -> Result<Life> {
    let mut last = None;
    for round in 1..=guest.rounds {
        let life = once(runtime, guest)?;
        if guest.rounds > 1 {
            println!("  round {round}: {}", measured(&life));
        }
        last = Some(life);
    }
    last.context("--rounds 0 boots nothing")
}

fn once(runtime: &Runtime, guest: &Guest) -> Result<Life> {
    let patience = Duration::from_secs(guest.patience);
    let (document, made) = document(guest)?;
    let spec = SandboxSpec::from_json(document.to_string().as_bytes())?;
    let found = runtime.kvm()?.identify(&spec)?;
    if guest.pool > 0 {
        let kvm = runtime.kvm()?;
        kvm.keep_shells(&spec, guest.pool)?;
        ensure!(
            kvm.wait_for_shells(&spec, guest.pool, patience)?,
            "the pool stays empty: {:?}",
            kvm.shell_metrics(&spec)?
        );
    }

    let sandbox = runtime.create(&spec)?;
    sandbox.start()?;
    let ready = match spec.ready {
        Some(_) => sandbox.wait_ready(patience),
        None => Ok(()),
    };
    let page = match (&made.page, &guest.marker, &ready) {
        (Some((address, path)), Some(_), Ok(())) => http::get(*address, path, patience)?,
        _ => String::new(),
    };
    let check = |_: &dyn Sandbox| match &made.page {
        Some((address, path)) => http::get(*address, path, patience),
        None => Ok(String::new()),
    };
    let (sandbox, succession) = match (guest.clones, &ready) {
        (1.., Ok(())) => succession::succeed(runtime, &spec, sandbox, guest.clones, check)?,
        _ => (sandbox, String::new()),
    };
    let counted = counted(&*sandbox);
    let exit = match guest.http {
        // A server does not end by itself.
        Some(_) => sandbox.stop(Duration::ZERO)?,
        None => match sandbox.wait(Some(patience)) {
            Ok(exit) => exit,
            Err(_) => sandbox.stop(Duration::ZERO)?,
        },
    };
    sandbox.teardown().wait(patience)?;
    let console = String::from_utf8_lossy(&sandbox.console().read_from(0).bytes).into_owned();
    if let Err(error) = ready {
        anyhow::bail!("{}; it ended by {exit} and said:\n{console}", error.report());
    }
    Ok(Life {
        guest: name(&guest.image),
        said: format!(
            "{}\n{page}recognised as {:?}: {}; {counted}\n{succession}",
            console.trim_end(),
            found.family,
            found.evidence
        ),
        exit,
        timeline: sandbox.timeline(),
        interface: made.interface,
    })
}

/// What is made for a guest beside its spec.
#[derive(Default)]
struct Made {
    interface: Option<String>,
    /// Where its page is.
    page: Option<(SocketAddr, String)>,
}

/// The spec, and what is made for it. A guest with a marker is not asked for its page before it has printed that.
fn document(guest: &Guest) -> Result<(Value, Made)> {
    let mut unikernel = json!({"image": guest.image, "args": guest.arguments, "env": guest.environment});
    if let Some(initrd) = &guest.initrd {
        unikernel["initrd"] = json!(initrd);
    }
    if let Some(protocol) = &guest.protocol {
        unikernel["protocol"] = json!(protocol);
    }
    let mut document = json!({
        "guest": {"unikernel": unikernel},
        "memory": guest.memory << 20,
        "disks": guest.disks.iter().enumerate().map(disk).collect::<Vec<_>>(),
        "cpu": {"mask": guest.mask},
        "isolation": "in_process",
    });
    let mut made = Made::default();
    if let Some((id, host_address)) = guest.network.as_deref().and_then(|network| network.split_once('=')) {
        let name = format!("boot{}", std::process::id());
        document["networks"] = json!([{
            "id": id,
            "tap": {"create": {"name": name, "host_address": host_address}},
        }]);
        made.interface = Some(name);
    } else if let Some(page) = &guest.http {
        let addresses = network::unused_addresses()?;
        let name = format!("boot{}", std::process::id());
        document["networks"] = json!([{
            "id": guest.network.as_deref().unwrap_or("net"),
            "tap": {"create": {"name": name, "host_address": addresses.host().to_string()}},
            "guest_address": addresses.guest().to_string(),
            "gateway": addresses.host().address().to_string(),
        }]);
        let (port, path) = page.split_once('/').unwrap_or((page, ""));
        let address = SocketAddr::new(addresses.guest().address().into(), port.parse()?);
        let path = format!("/{path}");
        document["ready"] = json!({"http": {"address": address, "path": path}});
        made.page = Some((address, path));
        made.interface = Some(name);
    }
    if let Some(marker) = &guest.marker {
        document["ready"] = json!({"console": {"marker": marker}});
    }
    Ok((document, made))
}

fn disk((index, text): (usize, &String)) -> Value {
    match text.split_once('=') {
        Some((name, path)) => json!({"id": name, "path": path}),
        None => json!({"id": format!("disk{index}"), "path": text}),
    }
}

fn counted(sandbox: &dyn Sandbox) -> String {
    let Ok(stats) = sandbox.stats() else {
        return "ended before it could be asked what it uses".to_owned();
    };
    let touched = stats.memory.guest_touched.unwrap_or_default() >> 10;
    let exits = stats.cpu.exits.unwrap_or_default();
    format!("{touched} KiB of memory touched, {exits} exits")
}

/// Call to ready, and end of guest code to exit status, as the timeline has them.
fn measured(life: &Life) -> String {
    let took = |from, to| match life.timeline.between(from, to) {
        Some(took) => format!("{:.3} ms", took as f64 / 1e6),
        None => "-".to_owned(),
    };
    format!(
        "ready after {}, first entry after {}, exit status {} after the last instruction; {}",
        took(Phase::Called, Phase::Ready),
        took(Phase::Called, Phase::FirstEntry),
        took(Phase::Ended, Phase::ExitPublished),
        life.exit
    )
}

fn name(image: &Path) -> String {
    image
        .file_name()
        .unwrap_or(image.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// Whether a guest that ended so did what it was booted for.
pub fn is_well(guest: &Guest, exit: &Exit) -> bool {
    exit.is_success() || (guest.http.is_some() && *exit == Exit::Killed)
}
