//! Many instances at a time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::milliseconds;
use crate::bench::cell::{Cell, Point};
use crate::bench::{Deployed, Laboratory, client};

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

/// The time of a request for each of so many at a time, each of which gets an instance of its own.
pub(super) async fn burst(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy_for_starts(cell).await?;
    let mut series = Vec::new();
    for count in scales(laboratory.instances) {
        let times = at_once(laboratory, &function, count).await?;
        let samples = times
            .into_iter()
            .map(|time| time.map(milliseconds))
            .collect::<Result<_>>()?;
        function.function()?.pool().settled().await;
        series.push(Point { x: count, samples });
    }
    Ok(series)
}

/// The time from the SDK's call to a ready instance, for each of so many at a time.
pub(super) async fn initialisation(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy_for_starts(cell).await?;
    let mut series = Vec::new();
    for count in scales(laboratory.instances) {
        let deployed = function.function()?;
        deployed.metrics().forget_times();
        for outcome in at_once(laboratory, &function, count).await? {
            outcome?;
        }
        deployed.pool().settled().await;
        let samples: Vec<f64> = deployed
            .metrics()
            .initialisations()
            .into_iter()
            .map(milliseconds)
            .collect();
        ensure!(
            samples.len() == count as usize,
            "{} instances were started for {count} requests",
            samples.len()
        );
        series.push(Point { x: count, samples });
    }
    Ok(series)
}

/// The time of a request for each of so many at a time, for which as many instances stand by.
pub(super) async fn warm_burst(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy(cell, |_| {})?;
    let (mut series, mut running) = (Vec::new(), 0);
    for count in scales(laboratory.instances) {
        let booted = function.function()?.pool().pre_boot(count - running).await;
        let booted = booted.map_err(|error| anyhow!("{error}"))?;
        ensure!(
            booted == count - running,
            "{booted} of {} instances were started",
            count - running
        );
        running = count;
        let times = at_once(laboratory, &function, count).await?;
        let samples = times
            .into_iter()
            .map(|time| time.map(milliseconds))
            .collect::<Result<_>>()?;
        series.push(Point { x: count, samples });
    }
    Ok(series)
}

/// How many of a hundred requests are answered, of so many at a time whose instances all stay.
pub(super) async fn answered(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let mut series = Vec::new();
    for count in scales(laboratory.instances) {
        let function = laboratory.deploy(cell, |spec| spec.scale.max = count)?;
        let outcomes = at_once(laboratory, &function, count).await?;
        let good = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        if good == 0
            && let Some(Err(error)) = outcomes.into_iter().next()
        {
            return Err(error);
        }
        series.push(Point {
            x: count,
            samples: vec![100.0 * good as f64 / f64::from(count)],
        });
    }
    Ok(series)
}
