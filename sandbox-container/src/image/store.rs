//! Where root file systems are kept: unpacked once, by the digest of what they were unpacked from, and shared.
//!
//! ```text
//! entries/DIGEST        a root file system, complete and never written again
//! building/DIGEST       one that is being unpacked; renamed into `entries` when it is complete
//! locks/DIGEST          held exclusively by who unpacks it, shared by every instance of it
//! identities/FILE       the digest of an archive that was read before
//! instances/ID/         one sandbox's own: what it writes (`upper`), and where it sees everything (`root`)
//! instances/ID/lock     held by its owner as long as that lives
//! ```
//!
//! Locks are `flock`s: the kernel gives them back when a process dies, however it dies, and with them the next process
//! knows what is garbage. Nothing else tells the living from the dead.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::digest::{Algorithm, Digest, HashingReader};
use super::error::ImageError;
use super::layout::{Layout, SourceKind, open_source};
use super::oci::Image;
use super::rootfs::{ImageSource, Instance, Rootfs};
use super::unpack::tree;
use super::unpack::{Ownership, UnpackLimits, Unpacker};
use super::{ImageConfig, compression};

/// The format of the store. Another one gets another folder.
const FORMAT: &str = "v1";
const FOLDERS: [&str; 5] = ["entries", "building", "locks", "identities", "instances"];
/// A file that changed within this time may change again without its time of change showing it.
const SETTLED: Duration = Duration::from_secs(2);

/// A store of root file systems: a folder that any number of processes use at the same time.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    limits: UnpackLimits,
}

/// A root file system that instances share, and the lock that keeps it.
#[derive(Debug)]
pub(super) struct Shared {
    /// The folder, as a starting point.
    pub(super) folder: OwnedFd,
    /// The same by name.
    pub(super) path: PathBuf,
    pub(super) _lock: Option<OwnedFd>,
}

impl Store {
    /// Where the store is unless the embedder says otherwise: `/var/lib/sandbox-sdk` for root, and
    /// `$XDG_DATA_HOME/sandbox-sdk`, or `~/.local/share/sandbox-sdk`, for everybody else.
    pub fn default_path() -> PathBuf {
        if rustix::process::geteuid().is_root() {
            return PathBuf::from("/var/lib/sandbox-sdk");
        }
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(home);
        data.unwrap_or_else(std::env::temp_dir).join("sandbox-sdk")
    }

