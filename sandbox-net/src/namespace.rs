//! Network namespaces (network_namespaces(7)): named ones that others can enter by path, and code that acts in them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;

use rustix::mount::UnmountFlags;
use rustix::thread::LinkNameSpaceType;

use crate::{LinkControl, LinkSettings, NetError, sys};

/// The namespace of the thread that opens it.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open.
///
/// Namespaces of [`NetNamespace::create`] stay until [`NetNamespace::remove`] is called on their path; dropping this
/// only closes it.
#[derive(Debug)]
pub struct NetNamespace {
    file: File,
}

impl NetNamespace {
    /// The calling thread's.
    ///
    /// # Errors
    /// [`NetError::State`] if the process has no descriptor left.
    pub fn current() -> Result<Self, NetError> {
        let file = File::open(OWN).map_err(|error| NetError::state(OWN, "open it", error))?;
        Ok(Self { file })
    }

    /// Opens the one at `path`: a file that it is mounted on, or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// [`NetError::NotANamespace`] if there is something else at the path, [`NetError::State`] if it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, NetError> {
        let file = OpenOptions::new()
            .read(true)
            // A pipe without a writer must not hold up the caller.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|error| NetError::state(path, "open the network namespace", error))?;
        match sys::namespace_type(file.as_fd()) {
            Ok(libc::CLONE_NEWNET) => Ok(Self { file }),
            Ok(_) => Err(NetError::NotANamespace {
                path: path.to_owned(),
                reason: "is a namespace, but not a network namespace",
            }),
            Err(_) => Err(NetError::NotANamespace {
                path: path.to_owned(),
                reason: "is not a network namespace: make one with `ip netns add NAME` and give /run/netns/NAME",
            }),
        }
    }

    /// Makes a namespace that can be entered by `path`, which must not exist yet, with its loopback interface up.
    ///
    /// # Errors
    /// [`NetError::State`] if the file cannot be made or mounted on, or without `CAP_SYS_ADMIN`. Nothing is left then.
    pub fn create(path: &Path) -> Result<Self, NetError> {
        let failed = |action| move |error: io::Error| NetError::state(path, action, error);
        if let Some(parent) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(failed("make its folder"))?;
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(failed("make the file"))?;
        let made = on_a_thread(|| {
            sys::new_network_namespace().map_err(failed("make a network namespace"))?;
            let mut links = LinkControl::open()?;
            let up = LinkSettings {
                bring_up: true,
                ..LinkSettings::default()
            };
            links.configure("lo", &up)?;
            let namespace = Self::current()?;
            rustix::mount::mount_bind(OWN, path)
                .map_err(|error| failed("mount the network namespace")(error.into()))?;
            Ok(namespace)
        });
        made.inspect_err(|_| {
            // The error to report is the first one.
            let _ = fs::remove_file(path);
        })
    }

    /// Unmounts and removes the file of a namespace. The namespace itself goes when nobody is in it any more. One that
    /// is gone already counts as removed.
    ///
    /// # Errors
    /// [`NetError::State`] if it cannot be unmounted or removed.
    pub fn remove(path: &Path) -> Result<(), NetError> {
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(NetError::state(path, "unmount the network namespace", error)),
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(NetError::state(path, "remove the file", error))
            }
            _ => Ok(()),
        }
    }

    /// Runs `action` on a thread of its own that is in this namespace, and waits for it.
    ///
    /// # Errors
    /// [`NetError::State`] if the thread cannot be made, or may not enter.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> Result<T, NetError> + Send) -> Result<T, NetError> {
        on_a_thread(|| {
            rustix::thread::move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|error| NetError::state("network namespace", "enter it", error))?;
            action()
        })
    }

    /// Runs `action` in this namespace: on the calling thread if that is in it, else as [`NetNamespace::run`].
    pub(crate) fn run_inside<T: Send>(
        &self,
        action: impl FnOnce() -> Result<T, NetError> + Send,
    ) -> Result<T, NetError> {
        match Self::current()?.identity()? == self.identity()? {
            true => action(),
            false => self.run(action),
        }
    }

    /// What tells it from every other one that exists: device and inode.
    ///
    /// # Errors
    /// [`NetError::State`] if the host fails.
    pub fn identity(&self) -> Result<(u64, u64), NetError> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|error| NetError::state("network namespace", "look at it", error))?;
        Ok((metadata.dev(), metadata.ino()))
    }
}

impl AsFd for NetNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A thread may change its own namespace for good, so what must act in another one does it on a thread that ends.
fn on_a_thread<T: Send>(action: impl FnOnce() -> Result<T, NetError> + Send) -> Result<T, NetError> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("sandbox-net".to_owned());
        let thread = builder
            .spawn_scoped(scope, action)
            .map_err(|error| NetError::state("network namespace", "start a thread for it", error))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
