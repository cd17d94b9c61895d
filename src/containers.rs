//! The container backends of a runtime: one per OCI runtime that a spec names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sandbox_container::{ContainerBackend, ContainerHost, ContainerOptions};
use sandbox_core::{Backend, Probe, Result};

/// Runtimes that are looked for without a spec that names them.
const KNOWN: [&str; 3] = ["runc", "crun", "runsc"];

/// What containers need, made when it is first asked for.
#[derive(Default)]
pub(crate) struct Containers {
    options: ContainerOptions,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    host: Option<Arc<ContainerHost>>,
    backends: HashMap<String, Arc<ContainerBackend>>,
}

impl Containers {
    pub(crate) fn new(options: ContainerOptions) -> Self {
        Self {
            options,
            open: Mutex::default(),
        }
    }

    /// The backend for the runtime `name`, a name on `PATH` or a path.
    pub(crate) fn backend(&self, name: &str) -> Result<Arc<ContainerBackend>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backend) = open.backends.get(name) {
            return Ok(Arc::clone(backend));
        }
        let host = match &open.host {
            Some(host) => Arc::clone(host),
            None => ContainerHost::open(self.options.clone())?,
        };
        open.host = Some(Arc::clone(&host));
        let backend = Arc::new(ContainerBackend::open(&host, name)?);
        open.backends.insert(name.to_owned(), Arc::clone(&backend));
        Ok(backend)
    }

    pub(crate) fn probe(&self) -> Vec<(&'static str, Probe)> {
        let probe = |name| match self.backend(name) {
            Ok(backend) => backend.probe(),
            Err(error) => unusable(&error),
        };
        KNOWN.map(|name| (name, probe(name))).into()
    }
}

/// The probe of a backend that there is not.
pub(crate) fn unusable(error: &sandbox_core::Error) -> Probe {
    Probe {
        reasons: vec![error.report()],
        ..Probe::default()
    }
}
