//! OCI image layouts (OCI image-spec, "Image Layout"), as folders or as tar archives of such folders.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;

use super::digest::{Digest, Hasher, HashingReader};
use super::error::ImageError;

/// Most bytes of an index, a manifest or a configuration that are read. It bounds the attack by a document that fills
/// the memory; real ones have some kilobytes.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// Most files that an archive of a layout may hold, bounding what is remembered of it.
const MAX_FILES: usize = 65_536;
/// Longest path of interest in an archive of a layout: that of a blob with a SHA-512 digest.
const MAX_PATH: usize = 160;

/// A layout that was opened.
#[derive(Debug)]
pub(crate) struct Layout {
    path: PathBuf,
    files: Files,
}

#[derive(Debug)]
enum Files {
    Folder(OwnedFd),
    /// An archive, and where in it the files' contents stand: offset and length in bytes.
    Archive(File, HashMap<String, (u64, u64)>),
}

/// One file of a layout, read from its beginning.
#[derive(Debug)]
pub(crate) struct Blob {
    file: File,
    at: u64,
    left: u64,
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let length = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}

impl Layout {
    /// Opens the layout at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, ImageError> {
        let (file, kind) = open_source(path)?;
        let files = match kind {
            SourceKind::Folder => Files::Folder(file.into()),
            SourceKind::File => {
                let index = index_archive(path, &file)?;
                Files::Archive(file, index)
            }
        };
        let layout = Self {
            path: path.to_owned(),
            files,
        };
        layout.check_version()?;
        Ok(layout)
    }

    fn check_version(&self) -> Result<(), ImageError> {
        const NAME: &str = "oci-layout";
        let Some(blob) = self.find(NAME)? else {
            return Err(ImageError::UnfitSource {
                path: self.path.clone(),
                reason: "is no OCI image layout: it has no file oci-layout (for a root file system use `rootfs`)",
            });
        };
        let marker: serde_json::Value = parse(NAME, &read_document(NAME, blob)?)?;
        match marker["imageLayoutVersion"].as_str() {
            Some(version) if version.starts_with("1.") => Ok(()),
            version => Err(ImageError::BadDocument {
                document: NAME.to_owned(),
                reason: format!("names the layout version {version:?}; 1.x is known"),
            }),
        }
    }

    /// Reads and parses a document by its file name.
    pub(crate) fn document<T: DeserializeOwned>(&self, name: &str) -> Result<T, ImageError> {
        let blob = self.find(name)?.ok_or_else(|| ImageError::BadDocument {
            document: name.to_owned(),
            reason: "is missing".to_owned(),
        })?;
        parse(name, &read_document(name, blob)?)
    }

    /// Reads, verifies and parses a document by its descriptor's digest and size.
    pub(crate) fn described<T: DeserializeOwned>(&self, digest: &Digest, size: u64) -> Result<T, ImageError> {
        let name = digest.to_string();
        let bytes = read_document(&name, self.blob(digest, size)?)?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        digest.check(hasher)?;
        parse(&name, &bytes)
    }

    /// Opens a blob whose size is what its descriptor says. Its digest is for the reader to check.
    pub(crate) fn blob(&self, digest: &Digest, size: u64) -> Result<Blob, ImageError> {
        let blob = self.find(&digest.path())?.ok_or_else(|| ImageError::MissingBlob {
            digest: digest.to_string(),
        })?;
        match blob.left == size {
            true => Ok(blob),
            false => Err(ImageError::SizeMismatch {
                digest: digest.to_string(),
                expected: size,
                found: blob.left,
            }),
        }
    }

    fn find(&self, name: &str) -> Result<Option<Blob>, ImageError> {
        let failed = |source: std::io::Error| ImageError::host(self.path.join(name), "open it", source);
        match &self.files {
            Files::Archive(file, index) => match index.get(name) {
                Some(&(at, left)) => {
                    let file = file.try_clone().map_err(failed)?;
                    Ok(Some(Blob { file, at, left }))
                }
                None => Ok(None),
            },
            Files::Folder(folder) => {
                // Beneath the folder, or a hostile layout would have files of the host read. Non-blocking, or it would
                // have us wait for a pipe.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let file = match rustix::fs::openat2(folder, name, flags, Mode::empty(), resolve) {
                    Ok(file) => File::from(file),
                    Err(Errno::NOENT) => return Ok(None),
                    Err(Errno::XDEV | Errno::LOOP) => {
                        return Err(ImageError::UnfitSource {
                            path: self.path.join(name),
                            reason: "is a link that leads out of the layout",
                        });
                    }
                    Err(error) => return Err(failed(error.into())),
                };
                let metadata = file.metadata().map_err(failed)?;
                if !metadata.is_file() {
                    return Err(ImageError::UnfitSource {
                        path: self.path.join(name),
                        reason: "is no regular file",
                    });
                }
                Ok(Some(Blob {
                    file,
                    at: 0,
                    left: metadata.len(),
                }))
            }
        }
    }
}

