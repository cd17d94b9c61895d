//! A copy of a root file system, for where it cannot be shared.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::error::ImageError;

/// Folders below each other that are copied: deeper ones than a thread has stack for would end the process.
const MAX_DEPTH: usize = 512;
/// Most bytes of the names, and of one value, of a file's extended attributes, as the kernel bounds them.
const MAX_ATTRIBUTES: usize = 64 << 10;

/// Copies the folder `from` to the folder `to`, which exists: content, modes, times, links, extended attributes, and
/// owners where the caller may set them. Nothing else may change either meanwhile.
pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<(), ImageError> {
    let mut copy = Copy {
        links: HashMap::new(),
        keeps_owners: rustix::process::geteuid().is_root(),
    };
    copy.folder(from, to, 0)
}

struct Copy {
    /// Files with several names, by device and inode: where the first copy is.
    links: HashMap<(u64, u64), PathBuf>,
    keeps_owners: bool,
}

impl Copy {
    fn folder(&mut self, from: &Path, to: &Path, depth: usize) -> Result<(), ImageError> {
        let failed = |error| ImageError::host(from, "copy the folder", error);
        if depth > MAX_DEPTH {
            return Err(failed(io::Error::from_raw_os_error(libc::ENAMETOOLONG)));
        }
        for entry in fs::read_dir(from).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let (from, to) = (from.join(&name), to.join(&name));
            let metadata = fs::symlink_metadata(&from).map_err(|error| ImageError::host(&from, "look at it", error))?;
            if metadata.is_dir() {
                fs::create_dir(&to).map_err(|error| ImageError::host(&from, "copy the folder", error))?;
                self.folder(&from, &to, depth + 1)?;
            } else {
                self.file(&from, &to, &metadata)
                    .map_err(|error| ImageError::host(&from, "copy it", error))?;
            }
        }
        let metadata = fs::symlink_metadata(from).map_err(failed)?;
        self.finish(from, to, &metadata).map_err(failed)
    }

    fn file(&mut self, from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
        if metadata.nlink() > 1 {
            let identity = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&identity) {
                return fs::hard_link(first, to);
            }
            self.links.insert(identity, to.to_owned());
        }
        match FileType::from_raw_mode(metadata.mode()) {
            FileType::RegularFile => drop(fs::copy(from, to)?),
            FileType::Symlink => symlink(fs::read_link(from)?, to)?,
            // Whoever listens at a socket does so on the original.
            FileType::Socket => return Ok(()),
            other => rustix::fs::mknodat(CWD, to, other, Mode::RUSR, metadata.rdev())?,
        }
        self.finish(from, to, metadata)
    }

    /// The order matters: a change of owner takes the set-user-id bit and the capabilities away.
    fn finish(&self, from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
        if self.keeps_owners {
            lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        if !metadata.is_symlink() {
            fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        }
        if metadata.is_file() || metadata.is_dir() {
            copy_attributes(from, to)?;
        }
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: metadata.atime(),
                tv_nsec: metadata.atime_nsec(),
            },
            last_modification: Timespec {
                tv_sec: metadata.mtime(),
                tv_nsec: metadata.mtime_nsec(),
            },
        };
        Ok(rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = vec![0_u8; MAX_ATTRIBUTES];
    let length = match rustix::fs::llistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        // Labels are the host's affair, and instructions for overlays must not be followed twice.
        if !name.starts_with(b"user.") && name != b"security.capability" {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let mut value = vec![0_u8; MAX_ATTRIBUTES];
        let length = rustix::fs::lgetxattr(from, name, &mut value[..])?;
        match rustix::fs::lsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
