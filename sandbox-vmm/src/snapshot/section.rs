//! The state file: a header, then sections, then an end.
//!
//! ```text
//! header   magic (8)  format (4)  identity (16)  CRC-32 of these (4)
//! section  kind (2)  version (2)  index (4)  length (8)  CRC-32 of these and the payload (4)  payload
//! ...
//! section  kind 0, index = number of sections before it, length 0
//! ```
//!
//! Integers are little-endian. Payloads are serde structures in postcard's encoding; KVM's own structures are byte
//! strings in it, as the kernel defines them. Every byte of the file is under a checksum and nothing may follow the end:
//! a file that was cut short, lengthened or changed anywhere is refused before any of it is used. The checksums are
//! against accidents. Against design, every payload is checked like what a guest says.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a state file begins with.
const MAGIC: [u8; 8] = *b"SBXSTATE";
/// Version of the layout above and of the folder around it.
pub const FORMAT: u32 = 1;
const HEADER_SIZE: usize = 8 + 4 + 16 + 4;
const SECTION_HEADER_SIZE: usize = 2 + 2 + 4 + 8 + 4;
/// Within a section's header: what is before the checksum.
const CHECKED_SIZE: usize = 2 + 2 + 4 + 8;
/// A state file larger than this is refused unread, in bytes: 32 vCPUs and 16 devices with all that they may hold take
/// less than a MiB, and a hostile file must not make us take memory without end.
pub const MAX_STATE_BYTES: u64 = 16 << 20;

/// 128 random bits that tell one snapshot from every other; state and memory file both have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity(pub [u8; 16]);

/// What state has for an identity that is of no snapshot.
pub const NO_SNAPSHOT: Identity = Identity([0; 16]);

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a section holds. The numbers are part of the format and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum SectionKind {
    /// The end of the file.
    End = 0,
    /// The spec and what was decided by it.
    Machine = 1,
    /// Interrupt controllers, timers and clock of the VM.
    Vm = 2,
    /// A vCPU; the index is its number.
    Vcpu = 3,
    /// Which pages the memory file holds.
    Memory = 4,
    /// All devices.
    Devices = 5,
    /// Pages to read ahead, in a file of its own.
    WorkingSet = 6,
}

/// A structure that a section can hold.
pub trait SectionState: Serialize + DeserializeOwned {
    /// Which section.
    const KIND: SectionKind;
    /// Version of the structure.
    const VERSION: u16;

    /// Decodes a payload of an earlier version; `None` for one that is read no more.
    fn read_earlier(_version: u16, _payload: &[u8]) -> Option<Result<Self, postcard::Error>> {
        None
    }
}

/// Why a state file is refused.
#[derive(Debug, thiserror::Error)]
pub enum SectionError {
    /// It does not begin as a state file does.
    #[error("it is no state file")]
    NotAStateFile,
    /// It was made by a newer SDK.
    #[error("it has format {0}, and this SDK reads up to {FORMAT}")]
    NewerFormat(u32),
    /// It is shorter than it says.
    #[error("it is cut short")]
    Truncated,
    /// It goes on behind its end.
    #[error("something follows its end")]
    Trailing,
    /// A checksum does not match.
    #[error("the checksum of {0} does not match")]
    Checksum(&'static str),
    /// A section is not there.
    #[error("it has no section {kind:?} number {index}")]
    Missing {
        /// Which.
        kind: SectionKind,
        /// Its index.
        index: u32,
    },
    /// A section comes twice, or is of no known kind.
    #[error("it has a section of kind {kind} number {index} that does not belong there")]
    Unexpected {
        /// The kind's number.
        kind: u16,
        /// Its index.
        index: u32,
    },
    /// A section has a version that this SDK does not read.
    #[error("section {kind:?} has version {found}, and this SDK reads {known}")]
    Version {
        /// Which.
        kind: SectionKind,
        /// The file's.
        found: u16,
        /// Ours.
        known: u16,
    },
    /// A payload is not the structure that it should be.
    #[error("section {kind:?} cannot be decoded")]
    Payload {
        /// Which.
        kind: SectionKind,
        /// What the decoder said.
        source: postcard::Error,
    },
}

/// Puts a state file together.
#[derive(Debug)]
pub struct StateWriter {
    bytes: Vec<u8>,
    sections: u32,
}

impl StateWriter {
    /// An empty file of the snapshot `identity`.
    pub fn new(identity: Identity) -> Self {
        let mut bytes = Vec::with_capacity(32 << 10);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(identity.0);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_le_bytes());
        Self { bytes, sections: 0 }
    }

