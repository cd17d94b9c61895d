//! A stock Linux kernel, up to its init and to its power-off.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use sandbox::{Runtime, SandboxSpec};
use serde_json::json;

use crate::report::Life;

/// A kernel boots in a fraction of a second; inside an emulated machine it takes several.
const PATIENCE: Duration = Duration::from_secs(120);

/// Says little, ends on a panic, and does not look for hardware that a micro-VM has not.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=1 reboot=k 8250.nr_uarts=1 initcall_blacklist=i8042_init";

/// What is booted, and how it is known to be up.
#[derive(Debug, PartialEq, Eq)]
pub struct LinuxFiles {
    /// bzImage or uncompressed ELF.
    pub kernel: PathBuf,
    /// Initial RAM disk, whose init powers off.
    pub initrd: PathBuf,
    /// What its init prints.
    pub marker: String,
    /// CPU features to hide from it.
    pub mask: Vec<String>,
}

/// The whole life of one Linux.
pub fn run(runtime: &Runtime, files: &LinuxFiles) -> Result<Life> {
    let spec = json!({
        "guest": {"linux": {"kernel": files.kernel, "initrd": files.initrd, "cmdline": COMMAND_LINE}},
        "memory": 128 << 20,
        "cpu": {"mask": files.mask},
        "ready": {"console": {"marker": files.marker}},
        "isolation": "in_process",
    });
    let spec = SandboxSpec::from_json(spec.to_string().as_bytes())?;

    // A platform has its kernels read ahead of time: every sandbox made afterwards maps what is in memory already.
    runtime.kvm()?.preload(&spec)?;

    let sandbox = runtime.create(&spec)?;
    sandbox.start()?;
    sandbox.wait_ready(PATIENCE)?;

    // The guest goes on by itself, until it powers off.
    let exit = sandbox.wait(Some(PATIENCE))?;
    sandbox.teardown().wait(PATIENCE)?;

    Ok(Life {
        guest: "linux".to_owned(),
        // What a guest wrote on its console stays readable after its end.
        said: String::from_utf8_lossy(&sandbox.console().read_from(0).bytes)
            .trim()
            .to_owned(),
        exit,
        timeline: sandbox.timeline(),
        interface: None,
    })
}
