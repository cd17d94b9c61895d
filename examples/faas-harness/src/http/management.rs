//! What the platform says of itself, and the calls of the papers' harnesses.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hyper::StatusCode;
use serde::Serialize;

use super::reply::{self, Reply};
use crate::metrics::{Exposition, Summaries};
use crate::platform::Platform;

/// The page for people.
pub const PAGE: &str = include_str!("page.html");

/// One function in `/stats`.
#[derive(Serialize)]
struct FunctionStats {
    /// Instances that serve or stand by.
    running: u32,
    busy: u32,
    idle: u32,
    starting: u32,
    /// Made ahead of time, and not running.
    standing_by: usize,
    waiting: usize,
    invocations: u64,
    #[serde(flatten)]
    times: Summaries,
}

/// `/stats`: instances, and how long they took to start and to answer, in milliseconds.
pub fn stats(platform: &Platform) -> Reply {
    #[derive(Serialize)]
    struct Stats {
        running_instances: u32,
        functions: BTreeMap<String, FunctionStats>,
    }
    let functions: BTreeMap<String, FunctionStats> = platform
        .functions()
        .iter()
        .map(|function| {
            let census = function.pool().census();
            let stats = FunctionStats {
                running: census.busy + census.idle,
                busy: census.busy,
                idle: census.idle,
                starting: census.starting,
                standing_by: function.standing_by(),
                waiting: census.waiting,
                invocations: function.metrics().invocations(),
                times: function.metrics().summaries(),
            };
            (function.spec().name.clone(), stats)
        })
        .collect();
    let running_instances = functions.values().map(|stats| stats.running).sum();
    let stats = Stats {
        running_instances,
        functions,
    };
    reply::json(StatusCode::OK, &stats)
}

/// Forgets the times, so that an experiment begins anew.
pub fn forget_times(platform: &Platform) -> Reply {
    for function in platform.functions() {
        function.metrics().forget_times();
    }
    reply::empty(StatusCode::NO_CONTENT)
}

/// `/metrics`, in Prometheus' text format.
pub fn metrics(platform: &Platform) -> Reply {
    let mut exposition = Exposition::default();
    for function in platform.functions() {
        let name = &function.spec().name;
        let census = function.pool().census();
        for (state, count) in [
            ("busy", census.busy),
            ("idle", census.idle),
            ("starting", census.starting),
        ] {
            let labels = format!("function=\"{name}\",state=\"{state}\"");
            exposition.sample("faas_instances", &labels, count.into());
        }
        let labels = format!("function=\"{name}\"");
        exposition.sample("faas_sandboxes_standing_by", &labels, function.standing_by() as u64);
        exposition.sample("faas_requests_waiting", &labels, census.waiting as u64);
        function.metrics().expose(name, &mut exposition);
    }
    reply::text(StatusCode::OK, "text/plain; version=0.0.4", exposition.page())
}

/// An instance says that it is ready; it is known by its address.
pub fn ready(platform: &Platform, client: SocketAddr) -> Reply {
    match platform.ready().announce(client.ip()) {
        true => reply::empty(StatusCode::NO_CONTENT),
        false => reply::error(
            StatusCode::NOT_FOUND,
            format!("no instance at {} is awaited", client.ip()),
        ),
    }
}

/// Starts `count` instances ahead of requests, and answers when they are ready.
pub async fn pre_boot(platform: &Platform, name: &str, count: &str) -> Reply {
    #[derive(Serialize)]
    struct Started {
        started: u32,
    }
    let Ok(count) = count.parse() else {
        return reply::error(StatusCode::BAD_REQUEST, format!("{count:?} is no number of instances"));
    };
    let Some(function) = platform.function(name) else {
        return reply::error(StatusCode::NOT_FOUND, format!("there is no function {name:?}"));
    };
    match function.pool().pre_boot(count).await {
        Ok(started) => reply::json(StatusCode::OK, &Started { started }),
        Err(error) => reply::acquire_error(&error),
    }
}
