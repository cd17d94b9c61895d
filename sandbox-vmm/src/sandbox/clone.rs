//! Sandboxes that go on where another one stood: restored ones and forks.

use std::sync::Arc;

use sandbox_core::snapshot::{Given, MemoryRestore, RestoreOptions, Uniqueness, Verify};
use sandbox_core::spec::Isolation;
use sandbox_core::timeline::Recorder;
use sandbox_core::{ConsoleLog, Error, ErrorKind, Fork, Phase, Restored, Result, SandboxSpec, Verb};
use sandbox_net::{Ipv4Cidr, MacAddress};

use super::confinement::Unconfined;
use super::confirmation::Confirmation;
use super::life::Life;
use super::ready::Readiness;
use super::shared::{Name, Shared};
use super::{KvmSandbox, Outlets};
use crate::assemble::{self, MemorySource, OpenDevices, Revival};
use crate::memory::image::MemoryImage;
use crate::renewal::{self, NewIdentity};
use crate::snapshot::folder::Folder;
use crate::snapshot::overrides;
use crate::snapshot::saved::SavedMachine;
use crate::snapshot::section::Identity;

/// What a clone is made of.
pub struct Original<'a> {
    /// What stood still.
    pub saved: &'a SavedMachine,
    /// The snapshot that its memory is of, if it is one.
    pub snapshot: Option<Identity>,
    /// Whether the guest is told that it is another sandbox now.
    pub renewed: bool,
    /// Whether the clone runs at once: until then nothing else is done that can wait.
    pub starts: bool,
}

impl<'a> Original<'a> {
    /// What stands in `folder`, of which a clone is made by `options`.
    pub fn in_folder(folder: &'a Folder, options: &RestoreOptions) -> Self {
        Self {
            saved: &folder.saved,
            snapshot: Some(folder.identity),
            renewed: !options.keep_identity,
            starts: options.start,
        }
    }

    /// A sandbox that stood still as `saved`, of which forks are made by `options`.
    pub fn in_memory(saved: &'a SavedMachine, options: &RestoreOptions) -> Self {
        Self {
            saved,
            snapshot: None,
            renewed: !options.keep_identity,
            starts: options.start,
        }
    }
}

/// A clone's own, taken before anything is made.
pub struct Berth {
    /// Its spec.
    pub spec: SandboxSpec,
    /// Its name.
    pub name: Name,
    /// What its devices are made from.
    pub opened: OpenDevices,
    /// Where what becomes known of it goes.
    pub outlets: Outlets,
}

impl Berth {
    /// Checks the clone's `spec` and opens what it names.
    ///
    /// # Errors
    /// Anything wrong with the spec or the host.
    pub fn take(shared: &Shared, spec: SandboxSpec, recorder: Arc<Recorder>) -> Result<Self> {
        assemble::refuse_what_is_missing(&shared.host, &spec)?;
        let name = shared.claim_name(spec.id.as_deref())?;
        let opened = assemble::open_devices(&spec)?;
        recorder.record(Phase::SpecChecked);
        let outlets = Outlets::new(recorder, ConsoleLog::new(assemble::console_capacity(&spec)));
        Ok(Self {
            spec,
            name,
            opened,
            outlets,
        })
    }

    /// When what was reached.
    pub fn recorder(&self) -> &Recorder {
        &self.outlets.recorder
    }

    /// Where the clone lives.
    pub fn isolation(&self) -> Isolation {
        self.spec.isolation
    }

    /// What the clone has that `original` had not: how its readiness is known, and what it is told of its own.
    ///
    /// # Errors
    /// A host without random numbers, or without descriptors for a check.
    pub fn arrival(&self, original: &Original<'_>) -> Result<(Readiness, Option<NewIdentity>)> {
        let readiness = match original.saved.ready {
            // It has passed its check, and what that needs of the host is the original's.
            true => Readiness::Started,
            false => Readiness::new(self.spec.ready.as_ref())?,
        };
        let identity = match original.renewed {
            true => Some(new_identity(&original.saved.origin.spec, &self.spec)?),
            false => None,
        };
        Ok((readiness, identity))
    }

