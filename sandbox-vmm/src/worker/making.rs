//! Making a sandbox in a worker: one is taken, handed what the sandbox is made of, and awaited.

use std::sync::Mutex;

use sandbox_core::readiness::Readiness;
use sandbox_core::spec::WeakJail;
use sandbox_core::{Error, ErrorKind, Lifecycle, Phase, Result, Weakness};

use super::client::{Home, WorkerSandbox};
use super::clones::ListInWorker;
use super::jail::cgroup::Cgroup;
use super::launch::{self, Cargo};
use super::link::Broker;
use super::protocol::Answer;
use super::protocol::channel::Channel;
use super::proxy::Proxy;
use super::{Hired, nonsense};
use crate::assemble::{OpenDevices, shell_kind};
use crate::devices::virtio::block::size_of_disk;
use crate::devices::virtio::vsock::HostSockets;
use crate::error::with_cause;
use crate::sandbox::Outlets;
use crate::sandbox::clone::with_clock;
use crate::sandbox::shared::Name;
use crate::snapshot::saved::Origin;

/// What the embedder keeps of a sandbox in a worker.
pub struct Order {
    /// Its name.
    pub name: Name,
    /// What its machine is made by.
    pub origin: Origin,
    /// Whether its guest is a Solo5 one.
    pub hypercalls_only: bool,
    /// How its readiness is known.
    pub readiness: Readiness,
    /// Where what becomes known of it goes.
    pub outlets: Outlets,
    /// The list of the pages that it asks for, if that is recorded.
    pub list: Option<ListInWorker>,
}

/// A sandbox that its worker is making.
pub struct Pending {
    sandbox: WorkerSandbox,
    hired: Hired,
    /// The call whose answer says that it is made.
    made: u32,
}

/// Has a worker begin to make a sandbox.
///
/// # Errors
/// No worker to be had, or a control group that cannot be.
pub fn begin(home: &Home, order: Order, cargo: &Cargo<'_>, devices: OpenDevices) -> Result<Pending> {
    let workers = &home.workers;
    let cgroup = Cgroup::for_spec(&order.origin.spec, workers.options().cgroup.as_deref())?;
    let hired = workers.take()?;
    let Origin {
        spec,
        chipset,
        dense_memory,
        ..
    } = &order.origin;
    workers.expect(shell_kind(spec, *chipset, *dense_memory));
    let lifecycle = match cargo {
        Cargo::Boot { .. } => Lifecycle::created(),
        Cargo::Clone { .. } => Lifecycle::paused(),
    };
    let private_disks = private_disks(&order.origin, &devices)?;
    let sandbox = WorkerSandbox {
        home: home.clone(),
        name: order.name,
        proxy: Proxy::new(&hired.link, order.outlets, lifecycle, cgroup, workers),
        readiness: order.readiness,
        weaknesses: Vec::new(),
        origin: order.origin,
        hypercalls_only: order.hypercalls_only,
        told: None,
        private_disks,
        image: Mutex::new(None),
    };
    if let Some(list) = order.list {
        sandbox.proxy.expect_list(list);
    }
    match hand_over(&sandbox, &hired, cargo, devices) {
        Ok(made) => Ok(Pending { sandbox, hired, made }),
        Err(error) => {
            give_up(&sandbox);
            Err(error)
        }
    }
}

/// Hands over what the sandbox is made of; returns the number of the call.
fn hand_over(sandbox: &WorkerSandbox, hired: &Hired, cargo: &Cargo<'_>, mut devices: OpenDevices) -> Result<u32> {
    let link = &hired.link;
    sandbox.proxy.limit()?;
    let broker = devices.vsock.is_some().then(Channel::pair).transpose();
    let broker = broker.map_err(|error| {
        let context = "the host has no descriptor left for the socket device";
        Error::new(ErrorKind::HostExhausted, context).with_source(error)
    })?;
    let (near, far) = broker.unzip();
    let mut setting = launch::setting(sandbox.name.as_str(), &sandbox.origin.spec, &devices);
    setting.cpu_timeline = sandbox.home.shared.cpu_clock.is_some();
    setting.cpu_from_birth = hired.fresh;
    let (request, fds) = launch::hand_over(setting, cargo, &devices, far.as_ref());
    let made = link.post(request, &fds)?;
    if let (Some(channel), Some(HostSockets { connector, .. })) = (near, devices.vsock.take()) {
        link.set_broker(Broker { channel, connector });
        sandbox.home.workers.watch_broker(link);
    }
    // The worker has its own descriptors of the rest: what the guest uses does not live on here.
    Ok(made)
}

fn private_disks(origin: &Origin, devices: &OpenDevices) -> Result<Vec<u64>> {
    let disks = origin.spec.disks.iter().zip(&devices.disks);
    let private = disks.filter(|(disk, _)| disk.private);
    let sizes: std::result::Result<_, _> = private.map(|(_, file)| size_of_disk(file)).collect();
    sizes.map_err(|error| with_cause(ErrorKind::InvalidSpec, error))
}

/// Whoever is told of the failure finds nothing left behind.
fn give_up(sandbox: &WorkerSandbox) {
    sandbox.proxy.teardown();
    let patience = sandbox.home.workers.options().patience;
    sandbox.proxy.gone.wait(Some(patience));
}

impl Pending {
    /// Waits until it is made.
    ///
    /// # Errors
    /// A jail that is too weak for the spec, or what the worker's own making failed with. Nothing is left behind then.
    pub fn complete(mut self) -> Result<WorkerSandbox> {
        match self.await_made() {
            Ok(()) => {
                self.sandbox.proxy.outlets.recorder.record(Phase::Created);
                Ok(self.sandbox)
            }
            Err(error) => {
                give_up(&self.sandbox);
                Err(error)
            }
        }
    }

    fn await_made(&mut self) -> Result<()> {
        self.sandbox.weaknesses = self.hired.weaknesses()?;
        refuse_if_too_weak(
            &self.sandbox.weaknesses,
            &self.sandbox.origin,
            self.sandbox.name.as_str(),
        )?;
        let link = &self.hired.link;
        match link.answer(self.made, "make its machine")? {
            Answer::Done => Ok(()),
            Answer::Revived(told) => {
                self.sandbox.told = Some(with_clock(told));
                Ok(())
            }
            _ => Err(nonsense(link)),
        }
    }
}

fn refuse_if_too_weak(weaknesses: &[Weakness], origin: &Origin, id: &str) -> Result<()> {
    if weaknesses.is_empty() {
        return Ok(());
    }
    let lacking: Vec<String> = weaknesses.iter().map(ToString::to_string).collect();
    let context = format!(
        "the jail of a worker on this host is weak: it has {}",
        lacking.join(", ")
    );
    match origin.spec.weak_jail {
        WeakJail::Refuse => Err(Error::unsupported("weak_jail", context)),
        WeakJail::Report => {
            tracing::warn!(id, "{context}");
            Ok(())
        }
    }
}
