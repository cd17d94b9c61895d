//! A guest that is saved when it is ready, and ended; clones of it take its place, one after the other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sandbox::snapshot::{AfterSnapshot, DiskOverride, NetworkOverride, Overrides};
use sandbox::{Phase, RestoreOptions, Restored, Runtime, Sandbox, SandboxSpec, SnapshotOptions};

/// Runs `count` clones of `original`, which is made from `spec`. Each has to pass `check`; the last one is given back,
/// running, with what happened.
pub fn succeed(
    runtime: &Runtime,
    spec: &SandboxSpec,
    original: Box<dyn Sandbox>,
    count: u32,
    check: impl Fn(&dyn Sandbox) -> Result<String>,
) -> Result<(Box<dyn Sandbox>, String)> {
    let folder = std::env::temp_dir().join(format!("sandbox-succession-{}", std::process::id()));
    let options = SnapshotOptions {
        after: AfterSnapshot::Stop,
        ..SnapshotOptions::default()
    };
    let began = Instant::now();
    original.snapshot(&folder, &options)?;
    let mut told = format!("saved in {:?}", began.elapsed());
    let clones = clones(runtime, spec, original, &folder, count, check);
    std::fs::remove_dir_all(&folder)?;
    let (last, clones) = clones?;
    told.push_str(&clones);
    Ok((last, told))
}

fn clones(
    runtime: &Runtime,
    spec: &SandboxSpec,
    original: Box<dyn Sandbox>,
    folder: &std::path::Path,
    count: u32,
    check: impl Fn(&dyn Sandbox) -> Result<String>,
) -> Result<(Box<dyn Sandbox>, String)> {
    let options = RestoreOptions {
        overrides: same_places(spec),
        start: true,
        ..RestoreOptions::default()
    };
    let mut told = String::new();
    let mut last = original;
    for number in 1..=count {
        // Its tap is the next one's.
        last.teardown().wait(Duration::from_secs(60))?;
        let Restored { sandbox, uniqueness } = runtime.restore(folder, &options)?;
        let began = Instant::now();
        let answer = check(&*sandbox).with_context(|| format!("clone {number}"))?;
        let took = began.elapsed();
        let entry = sandbox.timeline().between(Phase::Called, Phase::FirstEntry);
        told.push_str(&format!(
            "\nclone {number}: first entry after {:.3} ms, answer {took:?} later: {answer:?}; {uniqueness:?}",
            entry.unwrap_or_default() as f64 / 1e6
        ));
        last = sandbox;
    }
    Ok((last, told))
}

/// What the original had, for a clone in its place; what a clone writes to a disk it keeps to itself.
fn same_places(spec: &SandboxSpec) -> Overrides {
    let disk = |disk: &sandbox::spec::DiskSpec| {
        let own = DiskOverride {
            private: !disk.read_only,
            ..DiskOverride::default()
        };
        (disk.id.clone(), own)
    };
    let network = |network: &sandbox::spec::NetworkSpec| {
        let same = NetworkOverride {
            tap: Some(network.tap.clone()),
            ..NetworkOverride::default()
        };
        (network.id.clone(), same)
    };
    Overrides {
        disks: spec.disks.iter().map(disk).collect(),
        networks: spec.networks.iter().map(network).collect(),
        ..Overrides::default()
    }
}
