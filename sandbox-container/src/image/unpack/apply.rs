//! One entry of an archive.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind};
use super::times::timestamps;
use super::tree::{self, WalkError, parts};
use super::{ImageError, Ownership, Unpacker};

/// Longest name of a file in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;
/// Longest target of a link in bytes (`PATH_MAX` without the NUL).
const MAX_TARGET: usize = 4095;

/// Prefix of names that remove something.
const WHITEOUT: &[u8] = b".wh.";
/// The name that hides all that former layers put into its folder.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of what else the first implementation kept for itself.
const RESERVED: &[u8] = b".wh..wh.";

impl Unpacker {
    pub(super) fn apply(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<'_, impl Read>,
        has_whiteouts: bool,
    ) -> Result<(), ImageError> {
        let components = checked_parts(entry, &entry.path, self.limits.depth)?;
        let Some((&name, parents)) = components.split_last() else {
            return self.apply_to_root(entry);
        };
        if has_whiteouts && name.starts_with(WHITEOUT) {
            return self.white_out(entry, parents, name);
        }
        let parent = self
            .tree
            .folder(parents, true)
            .map_err(|error| walk_error(entry, error))?
            .try_clone_to_owned()
            .map_err(|error| entry.failed("open its folder", error))?;
        self.make_way(entry, parent.as_fd(), name)?;
        self.note_made(entry, parent.as_fd(), name, has_whiteouts)?;
        let name = OsStr::from_bytes(name);
        match entry.kind {
            Kind::Regular => self.regular(entry, parent.as_fd(), name, archive),
            Kind::Directory => self.directory(entry, parent.as_fd(), name),
            Kind::Symlink => self.symlink(entry, parent.as_fd(), name),
            Kind::HardLink => self.hard_link(entry, parent.as_fd(), name),
            Kind::Fifo => self.fifo(entry, parent.as_fd(), name),
            Kind::Device => {
                let reason = "is a device, which no image may bring: leave it out, the runtime fills /dev itself";
                Err(entry.refused(reason))
            }
        }
    }

    /// The root itself: its owner, mode and time.
    fn apply_to_root(&mut self, entry: &Entry) -> Result<(), ImageError> {
        if entry.kind != Kind::Directory {
            return Err(entry.refused("would stand in the root folder's place"));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(self.tree.root(), ".", flags, Mode::empty())
            .map_err(|error| entry.failed("open the root folder", error))?;
        self.owner_and_attributes(entry, &root)?;
        self.note_folder(entry)
    }

    fn white_out(&mut self, entry: &Entry, parents: &[&[u8]], name: &[u8]) -> Result<(), ImageError> {
        let hidden = name.strip_prefix(WHITEOUT).unwrap_or_default();
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(entry.refused("is a whiteout of nothing that can be hidden"));
        }
        let folder = match self.tree.folder(parents, false) {
            Ok(folder) => folder,
            // Nothing is there that could be hidden.
            Err(WalkError::Os(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(walk_error(entry, error)),
        };
        let made = &self.made;
        let keep = |inode: u64, name: &OsStr| made.contains(&(inode, name.as_bytes().to_vec()));
        let removed = match name {
            OPAQUE => tree::clear(folder, &keep).map(drop),
            name if name.starts_with(RESERVED) => Ok(()),
            _ => tree::remove(folder, OsStr::from_bytes(hidden), &keep).map(drop),
        };
        removed.map_err(|error| entry.failed("remove what it hides", error))?;
        self.tree.forget_paths();
        Ok(())
    }

    /// Removes what stands in the entry's place, except a folder where a folder is to be.
    fn make_way(&mut self, entry: &Entry, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), ImageError> {
        let name = OsStr::from_bytes(name);
        let present = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(present) => FileType::from_raw_mode(present.st_mode),
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(entry.failed("look what stands in its place", error)),
        };
        if present == FileType::Directory && entry.kind == Kind::Directory {
            return Ok(());
        }
        tree::remove(parent, name, &|_, _| false)
            .map_err(|error| entry.failed("remove what stands in its place", error))?;
        self.tree.forget_paths();
        Ok(())
    }

    fn note_made(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
        has_whiteouts: bool,
    ) -> Result<(), ImageError> {
        self.name_bytes += name.len();
        if self.name_bytes > self.limits.name_bytes {
            let most = self.limits.name_bytes;
            return Err(entry.refused(format!(
                "is one name too many: at most {most} bytes of names are unpacked"
            )));
        }
        if has_whiteouts {
            let inode = rustix::fs::fstat(parent).map_err(|error| entry.failed("look at its folder", error))?;
            self.made.insert((inode.st_ino, name.to_vec()));
        }
        Ok(())
    }

    fn regular(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        archive: &mut Archive<'_, impl Read>,
    ) -> Result<(), ImageError> {
        let left = self.limits.bytes.saturating_sub(self.done.bytes);
        if archive.content_left() > left {
            let reason = format!(
                "makes the image larger than {} bytes, the most that is unpacked",
                self.limits.bytes
            );
            return Err(entry.refused(reason));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| entry.failed("make the file", error))?;
        let mut file = File::from(file);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = archive.read_content(&mut buffer)?;
            if length == 0 {
                break;
            }
            self.done.bytes += length as u64;
            file.write_all(&buffer[..length])
                .map_err(|error| entry.failed("write the file", error))?;
        }
        let file = OwnedFd::from(file);
        self.owner_and_attributes(entry, &file)?;
        rustix::fs::futimens(&file, &timestamps(entry.modified)).map_err(|error| entry.failed("set its time", error))
    }

