//! What the sandboxes of one backend share.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox_core::timeline::{CpuClock, Recorder};
use sandbox_core::{Error, ErrorKind, Result};

use crate::assemble::Library;
use crate::machine::host::KvmHost;
use crate::machine::kick::KickSignal;
use crate::snapshot::folders::FolderStore;
use crate::snapshot::images::ImageStore;

/// What the sandboxes of one backend share.
pub struct Shared {
    /// The host's KVM.
    pub host: Arc<KvmHost>,
    /// Kernels, initrds, tables.
    pub library: Library,
    /// Snapshots' manifests and states.
    pub folders: FolderStore,
    /// Snapshots' memory.
    pub images: ImageStore,
    /// What vCPU threads are kicked with.
    pub kick_signal: KickSignal,
    /// The clock for processor time on timelines, if they have it.
    pub cpu_clock: Option<CpuClock>,
    names: Arc<Mutex<HashSet<String>>>,
    made_up: AtomicU64,
}

impl Shared {
    /// Without any sandbox yet.
    pub fn new(host: KvmHost, kick_signal: KickSignal, cpu_clock: Option<CpuClock>) -> Self {
        Self {
            host: Arc::new(host),
            library: Library::default(),
            folders: FolderStore::default(),
            images: ImageStore::default(),
            kick_signal,
            cpu_clock,
            names: Arc::default(),
            made_up: AtomicU64::new(0),
        }
    }

    /// A timeline that starts now.
    pub fn recorder(&self) -> Arc<Recorder> {
        Arc::new(Recorder::start(self.cpu_clock))
    }

    /// Takes the name that a spec gives, or makes one up.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] for one that a sandbox of this backend has.
    pub fn claim_name(&self, given: Option<&str>) -> Result<Name> {
        let mut names = lock(&self.names);
        let name = match given {
            Some(name) if names.contains(name) => {
                let context = format!("a sandbox named {name} exists; choose another name or tear it down first");
                return Err(Error::new(ErrorKind::AlreadyExists, context).with_field("id"));
            }
            Some(name) => name.to_owned(),
            None => {
                let number = self.made_up.fetch_add(1, Ordering::Relaxed);
                format!("vm-{}-{number}", std::process::id())
            }
        };
        names.insert(name.clone());
        Ok(Name {
            name,
            names: Arc::clone(&self.names),
            released: AtomicBool::new(false),
        })
    }
}

/// A sandbox's name, which no other sandbox of its backend has.
pub struct Name {
    name: String,
    names: Arc<Mutex<HashSet<String>>>,
    released: AtomicBool,
}

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Lets others have it.
    pub fn release(&self) {
        if !self.released.swap(true, Ordering::Relaxed) {
            lock(&self.names).remove(&self.name);
        }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.release();
    }
}

fn lock(names: &Mutex<HashSet<String>>) -> MutexGuard<'_, HashSet<String>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}
