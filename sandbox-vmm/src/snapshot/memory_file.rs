//! The memory file: a header page, then guest memory, each page at its place and those that are not stored left out.
//!
//! ```text
//! 0     magic (8)  format (4)  identity (16)  bytes of guest memory (8)  CRC-32 of these (4)
//! 4096  guest memory, all RAM ranges one behind the other
//! ```
//!
//! Integers are little-endian. Which pages are stored stands in the state file, so that a copy which has lost its holes
//! is as good; what is not stored is never read.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use sandbox_core::snapshot::FileRecord;
use sandbox_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::section::{FORMAT, Identity, SectionKind, SectionState};
use crate::memory::extent::{self, Extent};
use crate::memory::layout::PAGE_SIZE;
use crate::memory::{GuestMemory, HostMapping};

const MAGIC: [u8; 8] = *b"SBXMEMRY";
const HEADER_SIZE: usize = 8 + 4 + 16 + 8 + 4;
/// Where guest memory begins: the header has a page of its own, so that pages stay aligned.
const DATA_START: u64 = PAGE_SIZE;
/// How much is read at a time, in bytes.
const CHUNK: u64 = 256 << 10;
/// Most layers that a snapshot has: a restore reads all of them.
pub const MAX_LAYERS: usize = 16;
/// Most runs of pages in a layer: a hostile state must not make us take memory without end.
const MAX_EXTENTS: usize = 1 << 20;

/// Which pages the memory files hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryState {
    /// Guest memory in bytes.
    pub size: u64,
    /// The oldest first: of a page that is in several, the last counts. The last is the snapshot's own.
    pub layers: Vec<Layer>,
}

/// What one memory file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The snapshot that it was written for.
    pub identity: [u8; 16],
    /// The pages that count. Those that are zero may be holes in the file.
    pub extents: Vec<Extent>,
}

impl SectionState for MemoryState {
    const KIND: SectionKind = SectionKind::Memory;
    const VERSION: u16 = 1;
}

impl MemoryState {
    /// Checks what was read from a file.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn check(&self) -> Result<()> {
        let sound = !self.layers.is_empty()
            && self.layers.len() <= MAX_LAYERS
            && self
                .layers
                .iter()
                .all(|layer| layer.extents.len() <= MAX_EXTENTS && extent::are_sound(&layer.extents, self.size));
        match sound {
            true => Ok(()),
            false => Err(corrupt("the list of the stored pages is not one")),
        }
    }

    /// The pages of all layers.
    pub fn extents(&self) -> Vec<Extent> {
        let all = self.layers.iter().map(|layer| &layer.extents);
        all.fold(Vec::new(), |sum, extents| extent::union(&sum, extents))
    }

    /// Name of the file of layer number `index` in the folder.
    pub fn file_name(&self, index: usize) -> String {
        match index + 1 == self.layers.len() {
            true => OWN_FILE.to_owned(),
            false => base_file(index),
        }
    }
}

/// Name of a snapshot's own memory file.
pub const OWN_FILE: &str = "memory";

/// Name of the memory file of base number `index`, the oldest being 0.
pub fn base_file(index: usize) -> String {
    format!("base-{index}.memory")
}

/// Makes the file of a guest with `size` bytes of memory, with no page in it yet.
pub fn create(path: &Path, identity: Identity, size: u64) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.set_len(DATA_START + size)?;
    file.write_all_at(&header(identity, size), 0)?;
    Ok(file)
}

/// Writes the `stored` pages of `mapping` to a file that was made for it.
pub fn write(file: &File, mapping: &HostMapping, stored: &[Extent]) -> io::Result<()> {
    let mut extents = stored.iter();
    extents.try_for_each(|extent| mapping.write_to_file(*extent, file, DATA_START + extent.offset))
}

/// Bytes of a file for `size` bytes of guest memory.
pub fn file_size(size: u64) -> u64 {
    DATA_START + size
}

