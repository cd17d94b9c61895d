//! What instances are cloned from: a first one that was booted once.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use sandbox::snapshot::{AfterSnapshot, Given, NetworkOverride, Overrides};
use sandbox::spec::TapSpec;
use sandbox::{Error, ErrorKind, RestoreOptions, Restored, Runtime, SnapshotOptions, State};
use sandbox_net::{GuestNetwork, LinkControl};

use super::place::NETWORK;
use super::{Home, Instance, LaunchError, Place};
use crate::output::complain;

/// What clones are made from.
pub struct Template {
    source: Source,
    addressing: Addressing,
}

enum Source {
    /// An instance that is held still, for forks.
    Parent(Box<Instance>),
    /// A folder, for restores.
    Snapshot(Folder),
}

/// How clones come to addresses of their own.
pub(super) enum Addressing {
    /// Their guests are told.
    Told,
    /// Their guests go on with the original's, each in a network of its own, and are reached by translation.
    Translated(GuestNetwork),
}

impl Addressing {
    /// That of a guest in `place` which cannot be told. Its tap has a name.
    pub(super) fn translated(place: &Place) -> Result<Self, LaunchError> {
        let tap = place.tap_name.as_deref().unwrap_or_default();
        let state = LinkControl::open().and_then(|links| links.state(tap));
        let state = state.map_err(|error| LaunchError::internal(&error))?;
        Ok(Self::Translated(GuestNetwork {
            gateway: place.host(),
            gateway_mac: Some(state.mac),
            guest: place.guest().address(),
            mtu: None,
        }))
    }
}

impl Template {
    /// Holds `instance` still.
    pub(super) fn parent(instance: Instance, addressing: Addressing) -> Result<Self, LaunchError> {
        let paused = instance.sandbox().pause();
        paused.map_err(|error| LaunchError::new(&error, String::new()))?;
        Ok(Self {
            source: Source::Parent(Box::new(instance)),
            addressing,
        })
    }

    /// Writes `instance` into the new folder `folder` and ends it.
    pub(super) fn snapshot(instance: &Instance, addressing: Addressing, folder: &Path) -> Result<Self, LaunchError> {
        let options = SnapshotOptions {
            after: AfterSnapshot::Stop,
            ..SnapshotOptions::default()
        };
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).map_err(|error| LaunchError::internal(&error))?;
        }
        let written = instance.sandbox().snapshot(folder, &options);
        written.map_err(|error| LaunchError::new(&error, String::new()))?;
        Ok(Self {
            source: Source::Snapshot(Folder(folder.to_owned())),
            addressing,
        })
    }

    /// Whether clones can still be made of it: its process may have been killed, its folder removed.
    pub(super) fn is_sound(&self) -> bool {
        match &self.source {
            Source::Parent(parent) => parent.sandbox().state() == State::Paused,
            Source::Snapshot(folder) => folder.0.is_dir(),
        }
    }

    /// How clones come to addresses of their own.
    pub(super) fn addressing(&self) -> &Addressing {
        &self.addressing
    }

    /// A clone in `place`, which does not run yet and has an address of its own and no other difference.
    pub(super) fn clone_into(&self, runtime: &Runtime, place: Place) -> Result<Home, LaunchError> {
        let failed = |error: &Error| LaunchError::new(error, String::new());
        let descriptor = place.clone_network().map(|network| network.tap()).transpose();
        let descriptor = descriptor.map_err(|error| LaunchError::internal(&error))?;
        let network = match &descriptor {
            Some(tap) => NetworkOverride {
                tap: Some(TapSpec::Fd(tap.as_raw_fd())),
                ..NetworkOverride::default()
            },
            None => NetworkOverride {
                tap: Some(place.tap()),
                mac: None,
                address: Some(place.guest().to_string()),
            },
        };
        let mut options = RestoreOptions {
            overrides: Overrides {
                networks: BTreeMap::from([(NETWORK.to_owned(), network)]),
                ..Overrides::default()
            },
            ..RestoreOptions::default()
        };
        let cloned = match &self.source {
            Source::Snapshot(folder) => {
                options.overrides.id = Some(place.name.clone());
                runtime.restore(&folder.0, &options)
            }
            Source::Parent(parent) => fork(parent, &options),
        };
        let Restored { sandbox, uniqueness } = cloned.map_err(|error| failed(&error))?;
        let home = Home {
            sandbox: sandbox.into(),
            place,
        };
        match (&self.addressing, uniqueness.address) {
            (Addressing::Told, Given::NotGiven) => Err(failed(&Error::unsupported(
                "start",
                "this guest cannot be told its new address, so that its clones all have the same: use cold or warm",
            ))),
            _ => Ok(home),
        }
    }
}

/// One clone of a parent.
fn fork(parent: &Instance, options: &RestoreOptions) -> sandbox::Result<Restored> {
    let Some(parent) = parent.sandbox().as_fork() else {
        return Err(Error::unsupported(
            "start",
            "this kind of sandbox cannot be forked: use cold, warm or pool",
        ));
    };
    let mut clones = parent.fork(1, options)?;
    clones
        .pop()
        .ok_or_else(|| Error::new(ErrorKind::HostFailure, "a fork made no clone"))
}

/// A snapshot that goes with its template.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            complain(format_args!("{} is left behind: {error}", self.0.display()));
        }
    }
}
