//! Calls of an instance that stands by.

use std::time::Instant;

use anyhow::{Context, Result, anyhow};

use super::{milliseconds, single};
use crate::bench::Laboratory;
use crate::bench::cell::{Cell, Point};
use crate::bench::client::{self, Connection};

/// Calls that are not counted: the first ones find cold caches.
const WARMING_CALLS: usize = 3;
/// Pairs of calls for each round of the overhead, which is small against its noise.
const PAIRS: usize = 50;

/// The time of a call through the platform.
pub(super) async fn calls(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy(cell, |_| {})?;
    for _ in 0..WARMING_CALLS {
        client::get(laboratory.address, &function.path()).await?;
    }
    let mut samples = Vec::new();
    for _ in 0..laboratory.rounds {
        samples.push(milliseconds(client::get(laboratory.address, &function.path()).await?));
    }
    Ok(single(samples))
}

/// What the platform adds: the time of a call through it less that of a call of the instance itself, in turn, each on a
/// connection that is open already.
pub(super) async fn overhead(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy(cell, |spec| spec.scale.max = 1)?;
    let mut through = Connection::to(laboratory.address).await?;
    through.get(&function.path()).await?;
    let address = function.function()?.address().context("the instance has no address")?;
    let mut direct = Connection::to(address).await?;
    let mut samples = Vec::new();
    for round in 0..laboratory.rounds * PAIRS + WARMING_CALLS {
        let begin = Instant::now();
        through.get(&function.path()).await?;
        let middle = Instant::now();
        direct.get("/").await?;
        let end = Instant::now();
        if round >= WARMING_CALLS {
            samples.push(milliseconds(middle - begin) - milliseconds(end - middle));
        }
    }
    Ok(single(samples))
}

/// What a cold call takes longer than the warm one that follows it, once for each round.
pub(super) async fn against_cold(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let mut samples = Vec::new();
    for _ in 0..laboratory.rounds {
        // Each round has a function of its own, whose template is there before: it is no part of a start.
        let function = laboratory.deploy(cell, |spec| spec.scale.max = 2)?;
        function.boot(1).await?;
        let busy = function.function()?.pool().acquire().await;
        let busy = busy.map_err(|error| anyhow!("{error}"))?;
        let cold = client::get(laboratory.address, &function.path()).await?;
        let warm = client::get(laboratory.address, &function.path()).await?;
        drop(busy);
        samples.push(milliseconds(cold) - milliseconds(warm));
    }
    Ok(single(samples))
}