    /// Opens the store at `path`, and makes it where there is none.
    ///
    /// # Errors
    /// [`ImageError::Host`] if the folder cannot be made or is not the caller's.
    pub fn open(path: &Path, limits: UnpackLimits) -> Result<Self, ImageError> {
        let root = path.join(FORMAT);
        for folder in FOLDERS {
            let folder = root.join(folder);
            // Nobody else may come in: set-user-id programs of images would be everybody's.
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|error| ImageError::host(&folder, "make the folder", error))?;
        }
        let metadata = fs::metadata(&root).map_err(|error| ImageError::host(&root, "look at it", error))?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            let error = io::Error::from_raw_os_error(libc::EPERM);
            return Err(ImageError::host(root, "use a store of another user", error));
        }
        Ok(Self { root, limits })
    }

    /// Makes the root file system of the sandbox `id` from `source`: finds it in the store or unpacks it, and puts a
    /// layer for what the sandbox writes over it.
    ///
    /// # Errors
    /// Those of the source, and [`ImageError::Host`] where the host fails; `EEXIST` if a living sandbox has this id in
    /// this store. Nothing is left behind then, except what was completely unpacked.
    pub fn prepare(&self, source: &ImageSource, id: &str) -> Result<Rootfs, ImageError> {
        let (shared, config) = self.shared(source)?;
        let instance = Instance::create(self, id)?;
        Rootfs::over(shared, instance, config)
    }

    /// What instances of `source` share.
    fn shared(&self, source: &ImageSource) -> Result<(Shared, Option<ImageConfig>), ImageError> {
        match source {
            ImageSource::Rootfs(path) => {
                let (file, kind) = open_source(path)?;
                let shared = match kind {
                    SourceKind::Folder => Shared {
                        folder: file.into(),
                        path: path.clone(),
                        _lock: None,
                    },
                    SourceKind::File => self.archive(path, &file)?,
                };
                Ok((shared, None))
            }
            ImageSource::Layout { path, name } => {
                let layout = Layout::open(path)?;
                let image = Image::find(&layout, name.as_deref())?;
                let shared = self.entry(&image.chain_id(), |unpacker| image.unpack(&layout, unpacker))?;
                Ok((shared, Some(image.config)))
            }
        }
    }

    /// The root file system that an archive holds.
    fn archive(&self, path: &Path, file: &File) -> Result<Shared, ImageError> {
        let digest = self.archive_digest(path, file)?;
        self.entry(&digest, |unpacker| {
            let (file, _) = open_source(path)?;
            let bad = |reason: String| ImageError::BadArchive { reason };
            let packed = HashingReader::new(file, Algorithm::Sha256);
            let mut content = compression::unpacked(packed).map_err(|error| bad(format!("cannot be read: {error}")))?;
            unpacker.archive(&mut content)?;
            let mut packed = content.into_inner().into_inner();
            packed
                .drain(u64::MAX)
                .map_err(|error| ImageError::host(path, "read it", error))?;
            // It was hashed before; somebody may have changed it since.
            digest.check(packed.into_parts().1)
        })
    }

    /// The digest of an archive's bytes: remembered, as long as the file does not change.
    fn archive_digest(&self, path: &Path, file: &File) -> Result<Digest, ImageError> {
        let failed = |error| ImageError::host(path, "read it", error);
        let metadata = file.metadata().map_err(failed)?;
        let identity = format!(
            "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec()
        );
        let remembered = self.root.join("identities").join(identity);
        if let Some(digest) = fs::read_to_string(&remembered).ok().and_then(|text| text.parse().ok()) {
            return Ok(digest);
        }
        let mut hashing = HashingReader::new(file, Algorithm::Sha256);
        hashing.drain(u64::MAX).map_err(failed)?;
        let digest = hashing.into_parts().1.finish();
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(metadata.ctime().max(0).cast_unsigned());
        if changed.elapsed().is_ok_and(|age| age > SETTLED) {
            // Only a saving: without it the archive is read again.
            let _ = write_atomically(&remembered, digest.to_string().as_bytes());
        }
        Ok(digest)
    }

    /// The entry `digest`, which `fill` unpacks if it is not there. Whoever comes while it is being unpacked, in this
    /// process or another, waits.
    fn entry(
        &self,
        digest: &Digest,
        fill: impl FnOnce(&mut Unpacker) -> Result<(), ImageError>,
    ) -> Result<Shared, ImageError> {
        let path = self.root.join("entries").join(digest.value());
        let lock_path = self.root.join("locks").join(digest.value());
        let mut fill = Some(fill);
        loop {
            let lock = lock_file(&lock_path)?;
            flock(&lock, &lock_path, FlockOperation::LockShared)?;
            match open_folder(&path) {
                Ok(folder) => {
                    return Ok(Shared {
                        folder,
                        path,
                        _lock: Some(lock),
                    });
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(ImageError::host(path, "open it", error)),
            }
            flock(&lock, &lock_path, FlockOperation::LockExclusive)?;
            if let (Err(Errno::NOENT), Some(fill)) = (open_folder(&path), fill.take()) {
                self.build(digest, &path, fill)?;
            }
        }
    }

    /// Unpacks an entry; its lock is held. What a dead process left of it is in the way and goes first.
    fn build(
        &self,
        digest: &Digest,
        path: &Path,
        fill: impl FnOnce(&mut Unpacker) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let building = self.root.join("building").join(digest.value());
        remove_tree(&building)?;
        let built = self.fill(&building, fill).and_then(|()| {
            fs::rename(&building, path).map_err(|error| ImageError::host(path, "put the entry in its place", error))
        });
        if built.is_err() {
            // The error to report is the first one; the next unpacker finds what is left.
            let _ = remove_tree(&building);
        }
        built
    }

    fn fill(
        &self,
        building: &Path,
        fill: impl FnOnce(&mut Unpacker) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        make_folder(building, 0o755)?;
        let folder = open_folder(building).map_err(|error| ImageError::host(building, "open it", error))?;
        let ownership = match rustix::process::geteuid().is_root() {
            true => Ownership::Archive,
            false => Ownership::Caller,
        };
        let mut unpacker = Unpacker::new(folder, self.limits.clone(), ownership);
        fill(&mut unpacker)?;
        unpacker.finish()?;
        // Or a host that loses power has an entry with files that are empty.
        let folder = File::open(building).map_err(|error| ImageError::host(building, "open it", error))?;
        rustix::fs::syncfs(&folder).map_err(|error| ImageError::host(building, "write it to the disk", error))
    }

    /// Finds what dead processes left, in this store, and removes it: instances with their mounts, and entries half
    /// unpacked. Returns the ids of the instances. Containers of dead processes must be ended before.
    ///
    /// # Errors
    /// [`ImageError::Host`] for the first thing that cannot be removed; the rest is removed all the same.
    pub fn sweep(&self) -> Result<Vec<String>, ImageError> {
        let mut swept = Vec::new();
        let mut first_error = Ok(());
        for id in self.listed("instances")? {
            match Instance::sweep(self, &id) {
                Ok(true) => swept.push(id),
                Ok(false) => {}
                Err(error) => first_error = first_error.and(Err(error)),
            }
        }
        for name in self.listed("building")? {
            if let Some(_lock) = self.try_lock(&name)? {
                let removed = remove_tree(&self.root.join("building").join(&name));
                first_error = first_error.and(removed);
            }
        }
        first_error.map(|()| swept)
    }

    /// Removes the entries that no sandbox uses, after a [`Store::sweep`]. Returns how many.
    ///
    /// # Errors
    /// [`ImageError::Host`] for the first thing that cannot be removed.
    pub fn prune(&self) -> Result<usize, ImageError> {
        self.sweep()?;
        let mut pruned = 0;
        for name in self.listed("entries")? {
            if let Some(_lock) = self.try_lock(&name)? {
                // Out of sight first: what is half removed must not be taken for an entry.
                let (entry, grave) = (
                    self.root.join("entries").join(&name),
                    self.root.join("building").join(&name),
                );
                remove_tree(&grave)?;
                fs::rename(&entry, &grave).map_err(|error| ImageError::host(&entry, "remove it", error))?;
                remove_tree(&grave)?;
                pruned += 1;
            }
        }
        for name in self.listed("identities")? {
            let _ = fs::remove_file(self.root.join("identities").join(name));
        }
        Ok(pruned)
    }

    /// The folder of the instance `id`.
    pub(super) fn instance_folder(&self, id: &str) -> PathBuf {
        self.root.join("instances").join(id)
    }

    /// A lock on all instances' coming and going.
    pub(super) fn lock_instances(&self) -> Result<OwnedFd, ImageError> {
        let path = self.root.join("instances.lock");
        let lock = lock_file(&path)?;
        flock(&lock, &path, FlockOperation::LockExclusive)?;
        Ok(lock)
    }

    fn try_lock(&self, name: &str) -> Result<Option<OwnedFd>, ImageError> {
        let path = self.root.join("locks").join(name);
        let lock = lock_file(&path)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(ImageError::host(path, "lock it", error)),
        }
    }

    fn listed(&self, folder: &str) -> Result<Vec<String>, ImageError> {
        let path = self.root.join(folder);
        let failed = |error| ImageError::host(&path, "list it", error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// Opens a lock's file, which closes on exec: a runtime must not keep it.
pub(super) fn lock_file(path: &Path) -> Result<OwnedFd, ImageError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    Ok(file
        .map_err(|error| ImageError::host(path, "open the lock", error))?
        .into())
}

fn flock(lock: &OwnedFd, path: &Path, operation: FlockOperation) -> Result<(), ImageError> {
    loop {
        match rustix::fs::flock(lock, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(ImageError::host(path, "lock it", error)),
        }
    }
}

fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

pub(super) fn make_folder(path: &Path, mode: u32) -> Result<(), ImageError> {
    DirBuilder::new()
        .mode(mode)
        .create(path)
        .map_err(|error| ImageError::host(path, "make the folder", error))
}

/// Removes a folder with all that is in it, if it is there.
pub(super) fn remove_tree(path: &Path) -> Result<(), ImageError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let parent = open_folder(parent).map_err(|error| ImageError::host(parent, "open it", error))?;
    tree::remove(std::os::fd::AsFd::as_fd(&parent), name, &|_, _| false)
        .map(drop)
        .map_err(|error| ImageError::host(path, "remove it", error))
}

fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(std::process::id().to_string());
    fs::write(&temporary, content)?;
    fs::rename(&temporary, path)
}
