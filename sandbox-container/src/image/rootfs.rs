//! One sandbox's root file system.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sandbox_core::spec::ContainerGuest;

use super::error::ImageError;
use super::store::{Shared, Store, lock_file, make_folder, remove_tree};
use super::user::{self, User};
use super::{ImageConfig, copy, overlay};

/// The lock of an instance, in its folder.
const LOCK: &str = "lock";

/// What a root file system is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageSource {
    /// A folder, which is shared as it is and must not change while sandboxes use it, or a tar archive, plain or packed
    /// by gzip or Zstandard.
    Rootfs(PathBuf),
    /// An OCI image layout.
    Layout {
        /// The layout: a folder or a tar archive.
        path: PathBuf,
        /// Which of its images, by the annotation `org.opencontainers.image.ref.name`; the only one if left out.
        name: Option<String>,
    },
}

impl ImageSource {
    /// The source that a spec names, and the field that names it. Nothing if the spec names none.
    pub fn of(guest: &ContainerGuest) -> Option<(Self, &'static str)> {
        match (&guest.rootfs, &guest.image) {
            (Some(rootfs), _) => Some((Self::Rootfs(rootfs.clone()), "guest.container.rootfs")),
            (None, Some(path)) => {
                let (path, name) = (path.clone(), guest.image_name.clone());
                Some((Self::Layout { path, name }, "guest.container.image"))
            }
            (None, None) => None,
        }
    }
}

/// A root file system, ready for one sandbox. What the sandbox writes is its own. Dropping it tears it down.
#[derive(Debug)]
pub struct Rootfs {
    path: PathBuf,
    config: Option<ImageConfig>,
    is_copy: bool,
    instance: Mutex<Option<Instance>>,
    /// Keeps the entry in the store.
    _shared: Shared,
}

impl Rootfs {
    pub(super) fn over(shared: Shared, instance: Instance, config: Option<ImageConfig>) -> Result<Self, ImageError> {
        let folder = |name| instance.folder.join(name);
        let path = folder("root");
        for name in ["upper", "work", "root"] {
            make_folder(&folder(name), 0o755)?;
        }
        let mounted = overlay::mount(&shared.folder, &folder("upper"), &folder("work"), &path)
            .map_err(|error| ImageError::host(&path, "mount the overlay", error))?;
        if !mounted {
            copy::copy_tree(&shared.path, &path)?;
        }
        Ok(Self {
            path,
            config,
            is_copy: !mounted,
            instance: Mutex::new(Some(instance)),
            _shared: shared,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the image says about the process, if it was made from an image.
    pub fn config(&self) -> Option<&ImageConfig> {
        self.config.as_ref()
    }

    /// Whether it is a copy, because overlays cannot be had here.
    pub fn is_copy(&self) -> bool {
        self.is_copy
    }

    /// Finds a user, of the form `name`, `uid` or `user:group`, in the accounts of this root file system. A number
    /// needs no account.
    ///
    /// # Errors
    /// [`ImageError::UnknownUser`] if there is no such account.
    pub fn user(&self, user: &str) -> Result<User, ImageError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.path, flags, Mode::empty())
            .map_err(|error| ImageError::host(&self.path, "open it", error))?;
        user::resolve(root, user)
    }

    /// Unmounts it and removes what the sandbox wrote. A second call does nothing.
    ///
    /// # Errors
    /// [`ImageError::Host`] if something cannot be removed; a later call or a sweep tries again.
    pub fn teardown(&self) -> Result<(), ImageError> {
        let mut instance = self.instance.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = &mut *instance {
            held.remove()?;
            *instance = None;
        }
        Ok(())
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if let Err(error) = self.teardown() {
            tracing::warn!(%error, path = %self.path.display(), "a root file system is left behind for the next sweep");
        }
    }
}

/// The folder of one sandbox in a store, and the lock that says that its owner lives.
#[derive(Debug)]
pub(super) struct Instance {
    folder: PathBuf,
    store: Store,
    /// Nothing as soon as everything is removed.
    lock: Option<OwnedFd>,
}

impl Instance {
    /// Makes the folder. What a dead owner left under the same id goes first.
    pub(super) fn create(store: &Store, id: &str) -> Result<Self, ImageError> {
        let folder = store.instance_folder(id);
        let unfit = |errno| ImageError::host(&folder, "use the id", std::io::Error::from_raw_os_error(errno));
        if id.is_empty() || id.starts_with('.') || id.contains(['/', '\0']) {
            return Err(unfit(libc::EINVAL));
        }
        let _coming_and_going = store.lock_instances()?;
        if !Self::remove_if_dead(store, &folder)? {
            // Another sandbox has it.
            return Err(unfit(libc::EEXIST));
        }
        make_folder(&folder, 0o700)?;
        // Should this fail, the next sweep finds a folder that nobody has locked.
        let lock = Self::try_lock(&folder)?;
        Ok(Self {
            folder,
            store: store.clone(),
            lock,
        })
    }

    /// Removes what is left of the sandbox `id` if its owner is dead. Returns whether there was something.
    pub(super) fn sweep(store: &Store, id: &str) -> Result<bool, ImageError> {
        let _coming_and_going = store.lock_instances()?;
        let folder = store.instance_folder(id);
        Ok(folder.exists() && Self::remove_if_dead(store, &folder)?)
    }

    /// Returns whether nothing is there then. The caller holds the lock on all instances.
    fn remove_if_dead(store: &Store, folder: &Path) -> Result<bool, ImageError> {
        if !folder.exists() {
            return Ok(true);
        }
        let Some(lock) = Self::try_lock(folder)? else {
            return Ok(false);
        };
        let mut dead = Self {
            folder: folder.to_owned(),
            store: store.clone(),
            lock: Some(lock),
        };
        dead.remove_content()?;
        dead.remove_folder()?;
        Ok(true)
    }

    fn try_lock(folder: &Path) -> Result<Option<OwnedFd>, ImageError> {
        let path = folder.join(LOCK);
        let lock = lock_file(&path)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(ImageError::host(path, "lock it", error)),
        }
    }

    /// Unmounts and removes everything. Nobody else waits for the content, which may take long.
    fn remove(&mut self) -> Result<(), ImageError> {
        self.remove_content()?;
        let _coming_and_going = self.store.lock_instances()?;
        self.remove_folder()
    }

    fn remove_content(&self) -> Result<(), ImageError> {
        let root = self.folder.join("root");
        overlay::unmount(&root).map_err(|error| ImageError::host(&root, "unmount it", error))?;
        for name in ["root", "upper", "work"] {
            remove_tree(&self.folder.join(name))?;
        }
        Ok(())
    }

    /// The lock goes with the folder: from then on the id may be another sandbox's.
    fn remove_folder(&mut self) -> Result<(), ImageError> {
        remove_tree(&self.folder)?;
        self.lock = None;
        Ok(())
    }
}

impl Drop for Instance {
    /// Covers a failure half-way.
    fn drop(&mut self) {
        if self.lock.is_some() {
            let _ = self.remove();
        }
    }
}