fn header(identity: Identity, size: u64) -> [u8; HEADER_SIZE] {
    let mut header = [0; HEADER_SIZE];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[12..28].copy_from_slice(&identity.0);
    header[28..36].copy_from_slice(&size.to_le_bytes());
    let checksum = crc32fast::hash(&header[..36]);
    header[36..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// A memory file with the pages that count of it, opened once: what is checked is what is read.
#[derive(Debug)]
pub struct MemoryFile {
    file: File,
    name: String,
    layer: Layer,
}

impl MemoryFile {
    /// Opens the file and checks size and identity against the manifest's record and the state's layer.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] and [`ErrorKind::Corrupt`].
    pub fn open(path: &Path, name: String, size: u64, layer: Layer, record: &FileRecord) -> Result<Self> {
        let file = super::files::open_regular(path, &name)?;
        let length = file
            .metadata()
            .map_err(|error| super::files::unreadable(&name, error))?
            .len();
        let expected = DATA_START + size;
        if length != expected || record.size != expected {
            return Err(corrupt(format!(
                "{name} has {length} bytes where the snapshot has {expected}"
            )));
        }
        let identity = Identity(layer.identity);
        let mut found = [0; HEADER_SIZE];
        file.read_exact_at(&mut found, 0)
            .map_err(|error| super::files::unreadable(&name, error))?;
        if found != header(identity, size) || record.identity != identity.to_string() {
            return Err(corrupt(format!(
                "{name} belongs to another snapshot, or its header is damaged"
            )));
        }
        Ok(Self { file, name, layer })
    }

    /// One that somebody else opened and checked.
    pub fn checked(file: File, name: String, layer: Layer) -> Self {
        Self { file, name, layer }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The pages that count.
    pub fn extents(&self) -> &[Extent] {
        &self.layer.extents
    }

    /// Where a page stands in the file.
    pub fn position(offset: u64) -> u64 {
        DATA_START + offset
    }

    /// Gives all its pages to `sink`, with their offsets, in order; with a `digest`, checks that they are those.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for a file that ends before, or that has another digest.
    pub fn read(&self, digest: Option<&str>, sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>) -> Result<()> {
        let mut hasher = digest.map(|_| Sha256::new());
        let mut buffer = vec![0; CHUNK as usize];
        for extent in &self.layer.extents {
            if let Some(hasher) = &mut hasher {
                hasher.update(extent.offset.to_le_bytes());
                hasher.update(extent.len.to_le_bytes());
            }
            let mut done = 0;
            while done < extent.len {
                let bytes = &mut buffer[..(extent.len - done).min(CHUNK) as usize];
                let offset = extent.offset + done;
                self.file
                    .read_exact_at(bytes, DATA_START + offset)
                    .map_err(|error| super::files::unreadable(&self.name, error))?;
                if let Some(hasher) = &mut hasher {
                    hasher.update(&*bytes);
                }
                sink(offset, bytes).map_err(|error| {
                    let context = "the host has no memory for the snapshot's pages";
                    Error::new(ErrorKind::HostExhausted, context).with_source(error)
                })?;
                done += bytes.len() as u64;
            }
        }
        let found = hasher.map(|hasher| hexadecimal(&hasher.finalize()));
        match found.as_deref() == digest {
            true => Ok(()),
            false => Err(corrupt(format!(
                "{} is not what was written: its digest differs",
                self.name
            ))),
        }
    }
}

/// Gives all pages of `files`, the oldest layer first, to a guest's memory, and checks their digests where there are some.
///
/// # Errors
/// As [`MemoryFile::read`].
pub fn read_all(files: &[MemoryFile], digests: &[Option<&str>], memory: &GuestMemory) -> Result<()> {
    let mut sink = |offset: u64, bytes: &[u8]| memory.mapping().fill(offset, bytes);
    let mut layers = files.iter().zip(digests);
    layers.try_for_each(|(file, digest)| file.read(*digest, &mut sink))
}

/// SHA-256 over the stored pages, each run of them led by its offset and its length (8 bytes each, little-endian).
///
/// # Errors
/// A file that cannot be read.
pub fn digest(file: &File, extents: &[Extent]) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK as usize];
    for extent in extents {
        hasher.update(extent.offset.to_le_bytes());
        hasher.update(extent.len.to_le_bytes());
        let mut done = 0;
        while done < extent.len {
            let bytes = &mut buffer[..(extent.len - done).min(CHUNK) as usize];
            file.read_exact_at(bytes, DATA_START + extent.offset + done)?;
            hasher.update(&*bytes);
            done += bytes.len() as u64;
        }
    }
    Ok(hexadecimal(&hasher.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn corrupt(context: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Corrupt, context)
}