    fn directory(&mut self, entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), ImageError> {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(entry.failed("make the folder", error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(parent, name, flags, Mode::empty())
            .map_err(|error| entry.failed("open the folder", error))?;
        self.owner_and_attributes(entry, &folder)?;
        self.note_folder(entry)
    }

    fn note_folder(&mut self, entry: &Entry) -> Result<(), ImageError> {
        match self.folders.add(entry, self.limits.name_bytes) {
            true => Ok(()),
            false => Err(entry.refused("is one folder too many")),
        }
    }

    fn symlink(&mut self, entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), ImageError> {
        if entry.target.is_empty() || entry.target.len() > MAX_TARGET || entry.target.contains(&0) {
            return Err(entry.refused("is a link whose target no link can have"));
        }
        rustix::fs::symlinkat(OsStr::from_bytes(&entry.target), parent, name)
            .map_err(|error| entry.failed("make the link", error))?;
        self.owner_by_name(entry, parent, name)
    }

    fn hard_link(&mut self, entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), ImageError> {
        let target = checked_parts(entry, &entry.target, self.limits.depth)?;
        let Some((&target_name, folders)) = target.split_last() else {
            return Err(entry.refused("is a hard link to the root folder"));
        };
        let folder = self
            .tree
            .folder(folders, false)
            .map_err(|error| walk_error(entry, error))?;
        let linked = rustix::fs::linkat(folder, OsStr::from_bytes(target_name), parent, name, AtFlags::empty());
        match linked {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(entry.refused("is a hard link to what is not there")),
            Err(Errno::PERM) => Err(entry.refused("is a hard link to what cannot be linked to, such as a folder")),
            Err(error) => Err(entry.failed("make the hard link", error)),
        }
    }

    fn fifo(&mut self, entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), ImageError> {
        rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::RUSR, 0)
            .map_err(|error| entry.failed("make the named pipe", error))?;
        self.owner_by_name(entry, parent, name)?;
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(|error| entry.failed("set its mode", error))
    }

    /// Owner and time of what is not opened, as links and pipes.
    fn owner_by_name(&self, entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), ImageError> {
        if self.ownership == Ownership::Archive {
            let (uid, gid) = owner(entry);
            rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| entry.failed("set its owner", error))?;
        }
        rustix::fs::utimensat(parent, name, &timestamps(entry.modified), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| entry.failed("set its time", error))
    }

