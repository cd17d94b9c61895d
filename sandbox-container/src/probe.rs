//! What a runtime can do on this host, found out by trying.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use sandbox_core::{Capability, Error, ErrorKind, Probe, Result};

use crate::cgroup::Mode;
use crate::error::call;
use crate::host::Host;
use crate::reaper::{Call, Status};
use crate::runtime::{self, Kind, OciRuntime};

/// A runtime says its version at once, or is none.
const SAYING: Duration = Duration::from_secs(10);
/// A platform that does not run anything in this time does not work.
const TRYING: Duration = Duration::from_secs(15);
/// Longest answer that is read.
const ANSWER: u64 = 64 << 10;

/// Finds the runtime `name` and asks it who it is.
///
/// # Errors
/// No such program, one that is no runtime, or that does not answer.
pub fn identify(host: &Host, name: &str) -> Result<OciRuntime> {
    let program = runtime::find(name)?;
    let (status, output) = ask(host, vec![program.clone(), "--version".into()], SAYING)?;
    match status {
        Status::Code(0) => runtime::identify(&program, &output),
        _ => {
            let context = format!("{} does not say its version; it is no OCI runtime", program.display());
            Err(Error::new(ErrorKind::Unsupported, context).with_field(runtime::FIELD))
        }
    }
}

/// Runs a command, and gives what it says.
///
/// # Errors
/// It cannot be started, or has not ended after `limit`.
pub fn ask(host: &Host, command: Vec<PathBuf>, limit: Duration) -> Result<(Status, String)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(call("cannot make a pipe"))?;
    let request = Call {
        command,
        directory: PathBuf::from("/"),
        cgroups: Vec::new(),
    };
    let status = host
        .reaper()?
        .run(&request, &[host.null.as_fd(), theirs.as_fd(), theirs.as_fd()], limit)?;
    drop(theirs);
    // Who left a process behind that holds the pipe gets no more of our time.
    rustix::io::ioctl_fionbio(&ours, true).map_err(call("cannot use a pipe"))?;
    let mut output = Vec::new();
    let _ = std::fs::File::from(ours).take(ANSWER).read_to_end(&mut output);
    Ok((status, String::from_utf8_lossy(&output).into_owned()))
}

/// What is known to keep a runtime from working on a host like this one.
pub fn obstacle(host: &Host, kind: Kind) -> Option<String> {
    let mode = host.hierarchy.mode;
    if kind == Kind::Crun && matches!(mode, Mode::Hybrid) {
        return Some(
            "crun does not work with cgroups in hybrid mode; start the host with cgroups of version 2 alone \
             (systemd.unified_cgroup_hierarchy=1)"
                .to_owned(),
        );
    }
    if kind == Kind::Runsc && host.is_rootless {
        // It would say so itself, when a container is made.
        return Some("runsc makes containers for root alone: its rootless mode knows no create".to_owned());
    }
    if kind != Kind::Runsc && !host.is_rootless && mode == Mode::None {
        return Some("no cgroups are mounted, which runc and crun need".to_owned());
    }
    None
}

/// Whether the runtime can save containers, and why not.
pub fn saving(host: &Host, runtime: &OciRuntime) -> std::result::Result<(), String> {
    match runtime.kind {
        Kind::Runsc => Ok(()),
        Kind::Crun => match features(host, runtime) {
            Some(features) if features.contains("+criu") => criu_works(host),
            _ => Err("containers cannot be saved: this crun was built without CRIU".to_owned()),
        },
        Kind::Runc if host.is_rootless => Err("containers cannot be saved without root's rights".to_owned()),
        Kind::Runc => criu_works(host),
    }
}