/// What a path given by the embedder leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceKind {
    Folder,
    File,
}

/// Opens a folder, as a starting point, or a regular file.
pub(crate) fn open_source(path: &Path) -> Result<(File, SourceKind), ImageError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| ImageError::host(path, "open it", error))?;
    let file = File::from(file);
    let kind = file
        .metadata()
        .map_err(|error| ImageError::host(path, "look at it", error))?
        .file_type();
    if kind.is_dir() {
        return Ok((file, SourceKind::Folder));
    }
    if kind.is_file() {
        return Ok((file, SourceKind::File));
    }
    let reason = match kind.is_block_device() || kind.is_char_device() {
        true => "is a device: give a folder or a tar archive",
        false => "is neither a folder nor a file: give a folder or a tar archive",
    };
    Err(ImageError::UnfitSource {
        path: path.to_owned(),
        reason,
    })
}

/// Finds the files of a layout in an archive, by going from header to header.
fn index_archive(path: &Path, file: &File) -> Result<HashMap<String, (u64, u64)>, ImageError> {
    let bad = |reason: String| ImageError::BadArchive { reason };
    let mut start = [0; 2];
    let length = file
        .read_at(&mut start, 0)
        .map_err(|error| ImageError::host(path, "read it", error))?;
    if length == 2 && start == [0x1f, 0x8b] {
        return Err(bad("of a layout is packed as a whole: unpack it with gunzip".to_owned()));
    }
    let mut reader = file;
    reader
        .seek(SeekFrom::Start(0))
        .map_err(|error| ImageError::host(path, "read it", error))?;
    let mut archive = tar::Archive::new(reader);
    // Raw, or a long name of gigabytes would be read into memory.
    let entries = archive
        .entries_with_seek()
        .map_err(|error| bad(format!("cannot be read: {error}")))?
        .raw(true);
    let mut index = HashMap::new();
    for entry in entries {
        let entry = entry.map_err(|error| bad(format!("cannot be read: {error}")))?;
        let name = entry.path_bytes();
        let name = name.strip_prefix(b"./".as_slice()).unwrap_or(&name);
        if !entry.header().entry_type().is_file() || name.len() > MAX_PATH {
            continue;
        }
        if index.len() == MAX_FILES {
            return Err(bad(format!("holds more than {MAX_FILES} files: no layout does")));
        }
        let name = String::from_utf8_lossy(name).into_owned();
        index.insert(name, (entry.raw_file_position(), entry.size()));
    }
    Ok(index)
}

fn read_document(name: &str, blob: Blob) -> Result<Vec<u8>, ImageError> {
    if blob.left > MAX_DOCUMENT {
        return Err(ImageError::BadDocument {
            document: name.to_owned(),
            reason: format!("has {} bytes; at most {MAX_DOCUMENT} are read", blob.left),
        });
    }
    let mut bytes = Vec::new();
    let mut blob = blob;
    blob.read_to_end(&mut bytes)
        .map_err(|error| ImageError::host(name, "read it", error))?;
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::BadDocument {
        document: name.to_owned(),
        reason: format!("cannot be understood: {error}"),
    })
}

/// A blob that is hashed while it is read.
pub(crate) fn hashing(blob: Blob, digest: &Digest) -> HashingReader<Blob> {
    HashingReader::new(blob, digest.algorithm())
}
