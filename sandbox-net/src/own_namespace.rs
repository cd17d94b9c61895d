//! Network namespaces that are made for sandboxes, and go with them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::records::{self, Lock};
use crate::{NetError, NetNamespace, Networks};

/// Where the namespaces are.
const FOLDER: &str = "namespaces";
/// Where the locks are that say that their owners live.
const LOCKS: &str = "namespace-locks";

/// A network namespace of one sandbox's own, which others enter by its path. Dropping it removes it.
#[derive(Debug)]
pub struct OwnNamespace {
    namespace: NetNamespace,
    path: PathBuf,
    lock: Mutex<Option<Lock>>,
}

impl Networks {
    /// Makes a network namespace for the sandbox `id`, with nothing but a loopback interface in it.
    ///
    /// # Errors
    /// - [`NetError::State`] without `CAP_SYS_ADMIN`, or with `EEXIST` if a living sandbox has one by this name.
    pub fn new_namespace(&self, id: &str) -> Result<OwnNamespace, NetError> {
        records::check_name(id)?;
        let path = self.folder(FOLDER)?.join(id);
        let Some(lock) = Lock::try_take(&self.folder(LOCKS)?.join(id))? else {
            return Err(NetError::state(
                path,
                "use the name, which another sandbox has",
                rustix::io::Errno::EXIST,
            ));
        };
        // What a dead process left under this name.
        NetNamespace::remove(&path)?;
        match NetNamespace::create(&path) {
            Ok(namespace) => Ok(OwnNamespace {
                namespace,
                path,
                lock: Mutex::new(Some(lock)),
            }),
            Err(error) => {
                // The error to report is the first one.
                let _ = lock.remove();
                Err(error)
            }
        }
    }
}

impl OwnNamespace {
    /// Where it can be entered.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The namespace.
    pub fn namespace(&self) -> &NetNamespace {
        &self.namespace
    }

    /// Removes it. It lives on while processes are in it. A second call does nothing.
    ///
    /// # Errors
    /// [`NetError::State`] if it cannot be removed; a later call or a sweep tries again.
    pub fn teardown(&self) -> Result<(), NetError> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() {
            NetNamespace::remove(&self.path)?;
        }
        lock.take().map_or(Ok(()), Lock::remove)
    }
}

impl Drop for OwnNamespace {
    fn drop(&mut self) {
        if let Err(error) = self.teardown() {
            tracing::warn!(%error, "a network namespace is left behind for the next sweep");
        }
    }
}

/// Removes the namespaces of dead processes.
pub(crate) fn sweep(networks: &Networks, swept: &mut Vec<String>) -> Result<(), NetError> {
    let (folder, locks) = (networks.folder_path(FOLDER), networks.folder_path(LOCKS));
    let mut first_error = Ok(());
    for id in records::names(&locks)? {
        if let Some(lock) = Lock::try_take(&locks.join(&id))? {
            let removed = NetNamespace::remove(&folder.join(&id)).and_then(|()| lock.remove());
            first_error = first_error.and(removed);
            swept.push(id);
        }
    }
    first_error
}