fn criu_works(host: &Host) -> std::result::Result<(), String> {
    let Some(criu) = runtime::on_path("criu") else {
        return Err("containers cannot be saved: there is no criu on PATH".to_owned());
    };
    // CRIU 3.17 holds a container's network still by it, and says so only half-way through.
    if runtime::on_path("iptables-restore").is_none() {
        return Err("containers cannot be saved: criu needs iptables-restore, which is not on PATH".to_owned());
    }
    match ask(host, vec![criu, "check".into()], TRYING) {
        Ok((Status::Code(0), _)) => Ok(()),
        Ok((_, output)) => {
            let first = output.lines().find(|line| line.contains("Error")).unwrap_or_default();
            Err(format!(
                "containers cannot be saved: criu does not work on this host: {first}"
            ))
        }
        Err(error) => Err(format!("containers cannot be saved: {}", error.report())),
    }
}

/// Everything that there is to say.
pub fn probe(host: &Host, runtime: &OciRuntime, capabilities: BTreeSet<Capability>) -> Probe {
    let mut probe = Probe {
        usable: true,
        capabilities,
        ..Probe::default()
    };
    let mut fact = |name: &str, value: String| probe.facts.push((name.to_owned(), value));
    fact("program", runtime.program.display().to_string());
    fact("version", runtime.version.clone());
    fact("cgroups", host.hierarchy.mode.name().to_owned());
    fact("rootless", host.is_rootless.to_string());
    if let Some(features) = features(host, runtime) {
        fact("features", features);
    }
    if let Some(obstacle) = obstacle(host, runtime.kind) {
        probe.usable = false;
        probe.reasons.push(obstacle);
    }
    if !host.has_cgroups() {
        probe.reasons.push(
            "limits of processor time and memory cannot be held: the right to make cgroups is missing".to_owned(),
        );
    }
    if runtime.kind == Kind::Runsc && probe.usable {
        match platform_works(host, runtime) {
            Ok(()) => {}
            Err(reason) => {
                probe.usable = false;
                probe.reasons.push(reason);
            }
        }
    }
    if !probe.usable {
        probe.capabilities.clear();
    }
    probe
}

/// What the runtime says that it was built with.
fn features(host: &Host, runtime: &OciRuntime) -> Option<String> {
    match runtime.kind {
        Kind::Crun => {
            let (_, output) = ask(host, vec![runtime.program.clone(), "--version".into()], SAYING).ok()?;
            let line = output.lines().find(|line| line.starts_with('+'))?;
            Some(line.to_ascii_lowercase())
        }
        Kind::Runc => {
            let (_, output) = ask(host, vec![runtime.program.clone(), "--version".into()], SAYING).ok()?;
            let line = output.lines().find(|line| line.starts_with("libseccomp"))?;
            Some(line.to_owned())
        }
        Kind::Runsc => {
            let platform = host.options.runsc_platform.clone();
            Some(format!(
                "platform {}",
                platform.as_deref().unwrap_or("of its own choice")
            ))
        }
    }
}

/// Runs `true` on runsc's platform: some hang where the host does not suit them.
fn platform_works(host: &Host, runtime: &OciRuntime) -> std::result::Result<(), String> {
    let name = host.options.runsc_platform.as_deref();
    let platform = name.map(|name| PathBuf::from(format!("--platform={name}")));
    let mut command = vec![runtime.program.clone()];
    command.extend(platform);
    command.extend(["--ignore-cgroups", "--network=none"].map(PathBuf::from));
    command.extend(["do", "/bin/true"].map(PathBuf::from));
    let name = name.unwrap_or("default");
    match ask(host, command, TRYING) {
        Ok((Status::Code(0), _)) => Ok(()),
        Ok((_, output)) => {
            let last = output
                .lines()
                .rev()
                .find(|line| !line.trim().is_empty())
                .unwrap_or_default();
            Err(format!("runsc's {name} platform does not work here: {last}"))
        }
        Err(error) if error.kind() == ErrorKind::Timeout => Err(format!(
            "runsc's {name} platform hangs on this host; tell it another one, such as ptrace"
        )),
        Err(error) => Err(error.report()),
    }
}
