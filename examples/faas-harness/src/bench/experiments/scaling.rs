//! Many instances at a time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{ascending, milliseconds};
use crate::bench::cell::{Cell, Point};
use crate::bench::{Deployed, Laboratory, client};
use crate::output::complain;

/// So many requests at a time, and then hundreds: the thesis has 1 to 60, the edge paper 10 to 100, the urunc paper up to
/// 500.
const SCALES: [u32; 17] = [1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 125, 200, 300, 500];

/// The numbers of requests that are tried, up to the largest that is wanted.
pub(super) fn scales(largest: u32) -> impl Iterator<Item = u32> {
    SCALES.into_iter().take_while(move |scale| *scale <= largest)
}

/// Sends `count` requests at once and gives what became of each.
pub(super) async fn at_once(
    laboratory: &Laboratory,
    function: &Deployed<'_>,
    count: u32,
) -> Result<Vec<Result<Duration>>> {
    let begin = Arc::new(Barrier::new(count as usize));
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let (begin, path, address) = (Arc::clone(&begin), function.path(), laboratory.address);
        clients.spawn(async move {
            begin.wait().await;
            client::get(address, &path).await
        });
    }
    let mut outcomes = Vec::with_capacity(count as usize);
    while let Some(outcome) = clients.join_next().await {
        outcomes.push(outcome?);
    }
    Ok(outcomes)
}

/// Sends `count` requests at once, all of which must be answered; gives the time of each.
async fn answered_at_once(laboratory: &Laboratory, function: &Deployed<'_>, count: u32) -> Result<Vec<f64>> {
    let times = at_once(laboratory, function, count).await?;
    times.into_iter().map(|time| time.map(milliseconds)).collect()
}

/// The time of a request for each of so many at a time, each of which gets an instance of its own.
pub(super) async fn burst(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy_for_starts(cell).await?;
    ascending(scales(laboratory.instances), async |count| {
        let samples = answered_at_once(laboratory, &function, count).await?;
        function.function()?.pool().settled().await;
        Ok(samples)
    })
    .await
}

/// The time from the SDK's call to a ready instance, for each of so many at a time.
pub(super) async fn initialisation(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy_for_starts(cell).await?;
    ascending(scales(laboratory.instances), async |count| {
        let deployed = function.function()?;
        deployed.metrics().forget_times();
        answered_at_once(laboratory, &function, count).await?;
        deployed.pool().settled().await;
        let times = deployed.metrics().initialisations();
        let started = times.len();
        ensure!(
            started == count as usize,
            "{started} instances were started for {count} requests"
        );
        Ok(times.into_iter().map(milliseconds).collect())
    })
    .await
}

/// The time of a request for each of so many at a time, for which as many instances stand by.
pub(super) async fn warm_burst(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy(cell, |_| {})?;
    let mut running = 0;
    ascending(scales(laboratory.instances), async |count| {
        function.boot(count - running).await?;
        running = count;
        answered_at_once(laboratory, &function, count).await
    })
    .await
}

/// How many of a hundred requests are answered, of so many at a time whose instances all stay.
pub(super) async fn answered(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    ascending(scales(laboratory.instances), async |count| {
        let function = laboratory.deploy(cell, |spec| spec.scale.max = count)?;
        let outcomes = at_once(laboratory, &function, count).await?;
        let good = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        match outcomes.into_iter().find_map(Result::err) {
            Some(error) if good == 0 => return Err(error),
            Some(error) => complain(format_args!(
                "{cell}: {} of {count} failed: {error:#}",
                count as usize - good
            )),
            None => {}
        }
        Ok(vec![100.0 * good as f64 / f64::from(count)])
    })
    .await
}