    /// Adds the only section of its kind.
    ///
    /// # Errors
    /// A structure that cannot be encoded.
    pub fn add<T: SectionState>(&mut self, state: &T) -> Result<(), SectionError> {
        self.add_numbered(0, state)
    }

    /// Adds section number `index` of its kind.
    ///
    /// # Errors
    /// A structure that cannot be encoded.
    pub fn add_numbered<T: SectionState>(&mut self, index: u32, state: &T) -> Result<(), SectionError> {
        let payload = postcard::to_allocvec(state).map_err(|source| SectionError::Payload { kind: T::KIND, source })?;
        self.append(T::KIND, T::VERSION, index, &payload);
        self.sections += 1;
        Ok(())
    }

    /// The whole file.
    pub fn finish(mut self) -> Vec<u8> {
        self.append(SectionKind::End, 0, self.sections, &[]);
        self.bytes
    }

    fn append(&mut self, kind: SectionKind, version: u16, index: u32, payload: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend((kind as u16).to_le_bytes());
        self.bytes.extend(version.to_le_bytes());
        self.bytes.extend(index.to_le_bytes());
        self.bytes.extend((payload.len() as u64).to_le_bytes());
        let checksum = section_checksum(&self.bytes[start..], payload);
        self.bytes.extend(checksum.to_le_bytes());
        self.bytes.extend(payload);
    }
}

/// A checked state file.
#[derive(Debug)]
pub struct StateFile<'a> {
    identity: Identity,
    sections: Vec<Section<'a>>,
}

#[derive(Debug)]
struct Section<'a> {
    kind: u16,
    version: u16,
    index: u32,
    payload: &'a [u8],
}

impl<'a> StateFile<'a> {
    /// Checks all of `bytes`.
    ///
    /// # Errors
    /// [`SectionError`]: whatever is not as it was written.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SectionError> {
        let (header, mut rest) = bytes.split_at_checked(HEADER_SIZE).ok_or(SectionError::Truncated)?;
        if header[..8] != MAGIC {
            return Err(SectionError::NotAStateFile);
        }
        let mut fields = Fields(&header[8..]);
        let format = u32::from_le_bytes(fields.take());
        if format > FORMAT {
            return Err(SectionError::NewerFormat(format));
        }
        let identity = Identity(fields.take());
        if crc32fast::hash(&header[..HEADER_SIZE - 4]) != u32::from_le_bytes(fields.take()) || format != FORMAT {
            return Err(SectionError::Checksum("the header"));
        }
        let mut sections: Vec<Section<'a>> = Vec::new();
        loop {
            let (section, behind) = Section::parse(rest)?;
            rest = behind;
            if section.kind == SectionKind::End as u16 {
                if section.index as usize != sections.len() || !section.payload.is_empty() {
                    return Err(SectionError::Truncated);
                }
                break;
            }
            let known = |other: &Section<'_>| (other.kind, other.index) == (section.kind, section.index);
            if !section.is_known() || sections.iter().any(known) {
                return Err(SectionError::Unexpected {
                    kind: section.kind,
                    index: section.index,
                });
            }
            sections.push(section);
        }
        match rest {
            [] => Ok(Self { identity, sections }),
            _ => Err(SectionError::Trailing),
        }
    }

    /// The snapshot that it belongs to.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The only section of a kind.
    ///
    /// # Errors
    /// [`SectionError`]: it is missing, or not what it should be.
    pub fn get<T: SectionState>(&self) -> Result<T, SectionError> {
        self.get_numbered(0)
    }

    /// Section number `index` of a kind.
    ///
    /// # Errors
    /// [`SectionError`]: it is missing, or not what it should be.
    pub fn get_numbered<T: SectionState>(&self, index: u32) -> Result<T, SectionError> {
        let wanted = (T::KIND as u16, index);
        let mut sections = self.sections.iter();
        let section = sections
            .find(|section| (section.kind, section.index) == wanted)
            .ok_or(SectionError::Missing { kind: T::KIND, index })?;
        let decoded = match section.version == T::VERSION {
            true => Some(decode(section.payload)),
            false => T::read_earlier(section.version, section.payload),
        };
        let decoded = decoded.ok_or(SectionError::Version {
            kind: T::KIND,
            found: section.version,
            known: T::VERSION,
        })?;
        decoded.map_err(|source| SectionError::Payload { kind: T::KIND, source })
    }
}

