//! The memory file: a header page, then guest memory, each page at its place and those that are not stored left out.
//!
//! ```text
//! 0     magic (8)  format (4)  identity (16)  bytes of guest memory (8)  CRC-32 of these (4)
//! 4096  guest memory, all RAM ranges one behind the other
//! ```
//!
//! Integers are little-endian. Which pages are stored stands in the state file, so that a copy which has lost its holes
//! is as good; what is not stored is never read. Pages that are one word over and over are holes as well: the word stands
//! in the state file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use sandbox_core::snapshot::FileRecord;
use sandbox_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::huge_blocks;
use super::section::{self, FORMAT, Identity, SectionKind, SectionState};
use crate::memory::extent::{self, Extent};
use crate::memory::fill::{self, Fill};
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
    /// Those of them that are one word over and over, which are holes in the file too, in order and apart.
    pub fills: Vec<Fill>,
}

impl SectionState for MemoryState {
    const KIND: SectionKind = SectionKind::Memory;
    const VERSION: u16 = 2;

    fn read_earlier(version: u16, payload: &[u8]) -> Option<std::result::Result<Self, postcard::Error>> {
        (version == 1).then(|| section::decode::<MemoryStateV1>(payload).map(Self::from))
    }
}

/// Version 1 knew no fills.
#[derive(Deserialize)]
struct MemoryStateV1 {
    size: u64,
    layers: Vec<LayerV1>,
}

#[derive(Deserialize)]
struct LayerV1 {
    identity: [u8; 16],
    extents: Vec<Extent>,
}

impl From<MemoryStateV1> for MemoryState {
    fn from(earlier: MemoryStateV1) -> Self {
        let layer = |LayerV1 { identity, extents }| Layer {
            identity,
            extents,
            fills: Vec::new(),
        };
        Self {
            size: earlier.size,
            layers: earlier.layers.into_iter().map(layer).collect(),
        }
    }
}

impl Layer {
    fn is_sound(&self, size: u64) -> bool {
        let fills: Vec<Extent> = self.fills.iter().map(|fill| fill.extent).collect();
        let few = self.extents.len().max(fills.len()) <= MAX_EXTENTS;
        few && extent::are_sound(&self.extents, size) && extent::are_sound(&fills, size)
    }
}

impl MemoryState {
    /// Checks what was read from a file.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn check(&self) -> Result<()> {
        let sound = !self.layers.is_empty()
            && self.layers.len() <= MAX_LAYERS
            && self.layers.iter().all(|layer| layer.is_sound(self.size));
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
    huge_blocks::prepare(file, file_size(mapping.len() as u64), stored, DATA_START)?;
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

    /// The page at `offset`; `None` if it is none of those that count.
    ///
    /// # Errors
    /// A file that cannot be read, or ends before.
    pub fn page(&self, offset: u64) -> io::Result<Option<[u8; PAGE_SIZE as usize]>> {
        let extents = &self.layer.extents;
        let behind = extents.partition_point(|extent| extent.offset <= offset);
        if behind == 0 || offset >= extents[behind - 1].end() {
            return Ok(None);
        }
        let mut page = [0; PAGE_SIZE as usize];
        self.file.read_exact_at(&mut page, DATA_START + offset)?;
        fill::apply(&self.layer.fills, offset, &mut page);
        Ok(Some(page))
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
                fill::apply(&self.layer.fills, offset, bytes);
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

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::HugePages;

    const SIZE: u64 = 8 << 20;
    const PAGES: u64 = SIZE / PAGE_SIZE;

    /// A guest whose pages, numbered, are zero, all alike, or of many words.
    fn memory(content: impl Fn(u64) -> Option<u64>) -> GuestMemory {
        let memory = GuestMemory::new(SIZE, HugePages::Never, false).unwrap();
        for page in 0..PAGES {
            let Some(word) = content(page) else { continue };
            let words = (0..PAGE_SIZE / 8).map(|index| match page % 3 {
                0 => word,
                _ => word + index,
            });
            let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
            memory.write_slice(&bytes, GuestAddress(page * PAGE_SIZE)).unwrap();
        }
        memory
    }

    fn bytes(memory: &GuestMemory) -> Vec<u8> {
        let mut bytes = vec![0; SIZE as usize];
        memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    }

    /// A file with all or some pages of a memory, and what stands in the state and the manifest for it.
    fn stored(path: &Path, memory: &GuestMemory, counting: &[Extent], number: u8) -> MemoryFile {
        let identity = Identity([number; 16]);
        let file = create(path, identity, SIZE).unwrap();
        let (mixed, fills) = memory.mapping().sort_pages(counting);
        write(&file, memory.mapping(), &mixed).unwrap();
        let extents = counting.to_vec();
        let record = FileRecord {
            size: file_size(SIZE),
            identity: identity.to_string(),
            digest: Some(digest(&file, &extents).unwrap()),
        };
        let layer = Layer {
            identity: identity.0,
            extents,
            fills,
        };
        let file = MemoryFile::open(path, "memory".to_owned(), SIZE, layer, &record).unwrap();
        file.read(record.digest.as_deref(), &mut |_, _| Ok(())).unwrap();
        file
    }

    #[test]
    fn pages_of_one_word_take_no_room_and_come_back_in_every_layer() {
        let folder = std::env::temp_dir().join(format!("sandbox-memory-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let first = memory(|page| (page > 20).then_some(0xcccc_cccc_0000_0000 + page / 100));
        // Some pages change in every way; the difference holds each fifth one.
        let second = memory(|page| match page % 5 {
            0 => (page % 2 == 0).then_some(page),
            _ => (page > 20).then_some(0xcccc_cccc_0000_0000 + page / 100),
        });
        let all = [Extent { offset: 0, len: SIZE }];
        let mut fifths = Vec::new();
        (0..PAGES)
            .step_by(5)
            .for_each(|page| extent::push_page(&mut fifths, page * PAGE_SIZE));
        let files = [
            stored(&folder.join("first"), &first, &all, 1),
            stored(&folder.join("second"), &second, &fifths, 2),
        ];
        let read = GuestMemory::new(SIZE, HugePages::Never, false).unwrap();
        read_all(&files[..1], &[None], &read).unwrap();
        assert!(bytes(&read) == bytes(&first));
        read_all(&files, &[None, None], &read).unwrap();
        let expected = bytes(&second);
        assert!(bytes(&read) == expected);
        for (page, expected) in (0..PAGES).zip(expected.chunks(PAGE_SIZE as usize)) {
            let [older, newer] = [0, 1].map(|number: usize| files[number].page(page * PAGE_SIZE).unwrap());
            assert_eq!(newer.is_some(), page % 5 == 0);
            assert!(newer.or(older).unwrap() == *expected, "page {page}");
        }
        let taken = std::os::unix::fs::MetadataExt::blocks(&files[0].file().metadata().unwrap()) * 512;
        assert!(taken < SIZE * 3 / 4, "{taken} bytes");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
