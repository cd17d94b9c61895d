//! Many clients of one instance, which they call directly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::single;
use crate::bench::cell::{Cell, Point};
use crate::bench::client::{self, Connection};
use crate::bench::{Deployed, Laboratory};

/// Requests of one measurement, as in the edge paper.
const REQUESTS: usize = 1 << 15;
/// The most clients, which grow by powers of two from one.
const MOST_CLIENTS: u32 = 4096;
/// Clients that fetch the file at the same time, as in the edge paper.
const FILE_CLIENTS: usize = 4;
/// Fetches of the file for each client and round.
const FETCHES: usize = 5;

/// Requests a second, by the load generator `hey`.
pub(super) async fn requests(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy(cell, |spec| spec.scale.max = 1)?;
    let address = instance(laboratory, &function).await?;
    let mut series = Vec::new();
    let mut clients = 1;
    while clients <= MOST_CLIENTS {
        series.push(Point {
            x: clients,
            samples: vec![
                hey(address, clients)
                    .await
                    .with_context(|| format!("with {clients} clients"))?,
            ],
        });
        clients *= 2;
    }
    Ok(series)
}

/// Runs `hey` and reads its summary.
async fn hey(address: SocketAddr, clients: u32) -> Result<f64> {
    let output = Command::new("hey")
        .args(["-n", &REQUESTS.to_string(), "-c", &clients.to_string()])
        .arg(format!("http://{address}/"))
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run hey, of Debian's package hey")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "hey failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let good = text.lines().find_map(|line| line.trim().strip_prefix("[200]"));
    let good: usize = good
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    // Each client makes the same number of requests, so that some are left over.
    ensure!(
        good + clients as usize > REQUESTS,
        "only {good} of {REQUESTS} requests were answered"
    );
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    rate.context("hey tells no rate")?
        .trim()
        .parse()
        .context("hey's rate is no number")
}

/// Bytes a second of a large file.
pub(super) async fn throughput(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let function = laboratory.deploy(cell, |spec| spec.scale.max = 1)?;
    let address = instance(laboratory, &function).await?;
    let mut samples = Vec::new();
    for _ in 0..laboratory.rounds {
        let left = Arc::new(AtomicUsize::new(FILE_CLIENTS * FETCHES));
        let begin = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..FILE_CLIENTS {
            let left = Arc::clone(&left);
            clients.spawn(async move { fetch(address, &left).await });
        }
        let mut bytes = 0;
        while let Some(fetched) = clients.join_next().await {
            bytes += fetched??;
        }
        samples.push(bytes as f64 / f64::from(1 << 20) / begin.elapsed().as_secs_f64());
    }
    Ok(single(samples))
}

/// Fetches the file as long as fetches are left.
async fn fetch(address: SocketAddr, left: &AtomicUsize) -> Result<u64> {
    let mut connection = Connection::to(address).await?;
    let mut bytes = 0;
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
        .is_ok()
    {
        bytes += connection.get("/").await?;
    }
    Ok(bytes)
}

/// The address of an instance that has answered a first request.
async fn instance(laboratory: &Laboratory, function: &Deployed<'_>) -> Result<SocketAddr> {
    client::get(laboratory.address, &function.path()).await?;
    function.function()?.address().context("the instance has no address")
}