/// A structure that is all of `payload`.
pub(super) fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, postcard::Error> {
    match postcard::take_from_bytes(payload)? {
        (state, []) => Ok(state),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

impl<'a> Section<'a> {
    /// The section that `bytes` begins with, and what is behind it.
    fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), SectionError> {
        let (header, rest) = bytes
            .split_at_checked(SECTION_HEADER_SIZE)
            .ok_or(SectionError::Truncated)?;
        let mut fields = Fields(header);
        let kind = u16::from_le_bytes(fields.take());
        let version = u16::from_le_bytes(fields.take());
        let index = u32::from_le_bytes(fields.take());
        let length = usize::try_from(u64::from_le_bytes(fields.take())).map_err(|_| SectionError::Truncated)?;
        let checksum = u32::from_le_bytes(fields.take());
        let (payload, behind) = rest.split_at_checked(length).ok_or(SectionError::Truncated)?;
        if section_checksum(&header[..CHECKED_SIZE], payload) != checksum {
            return Err(SectionError::Checksum("a section"));
        }
        let section = Self {
            kind,
            version,
            index,
            payload,
        };
        Ok((section, behind))
    }

    fn is_known(&self) -> bool {
        (SectionKind::Machine as u16..=SectionKind::WorkingSet as u16).contains(&self.kind)
    }
}

/// Reads fixed fields off the front; the caller has checked that all are there, and zeros follow the end.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
}

fn section_checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Numbers(Vec<u64>);

    impl SectionState for Numbers {
        const KIND: SectionKind = SectionKind::Vcpu;
        const VERSION: u16 = 3;
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Newer(u8);

    impl SectionState for Newer {
        const KIND: SectionKind = SectionKind::Vcpu;
        const VERSION: u16 = 4;
    }

    const IDENTITY: Identity = Identity([7; 16]);

    fn file() -> Vec<u8> {
        let mut writer = StateWriter::new(IDENTITY);
        writer.add_numbered(0, &Numbers(vec![1, 2, 3])).unwrap();
        writer.add_numbered(1, &Numbers(vec![])).unwrap();
        writer.finish()
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = file();
        let file = StateFile::parse(&bytes).unwrap();
        assert_eq!(file.identity(), IDENTITY);
        assert_eq!(file.get_numbered::<Numbers>(0).unwrap(), Numbers(vec![1, 2, 3]));
        assert_eq!(file.get_numbered::<Numbers>(1).unwrap(), Numbers(vec![]));
        assert!(matches!(
            file.get_numbered::<Numbers>(2),
            Err(SectionError::Missing { index: 2, .. })
        ));
        assert!(matches!(
            file.get::<Newer>(),
            Err(SectionError::Version { found: 3, known: 4, .. })
        ));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = file();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(StateFile::parse(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_length_but_its_own_is_noticed() {
        let bytes = file();
        for length in 0..bytes.len() {
            assert!(StateFile::parse(&bytes[..length]).is_err(), "{length} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(StateFile::parse(&longer), Err(SectionError::Trailing)));
    }

    #[test]
    fn sections_that_come_twice_are_refused() {
        let mut writer = StateWriter::new(IDENTITY);
        writer.add(&Numbers(vec![])).unwrap();
        writer.add(&Numbers(vec![1])).unwrap();
        assert!(matches!(
            StateFile::parse(&writer.finish()),
            Err(SectionError::Unexpected { .. })
        ));
    }

    #[test]
    fn newer_formats_are_told_from_damaged_files() {
        let mut bytes = file();
        bytes[8] = 200;
        assert!(matches!(StateFile::parse(&bytes), Err(SectionError::NewerFormat(200))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = StateFile::parse(&bytes);
            let with_magic = [&MAGIC[..], &bytes].concat();
            let _ = StateFile::parse(&with_magic);
        }
    }
}
