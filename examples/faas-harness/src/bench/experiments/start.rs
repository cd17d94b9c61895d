//! Starts of instances.

use anyhow::Result;

use super::{milliseconds, single};
use crate::bench::cell::{Cell, Point};
use crate::bench::meter::Meter;
use crate::bench::{Laboratory, client};

/// The time of a request that has to wait for its instance, once for each round.
pub(super) async fn cold(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy_for_starts(cell).await?;
    let mut samples = Vec::new();
    for _ in 0..laboratory.rounds {
        function.stood_by().await?;
        samples.push(milliseconds(client::get(laboratory.address, &function.path()).await?));
        function.function()?.pool().settled().await;
    }
    Ok(single(samples))
}

/// What a cold start, a call and the end cost, in millions of what `meter` counts: nanoseconds or instructions. What stands
/// by is made again within that.
pub(super) async fn cost(laboratory: &Laboratory, cell: &Cell, meter: Meter<'_>) -> Result<Vec<Point>> {
    let function = laboratory.deploy_for_starts(cell).await?;
    let mut samples = Vec::new();
    laboratory.platform.given_back().await;
    for _ in 0..laboratory.rounds {
        let before = meter.now()?;
        client::get(laboratory.address, &function.path()).await?;
        function.function()?.pool().settled().await;
        laboratory.platform.given_back().await;
        function.stood_by().await?;
        samples.push((meter.now()? - before) as f64 / 1e6);
    }
    Ok(single(samples))
}