    /// The sandbox, paused, where the original stood.
    ///
    /// # Errors
    /// A state that cannot be, or a host that cannot hold it.
    pub fn fill(self, shared: &Arc<Shared>, original: &Original<'_>, memory: &MemorySource<'_>) -> Result<Restored> {
        let saved = original.saved;
        let (readiness, identity) = self.arrival(original)?;
        let generation = identity.as_ref().map_or(0, NewIdentity::generation);
        let revival = Revival {
            saved,
            memory,
            snapshot: original.snapshot,
            identity,
        };
        let (parts, told) = assemble::revive(
            &shared.host,
            &shared.library,
            revival,
            self.spec,
            self.opened,
            &self.outlets,
        )?;
        let told = with_clock(told);
        if saved.ready {
            self.outlets.ready.give();
        }
        self.outlets.recorder.record(Phase::Created);
        let life = Life::new(self.outlets, parts.assembly, shared.kick_signal, Arc::new(Unconfined));
        let sandbox = KvmSandbox::new(Arc::clone(shared), self.name, life, readiness, parts.counters)
            .with_identity(told, generation);
        if !original.starts {
            sandbox.life.let_pool_refill();
        }
        Ok(Restored {
            sandbox: Box::new(sandbox),
            uniqueness: told,
        })
    }
}

/// What the guest was told, and that the host sets the clocks that it gives the guest, whatever that is.
pub fn with_clock(told: Uniqueness) -> Uniqueness {
    Uniqueness {
        clock: match told.clock {
            Given::NotGiven => Given::Applied,
            told => told,
        },
        ..told
    }
}

/// What a clone that was `told` this can rely on by now.
pub fn by_now(told: Option<Uniqueness>, confirmation: &Confirmation) -> Uniqueness {
    let told = told.unwrap_or(renewal::NOTHING_GIVEN);
    match confirmation.is_given() {
        true => renewal::confirmed(told),
        false => told,
    }
}

/// What a clone by `spec` has of its own beside the original.
fn new_identity(original: &SandboxSpec, spec: &SandboxSpec) -> Result<NewIdentity> {
    let mut identity = NewIdentity::draw().map_err(|error| {
        let context = "the host gives no random numbers for the clone's identity";
        Error::new(ErrorKind::HostFailure, context).with_source(error)
    })?;
    let (Some(before), Some(now)) = (original.networks.first(), spec.networks.first()) else {
        return Ok(identity);
    };
    if now.mac != before.mac {
        identity.mac = now
            .mac
            .as_deref()
            .and_then(|mac| mac.parse::<MacAddress>().ok())
            .map(|mac| mac.octets());
    }
    if now.guest_address != before.guest_address {
        let address = now
            .guest_address
            .as_deref()
            .and_then(|text| text.parse::<Ipv4Cidr>().ok());
        identity.address = address.map(|address| (address.address(), address.prefix_len()));
        identity.gateway = now.gateway;
    }
    Ok(identity)
}

/// The clone's spec; it takes the original's name only where that is asked for.
fn clone_spec(original: &SandboxSpec, options: &RestoreOptions) -> Result<SandboxSpec> {
    let mut spec = overrides::apply(original, &options.overrides)?;
    spec.id.clone_from(&options.overrides.id);
    Ok(spec)
}

/// Places for `count` forks of a sandbox by `original`.
///
/// # Errors
/// Options that forks cannot have, and anything wrong with their specs or the host.
pub fn berths(shared: &Shared, original: &SandboxSpec, count: u32, options: &RestoreOptions) -> Result<Vec<Berth>> {
    let berth = |_| Berth::take(shared, clone_spec(original, options)?, shared.recorder());
    (0..count).map(berth).collect()
}

/// Refuses what forks cannot have.
///
/// # Errors
/// The options' field.
pub fn check_fork(count: u32, options: &RestoreOptions) -> Result<()> {
    if options.memory != MemoryRestore::Cow {
        return Err(Error::unsupported(
            "memory",
            "forks share their parent's memory; give cow",
        ));
    }
    if options.verify != Verify::Size {
        return Err(Error::unsupported("verify", "a fork has no file to verify; give size"));
    }
    if count > 1 && options.overrides.id.is_some() {
        let context = "only one sandbox can have a name; fork one at a time, or leave it out";
        return Err(Error::new(ErrorKind::InvalidSpec, context).with_field("overrides.id"));
    }
    Ok(())
}

impl Fork for KvmSandbox {
    fn fork(&self, count: u32, options: &RestoreOptions) -> Result<Vec<Restored>> {
        check_fork(count, options)?;
        self.life.lifecycle().check(Verb::Fork)?;
        let berths = berths(&self.shared, &self.life.origin.spec, count, options)?;
        let (saved, image) = self.life.capture(Verb::Fork, &self.shared.host, false, |captured| {
            let image = MemoryImage::freeze(captured.memory())?;
            Ok((captured.saved, image))
        })?;
        let memory = MemorySource::Image(&image);
        let original = Original::in_memory(&saved, options);
        let clones: Vec<Restored> = berths
            .into_iter()
            .map(|berth| berth.fill(&self.shared, &original, &memory))
            .collect::<Result<_>>()?;
        if options.start {
            clones.iter().try_for_each(|clone| clone.sandbox.resume())?;
        }
        Ok(clones)
    }
}
