//! Memory that a micro-VM costs its host beyond the pages that its guest touched.

use std::fs;

use anyhow::{Context, Result};
use sandbox::spec::Isolation;
use sandbox::{Runtime, SandboxSpec};

use crate::cold_start::{self, PATIENCE};
use crate::report::{Report, Unit};

const SANDBOXES: u64 = 20;

/// Starts guests that halt, and compares what this process holds privately with what the guests touched.
pub(crate) fn beyond_guest(report: &mut Report) -> Result<()> {
    let image = cold_start::Image::write("endings", sandbox_guests::ENDINGS)?;
    let mut spec = cold_start::bare_spec(image.path());
    if let sandbox::spec::GuestSpec::Unikernel(guest) = &mut spec.guest {
        guest.args.push("end=halt".to_owned());
    }
    let runtime = Runtime::new();
    // The first one pays for what all share.
    let first = runtime.create(&spec)?;
    first.start()?;
    let before = Usage::now()?.private;
    let mut sandboxes = Vec::new();
    let mut touched = 0;
    for _ in 0..SANDBOXES {
        let sandbox = runtime.create(&spec)?;
        sandbox.start()?;
        sandboxes.push(sandbox);
    }
    for sandbox in &sandboxes {
        touched += sandbox
            .stats()?
            .memory
            .guest_touched
            .context("the backend does not tell")?;
    }
    let beyond = Usage::now()?.private.saturating_sub(before).saturating_sub(touched) / SANDBOXES;
    report.add("sdk/halt/in_process", "private_bytes", Unit::Bytes, beyond as f64, None);
    for sandbox in sandboxes.into_iter().chain([first]) {
        sandbox.teardown().wait(PATIENCE)?;
    }
    of_workers(spec, &runtime, report)
}

/// What a worker holds privately beside what its guest touched, while there are others like it.
fn of_workers(mut spec: SandboxSpec, runtime: &Runtime, report: &mut Report) -> Result<()> {
    spec.isolation = Isolation::Worker;
    let mut sandboxes = Vec::new();
    for _ in 0..SANDBOXES {
        let sandbox = runtime.create(&spec)?;
        sandbox.start()?;
        sandboxes.push(sandbox);
    }
    for sandbox in &sandboxes {
        let memory = sandbox.stats()?.memory;
        let private = memory.private.context("the kernel does not tell")?;
        let beyond = private.saturating_sub(memory.guest_touched.unwrap_or_default());
        report.add("sdk/halt/worker", "private_bytes", Unit::Bytes, beyond as f64, None);
    }
    for sandbox in sandboxes {
        sandbox.teardown().wait(PATIENCE)?;
    }
    Ok(())
}

/// Memory of this process, in bytes.
pub(crate) struct Usage {
    /// What it shares with nobody.
    pub(crate) private: u64,
    /// The same, and its share of the rest.
    pub(crate) proportional: u64,
}

impl Usage {
    pub(crate) fn now() -> Result<Self> {
        let rollup = fs::read_to_string("/proc/self/smaps_rollup")?;
        let sum = |prefix: &str| -> Result<u64> {
            let lines = rollup.lines().filter(|line| line.starts_with(prefix));
            let kibibytes = lines.map(|line| {
                let value = line.split_whitespace().nth(1).context("a line without a value")?;
                Ok(value.parse::<u64>()?)
            });
            Ok(kibibytes.sum::<Result<u64>>()? * 1024)
        };
        Ok(Self {
            private: sum("Private_")?,
            proportional: sum("Pss:")?,
        })
    }
}
