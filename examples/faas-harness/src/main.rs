//! A single-node function platform over the SDK: a reverse proxy before sandboxes that come when they are needed and go
//! when they are not.
//!
//! ```text
//! client ──HTTP──► http (server, router) ──► platform::invoke ──► pool ──► instance ──HTTP──► guest
//!                        │                                          └ launcher ──► sandbox::Runtime
//!                        └ provider API, /stats, /metrics
//! ```
//!
//! All waiting is asynchronous but for the SDK's calls, which run on threads that may block.

mod bench;
mod function;
mod functions_file;
mod http;
mod instance;
mod metrics;
mod options;
mod output;
mod platform;
mod pool;
mod state_folder;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sandbox::ContainerOptions;
use sandbox::spec::Isolation;
use sandbox_net::AddressPool;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::bench::Meters;
use crate::function::FunctionSpec;
use crate::http::{Audience, Server};
use crate::instance::Networks;
use crate::options::{Command, Options, USAGE};
use crate::output::{complain, say};
use crate::platform::{Platform, Setup};
use crate::state_folder::StateFolder;

/// The longest time that requests under way have to end once the platform is told to.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    // Workers and the parents of containers are this very program.
    sandbox::worker::run_if_worker();
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            complain(format_args!("{error}\n\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    if options.command == Command::Help {
        let _ = say(format_args!("{USAGE}"));
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    // Counters count threads that are made after them.
    let meters = (options.command == Command::Bench).then(|| Meters::open(&options.plan));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options, meters))
}

async fn serve(options: &Options, meters: Option<Meters>) -> Result<()> {
    let server = Server::bind(options.listen, Audience::Clients).await?;
    // Instances reach the host by the address of its end of their network, whatever the platform's own address is.
    let any: SocketAddr = (Ipv4Addr::UNSPECIFIED, 0).into();
    let readiness = Server::bind(any, Audience::Instances).await?;
    let state = StateFolder::open(options.state.as_deref())?;
    sweep(state.path());
    let platform = Platform::open(Setup {
        state: state.path(),
        networks: Networks {
            micro_vms: AddressPool::subnets(options.network)?,
            containers: AddressPool::single_addresses(options.container_network)?,
            bridge: options.bridge.clone(),
        },
        ready_port: readiness.address().port(),
    })?;
    if let Some(file) = &options.functions {
        for function in functions_file::read(file)? {
            deploy(&platform, function)?;
        }
    }
    let address = server.address();
    // A platform serves whether or not anybody reads what it says.
    let _ = say(format_args!("faas-harness: listening on http://{address}/\n"));
    if options.command != Command::Serve {
        deploy(&platform, hello(&platform, "hello")?)?;
    }
    if options.command == Command::Bench {
        // What the wall of a worker costs is seen beside what has none.
        let mut beside = hello(&platform, "hello-in-process")?;
        beside.sandbox.isolation = Isolation::InProcess;
        deploy(&platform, beside)?;
    }
    if options.command == Command::Demo {
        let _ = say(format_args!("try it:  curl http://{address}/function/hello\n"));
    }
    tokio::spawn(Arc::clone(&platform).tend());
    tokio::spawn(readiness.serve(Arc::clone(&platform), std::future::pending()));
    match meters {
        Some(meters) => {
            let (done, measured) = oneshot::channel::<()>();
            let serving = tokio::spawn(server.serve(Arc::clone(&platform), async {
                let _ = measured.await;
            }));
            bench::run(Arc::clone(&platform), address, &options.plan, meters).await?;
            drop(done);
            serving.await?;
        }
        None => {
            let told = told_to_end()?;
            let end = async {
                told.await;
                platform.begin_to_end();
            };
            server.serve(Arc::clone(&platform), end).await;
        }
    }
    tokio::time::timeout(DRAIN_PATIENCE, platform.close())
        .await
        .context("some instances did not end in time")
}

/// Removes what a platform left behind that was killed: containers, networks, and snapshots in the folder `state`.
/// Micro-VMs ended with it.
fn sweep(state: &Path) {
    let containers = sandbox::sweep::sweep(&ContainerOptions::default().state);
    for container in containers.removed {
        let _ = say(format_args!("faas-harness: swept the container {container}\n"));
    }
    if let Err(error) = sandbox_net::Networks::default().sweep() {
        complain(format_args!("a network is left behind: {error}"));
    }
    let snapshots = Platform::snapshots(state);
    match std::fs::remove_dir_all(&snapshots) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            complain(format_args!("{} is left behind: {error}", snapshots.display()));
        }
        _ => {}
    }
}

/// The web server that comes along, deployed as `name`.
fn hello(platform: &Platform, name: &str) -> Result<FunctionSpec> {
    let hello = platform.builtins().function("hello", name);
    hello.context("there is no function hello")
}

fn deploy(platform: &Platform, function: FunctionSpec) -> Result<()> {
    let name = function.name.clone();
    let deployed = match platform.function(&name) {
        Some(_) => platform.update(function),
        None => platform.deploy(function),
    };
    deployed.with_context(|| format!("cannot deploy {name:?}"))
}

/// Is over when the process is told to end.
fn told_to_end() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
