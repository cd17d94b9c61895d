//! Instances that nobody calls.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::{ascending, single};
use crate::bench::Laboratory;
use crate::bench::cell::{Cell, Point};
use crate::bench::meter::Meter;
use crate::bench::statistics::Statistics;

/// Idle instances among which the cost of one is divided: one alone costs too little to be measured.
const IDLE_INSTANCES: u32 = 10;
/// How long instances are left alone before they are measured, as in the edge paper.
const SETTLING: Duration = Duration::from_secs(15);
/// How long they are measured.
const WATCHING: Duration = Duration::from_secs(1);
/// How often that is done at least: now and then a second has something else in it.
const SECONDS_AT_LEAST: usize = 5;
/// Memory is looked at after each so many instances.
const MEMORY_STEP: u32 = 10;

/// What one idle instance costs within a second, in thousands of what `meter` counts (nanoseconds or instructions), without
/// what the platform itself does.
pub(super) async fn cost(laboratory: &Laboratory, cell: &Cell, meter: Meter<'_>) -> Result<Vec<Point>> {
    let count = IDLE_INSTANCES.min(laboratory.instances);
    let function = laboratory.deploy(cell, |_| {})?;
    // What the last measurement left behind must not count as the platform's own.
    laboratory.platform.given_back().await;
    sleep(SETTLING).await;
    let platform = Statistics::of(&watch(meter, laboratory.rounds).await?).median;
    function.boot(count).await?;
    sleep(SETTLING).await;
    let inhabited = watch(meter, laboratory.rounds).await?;
    let samples = inhabited
        .iter()
        .map(|count_of_all| (count_of_all - platform) / f64::from(count))
        .collect();
    Ok(single(samples))
}

/// What is counted in each of some seconds, in thousands.
async fn watch(meter: Meter<'_>, seconds: usize) -> Result<Vec<f64>> {
    let mut samples = Vec::new();
    for _ in 0..seconds.max(SECONDS_AT_LEAST) {
        let before = meter.now()?;
        // Nothing happens that could be waited for: that is what is measured.
        sleep(WATCHING).await;
        samples.push((meter.now()? - before) as f64 / 1e3);
    }
    Ok(samples)
}

/// Memory that is no longer available on this host, in MiB, for a growing number of idle instances.
pub(super) async fn memory(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy(cell, |_| {})?;
    let before = available()?;
    let mut running = 0;
    let steps = (0..laboratory.instances).step_by(MEMORY_STEP as usize);
    let counts = steps.map(|count| (count + MEMORY_STEP).min(laboratory.instances));
    ascending(counts, async |count| {
        function.boot(count - running).await?;
        running = count;
        Ok(vec![before - available()?])
    })
    .await
}

/// Memory that programs can still have, in MiB, as the kernel estimates it.
fn available() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes: f64 = line
        .context("/proc/meminfo has no MemAvailable")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(kibibytes / 1024.0)
}
