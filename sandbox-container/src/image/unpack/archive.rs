//! Reading a tar archive (POSIX.1-2017 pax, ustar, GNU) entry by entry, with bounds on all that is held in memory.
//!
//! The headers' fields are decoded by the crate `tar`. The walk from header to header is ours, because that crate reads
//! long names and extended headers of any size into memory.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::{ImageError, UnpackLimits};

const BLOCK: usize = 512;
/// Where the checksum stands in a header.
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// Vendor prefix of extended attributes in pax records, as star and Go write them.
const ATTRIBUTE_PREFIX: &[u8] = b"SCHILY.xattr.";
/// Vendor prefix of sparse files in pax records.
const SPARSE_PREFIX: &[u8] = b"GNU.sparse.";

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    Device,
}

/// An entry's header, with what extended headers before it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Target of a link.
    pub(super) target: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub(super) modified: (i64, i64),
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// The path for people.
    pub(super) fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    /// A refusal of this entry.
    pub(super) fn refused(&self, reason: impl Into<String>) -> ImageError {
        ImageError::Entry {
            entry: self.name(),
            reason: reason.into(),
        }
    }

    /// The host's failure at this entry.
    pub(super) fn failed(&self, action: &'static str, source: impl Into<io::Error>) -> ImageError {
        ImageError::EntryFailed {
            entry: self.name(),
            action,
            source: source.into(),
        }
    }
}

/// An archive that is being read.
#[derive(Debug)]
pub(super) struct Archive<'a, R> {
    reader: R,
    limits: &'a UnpackLimits,
    /// Bytes of the present entry's content that were not read yet.
    content: u64,
    padding: u64,
    blocks: u64,
}

/// What extended headers say about the entry that follows them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<(i64, i64)>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    is_sparse: bool,
}

impl<'a, R: Read> Archive<'a, R> {
    pub(super) fn new(reader: R, limits: &'a UnpackLimits) -> Self {
        Self {
            reader,
            limits,
            content: 0,
            padding: 0,
            blocks: 0,
        }
    }

    /// The next entry, or nothing at the archive's end. What was not read of the former entry is passed over.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, ImageError> {
        let mut extension = Extension::default();
        let mut is_extended = false;
        loop {
            self.pass_over_content()?;
            let Some(header) = self.header()? else {
                return match is_extended {
                    false => Ok(None),
                    true => Err(bad("is cut off behind an extended header")),
                };
            };
            self.set_size(header.entry_size().map_err(|_| bad("has a header without a size"))?);
            match header.entry_type() {
                EntryType::XHeader => pax(&self.read_extension()?, &mut extension)?,
                EntryType::GNULongName => extension.path = Some(without_nul(self.read_extension()?)),
                EntryType::GNULongLink => extension.target = Some(without_nul(self.read_extension()?)),
                // A comment of git, or defaults that no writer of images uses; they apply to no entry alone.
                EntryType::XGlobalHeader => drop(self.read_extension()?),
                _ => return self.entry(&header, extension).map(Some),
            }
            is_extended = true;
        }
    }

    /// Reads the present entry's content; 0 at its end.
    pub(super) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let most = usize::try_from(self.content).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let length = read(&mut self.reader, &mut buffer[..most])?;
        if length == 0 {
            return Err(bad("is cut off in the middle of a file"));
        }
        self.content -= length as u64;
        Ok(length)
    }

    /// How much the present entry's content has left, in bytes.
    pub(super) fn content_left(&self) -> u64 {
        self.content
    }

    fn entry(&mut self, header: &Header, extension: Extension) -> Result<Entry, ImageError> {
        let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let target = extension
            .target
            .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
            .unwrap_or_default();
        let mut entry = Entry {
            path,
            kind: Kind::Regular,
            target,
            mode: 0,
            uid: 0,
            gid: 0,
            modified: (0, 0),
            attributes: extension.attributes,
        };
        if extension.is_sparse || header.entry_type() == EntryType::GNUSparse {
            return Err(entry.refused("is a sparse file, which images do not have: make the archive without --sparse"));
        }
        entry.kind = kind(header, &entry)?;
        if let Some(size) = extension.size {
            self.set_size(size);
        }
        if entry.kind != Kind::Regular {
            // Some writers give links the size of what they link to; nothing follows all the same.
            self.set_size(0);
        }
        let field = |value: io::Result<u64>, extension: Option<u64>| extension.or(value.ok());
        entry.uid = account(&entry, field(header.uid(), extension.uid))?;
        entry.gid = account(&entry, field(header.gid(), extension.gid))?;
        entry.mode = header.mode().map_err(|_| entry.refused("has no mode"))? & 0o7777;
        entry.modified = extension
            .modified
            .or_else(|| header.mtime().ok().map(|seconds| (seconds.cast_signed(), 0)))
            .unwrap_or_default();
        Ok(entry)
    }

    /// The next header, or nothing at the archive's end: a block of zeros, or the end of the data.
    fn header(&mut self) -> Result<Option<Header>, ImageError> {
        let mut header = Header::new_old();
        let bytes = header.as_mut_bytes();
        let length = fill(&mut self.reader, bytes)?;
        if length == 0 && self.blocks > 0 {
            return Ok(None);
        }
        if length < BLOCK {
            return Err(match self.blocks {
                0 => bad("is no tar archive: it is shorter than one header"),
                _ => bad("is cut off in the middle of a header"),
            });
        }
        self.blocks += 1;
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let sum: u32 = bytes
            .iter()
            .enumerate()
            .map(|(at, &byte)| if CHECKSUM.contains(&at) { 32 } else { u32::from(byte) })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(match self.blocks {
                1 => bad("is no tar archive: its first header's checksum is wrong"),
                _ => bad("has a header whose checksum is wrong"),
            });
        }
        Ok(Some(header))
    }

    fn set_size(&mut self, size: u64) {
        self.content = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn pass_over_content(&mut self) -> Result<(), ImageError> {
        let mut waste = [0; 4096];
        while self.read_content(&mut waste)? > 0 {}
        self.content = std::mem::take(&mut self.padding);
        while self.content > 0 {
            match read(&mut self.reader, &mut waste[..self.content as usize])? {
                // Some writers leave out the padding behind the last file.
                0 => self.content = 0,
                length => self.content -= length as u64,
            }
        }
        Ok(())
    }

    fn read_extension(&mut self) -> Result<Vec<u8>, ImageError> {
        if self.content > self.limits.header_bytes {
            let most = self.limits.header_bytes;
            return Err(bad(format!(
                "has an extended header of {} bytes; at most {most} are read",
                self.content
            )));
        }
        let mut bytes = vec![0; self.content as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += self.read_content(&mut bytes[filled..])?;
        }
        Ok(bytes)
    }
}

