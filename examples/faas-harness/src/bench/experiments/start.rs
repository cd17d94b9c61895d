//! Starts of instances.

use anyhow::Result;

use super::{milliseconds, single};
use crate::bench::cell::{Cell, Point};
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

/// Processor time of a cold start and its end. Where a clock counts instructions it is their number.
pub(super) async fn cost(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy_for_starts(cell).await?;
    let clock = laboratory.processor_clock(cell)?;
    let mut samples = Vec::new();
    for _ in 0..laboratory.rounds {
        function.stood_by().await?;
        let before = clock.now()?;
        client::get(laboratory.address, &function.path()).await?;
        function.function()?.pool().settled().await;
        samples.push(milliseconds(clock.now()?.saturating_sub(before)));
    }
    Ok(single(samples))
}
