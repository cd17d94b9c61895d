//! Many clients of one instance, which they call directly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::{ascending, single};
use crate::bench::cell::{Cell, Point};
use crate::bench::client::{self, Connection};
use crate::bench::{Deployed, Laboratory};

/// Clients that fetch the file at the same time, as in the edge paper.
const FILE_CLIENTS: usize = 4;
/// Fetches of the file for each client and round.
const FETCHES: usize = 5;

/// A program of Debian's that makes requests as fast as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Generator {
    /// Makes a number of requests.
    Hey,
    /// Makes requests for a time.
    Wrk,
}

/// Requests a second, for a growing number of clients.
pub(super) async fn requests(laboratory: &Laboratory, cell: &Cell, generator: Generator) -> Result<Vec<Point>> {
    let function = laboratory.deploy(cell, |spec| spec.scale.max = 1)?;
    let address = instance(laboratory, &function).await?;
    let clients = (0..u32::BITS).map(|power| 1 << power);
    let clients = clients.take_while(|clients| *clients <= laboratory.clients);
    ascending(clients, async |clients| {
        let rate = match generator {
            Generator::Hey => hey(address, clients, laboratory.requests).await,
            Generator::Wrk => wrk(address, clients, laboratory.seconds).await,
        };
        Ok(vec![rate?])
    })
    .await
}

/// Runs `hey` and reads its summary.
async fn hey(address: SocketAddr, clients: u32, requests: usize) -> Result<f64> {
    let requests = requests.max(clients as usize);
    let mut command = Command::new("hey");
    command.args(["-n", &requests.to_string(), "-c", &clients.to_string()]);
    let text = output(&mut command, address).await?;
    let good = text.lines().find_map(|line| line.trim().strip_prefix("[200]"));
    let good: usize = good
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    // Each client makes the same number of requests, so that some are left over.
    ensure!(
        good + clients as usize > requests,
        "only {good} of {requests} requests were answered"
    );
    after(&text, "Requests/sec:")
}

/// Runs `wrk` and reads its summary.
async fn wrk(address: SocketAddr, clients: u32, seconds: u32) -> Result<f64> {
    let threads = clients.min(2).to_string();
    let mut command = Command::new("wrk");
    command.args(["-t", &threads, "-c", &clients.to_string(), "-d", &format!("{seconds}s")]);
    let text = output(&mut command, address).await?;
    if let Some(errors) = text.lines().map(str::trim).find(|line| is_complaint(line)) {
        bail!("{errors}");
    }
    after(&text, "Requests/sec:")
}

fn is_complaint(line: &str) -> bool {
    line.starts_with("Socket errors:") || line.starts_with("Non-2xx")
}

async fn output(command: &mut Command, address: SocketAddr) -> Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command
        .arg(format!("http://{address}/"))
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.with_context(|| format!("cannot run {name}, of Debian's package of this name"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The number behind `label` on a line of its own.
fn after(text: &str, label: &str) -> Result<f64> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(label));
    let value = value.with_context(|| format!("no {label} in {text}"))?;
    value.trim().parse().with_context(|| format!("{label} is no number"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summaries_of_both_generators_are_understood() {
        let hey = "Summary:\n  Total:\t0.5 secs\n  Requests/sec:\t22934.1234\n";
        assert_eq!(after(hey, "Requests/sec:").unwrap(), 22934.1234);
        let wrk = "  79 requests in 1.00s, 9KB read\nRequests/sec:     78.90\nTransfer/sec:      9.1KB\n";
        assert_eq!(after(wrk, "Requests/sec:").unwrap(), 78.90);
        assert!(is_complaint("Socket errors: connect 0, read 3, write 0, timeout 0"));
        assert!(after("", "Requests/sec:").is_err());
    }
}