fn kind(header: &Header, entry: &Entry) -> Result<Kind, ImageError> {
    Ok(match header.entry_type() {
        // Before POSIX a folder was a file whose name ends with a slash.
        EntryType::Regular if entry.path.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::Regular,
        EntryType::Link => Kind::HardLink,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Directory => Kind::Directory,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char | EntryType::Block => Kind::Device,
        other => {
            let reason = format!("is of the unknown type {:#04x}", other.as_byte());
            return Err(entry.refused(reason));
        }
    })
}

/// A user or group number. The largest stands for "leave it as it is" in the kernel's interface.
fn account(entry: &Entry, number: Option<u64>) -> Result<u32, ImageError> {
    match number.map(u32::try_from) {
        Some(Ok(number)) if number != u32::MAX => Ok(number),
        _ => Err(entry.refused("has an owner that no file can have")),
    }
}

/// Takes up the records of a pax header: `length keyword=value` and a line feed, the length counting all of it.
fn pax(bytes: &[u8], extension: &mut Extension) -> Result<(), ImageError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let record = pax_record(rest).ok_or_else(|| bad("has a broken extended header"))?;
        rest = record.rest;
        match record.keyword {
            b"path" => extension.path = Some(record.value.to_vec()),
            b"linkpath" => extension.target = Some(record.value.to_vec()),
            b"size" => extension.size = Some(number(record.value)?),
            b"uid" => extension.uid = Some(number(record.value)?),
            b"gid" => extension.gid = Some(number(record.value)?),
            b"mtime" => extension.modified = Some(time(record.value)?),
            keyword if keyword.starts_with(SPARSE_PREFIX) => extension.is_sparse = true,
            keyword => {
                if let Some(name) = keyword.strip_prefix(ATTRIBUTE_PREFIX) {
                    extension.attributes.push((name.to_vec(), record.value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

struct Record<'a> {
    keyword: &'a [u8],
    value: &'a [u8],
    rest: &'a [u8],
}

fn pax_record(bytes: &[u8]) -> Option<Record<'_>> {
    let space = bytes.iter().position(|&byte| byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    Some(Record {
        keyword: &record[..equals],
        value: &record[equals + 1..],
        rest,
    })
}

fn number(value: &[u8]) -> Result<u64, ImageError> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| bad("has an extended header with a number that is none"))
}

/// `seconds.fraction`, of which nine digits are kept.
fn time(value: &[u8]) -> Result<(i64, i64), ImageError> {
    let parse = || {
        let text = std::str::from_utf8(value).ok()?;
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let nanoseconds = format!("{:0<9.9}", fraction).parse::<i64>().ok()?;
        let seconds: i64 = seconds.parse().ok()?;
        // -1.25 is a quarter before -1.
        match text.starts_with('-') && nanoseconds > 0 {
            true => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
            false => Some((seconds, nanoseconds)),
        }
    };
    parse().ok_or_else(|| bad("has an extended header with a time that is none"))
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    name.truncate(length);
    name
}

fn bad(reason: impl Into<String>) -> ImageError {
    ImageError::BadArchive { reason: reason.into() }
}

/// As much as there is, up to the buffer's length.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ImageError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(reader, &mut buffer[filled..])? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}

pub(super) fn read(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ImageError> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(bad(format!("cannot be read: {error}"))),
            Ok(length) => return Ok(length),
        }
    }
}
