//! Starts of instances.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{milliseconds, single};
use crate::bench::cell::{Cell, Point};
use crate::bench::processor_time::processor_time;
use crate::bench::{Laboratory, client};

/// Bursts begin with so many requests, and grow by as many.
const BURST_STEP: usize = 10;

/// The time of a request that has to wait for its instance, once for each round.
pub(super) async fn cold(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy(cell, |spec| spec.scale.reuse = false)?;
    let mut samples = Vec::new();
    for _ in 0..laboratory.rounds {
        samples.push(milliseconds(client::get(laboratory.address, &function.path()).await?));
        function.function()?.pool().settled().await;
    }
    Ok(single(samples))
}

/// The same for so many requests at a time, each of which gets an instance of its own.
pub(super) async fn burst(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy(cell, |spec| spec.scale.reuse = false)?;
    let mut series = Vec::new();
    for count in (BURST_STEP..=laboratory.instances as usize).step_by(BURST_STEP) {
        let begin = Arc::new(Barrier::new(count));
        let mut clients = JoinSet::new();
        for _ in 0..count {
            let (begin, path, address) = (Arc::clone(&begin), function.path(), laboratory.address);
            clients.spawn(async move {
                begin.wait().await;
                client::get(address, &path).await
            });
        }
        let mut samples = Vec::with_capacity(count);
        while let Some(time) = clients.join_next().await {
            samples.push(milliseconds(time??));
        }
        function.function()?.pool().settled().await;
        series.push(Point {
            x: u32::try_from(count)?,
            samples,
        });
    }
    Ok(series)
}

/// Processor time of a cold start and its end. Where a clock counts instructions it is their number.
pub(super) async fn cost(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy(cell, |spec| spec.scale.reuse = false)?;
    let mut samples = Vec::new();
    for _ in 0..laboratory.rounds {
        let before = processor_time()?;
        client::get(laboratory.address, &function.path()).await?;
        function.function()?.pool().settled().await;
        samples.push(milliseconds(processor_time()?.saturating_sub(before)));
    }
    Ok(single(samples))
}