    /// The order matters: a change of owner takes the set-user-id bit and the capabilities away.
    fn owner_and_attributes(&self, entry: &Entry, file: &OwnedFd) -> Result<(), ImageError> {
        if self.ownership == Ownership::Archive {
            let (uid, gid) = owner(entry);
            rustix::fs::fchown(file, uid, gid).map_err(|error| entry.failed("set its owner", error))?;
        }
        if entry.kind == Kind::Regular {
            rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))
                .map_err(|error| entry.failed("set its mode", error))?;
        }
        self.attributes(entry, file)
    }

    fn attributes(&self, entry: &Entry, file: &OwnedFd) -> Result<(), ImageError> {
        let bytes: usize = entry
            .attributes
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if bytes > self.limits.attribute_bytes {
            let most = self.limits.attribute_bytes;
            return Err(entry.refused(format!(
                "has {bytes} bytes of extended attributes; at most {most} are taken"
            )));
        }
        for (name, value) in &entry.attributes {
            match attribute(name) {
                Attribute::Set => {}
                Attribute::Ignored => continue,
                Attribute::Refused => {
                    let name = String::from_utf8_lossy(name);
                    return Err(entry.refused(format!("has the extended attribute {name}, which no image may bring")));
                }
            }
            match rustix::fs::fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                // A file system without them, or a caller without the right to give capabilities.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(Errno::PERM) if self.ownership == Ownership::Caller => {}
                Err(error) => return Err(entry.failed("set an extended attribute", error)),
            }
        }
        Ok(())
    }
}

/// What becomes of an extended attribute.
#[derive(Debug, PartialEq, Eq)]
enum Attribute {
    Set,
    Ignored,
    Refused,
}

fn attribute(name: &[u8]) -> Attribute {
    match name {
        b"security.capability" => Attribute::Set,
        // overlayfs would take its own for instructions: to show files of other places, or to hide some.
        name if name.starts_with(b"user.overlay.") => Attribute::Refused,
        name if name.starts_with(b"user.") => Attribute::Set,
        // Labels and signatures of the machine on which the image was made mean nothing on this one.
        name if name.starts_with(b"security.") || name.starts_with(b"system.") => Attribute::Ignored,
        _ => Attribute::Refused,
    }
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

/// The components of a path in an archive, which must lie below the root by its text alone.
fn checked_parts<'a>(entry: &Entry, path: &'a [u8], depth: usize) -> Result<Vec<&'a [u8]>, ImageError> {
    let what = || match std::ptr::eq(path, entry.path.as_slice()) {
        true => String::new(),
        false => format!("is a hard link to {:?}, which ", String::from_utf8_lossy(path)),
    };
    if path.starts_with(b"/") {
        return Err(entry.refused(what() + "has an absolute path: make the archive with relative ones"));
    }
    if path.contains(&0) {
        return Err(entry.refused(what() + "has a NUL byte in its path"));
    }
    let components: Vec<&[u8]> = parts(path).collect();
    if components.contains(&b"..".as_slice()) {
        return Err(entry.refused(what() + "leads out of the root folder by `..`"));
    }
    if components.len() > depth {
        return Err(entry.refused(what() + &format!("is deeper than {depth} folders")));
    }
    if components.iter().any(|part| part.len() > MAX_NAME) {
        return Err(entry.refused(what() + &format!("has a name longer than {MAX_NAME} bytes")));
    }
    Ok(components)
}

fn walk_error(entry: &Entry, error: WalkError) -> ImageError {
    match error {
        WalkError::Escapes => entry.refused("leads out of the root folder by a link"),
        WalkError::TooLong => entry.refused("leads through too many links or folders"),
        WalkError::NotAFolder => entry.refused("lies below what is no folder"),
        WalkError::Os(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => entry.refused("lies in a folder that is not there"),
            _ => entry.failed("open its folder", error),
        },
    }
}
