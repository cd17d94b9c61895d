//! What a Solo5 image says of itself in its notes: the interface that it is built for, and the devices that its
//! application demands (Solo5's application manifest, version 1).

use serde::{Deserialize, Serialize};

use super::ImageError;
use super::notes::Note;

/// Owner of Solo5's notes, with its NUL.
const OWNER: &[u8] = b"Solo5\0";
/// "ABI1": the interface that the image is built for.
const ABI_NOTE: u32 = u32::from_le_bytes(*b"ABI1");
/// "MFT1": the manifest.
const MANIFEST_NOTE: u32 = u32::from_le_bytes(*b"MFT1");
/// The target of the ABI note that is a hardware-virtualised tender.
const TARGET_HVT: u32 = 1;
/// The version of that interface which this machine has.
const HVT_VERSION: u32 = 2;
const MANIFEST_VERSION: u32 = 1;
/// The manifest stands 8-byte aligned in the image, so its note's description begins with this much padding.
const MANIFEST_PADDING: usize = 4;
const MANIFEST_HEADER_SIZE: usize = 8;
/// Size of one entry: name, type, 16 bytes of properties, a backing pointer, a flag, padding to 8 bytes.
pub const ENTRY_SIZE: usize = 104;
const NAME_SIZE: usize = 68;
const TYPE_OFFSET: usize = 68;
/// The properties of a device, filled in before the guest runs.
pub const PROPERTIES_OFFSET: usize = 72;
/// Whether the device is there, filled in likewise.
pub const ATTACHED_OFFSET: usize = 96;
/// Most entries that a manifest has: a set of devices is a 64-bit word in the interface.
const MAX_ENTRIES: usize = 64;
const TYPE_BLOCK: u32 = 1;
const TYPE_NET: u32 = 2;
/// The first type that is no device; the first entry of a manifest is of it.
const TYPE_RESERVED: u32 = 1 << 30;

/// What kind of device an application demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// A block device.
    Block,
    /// A network card.
    Net,
}

/// A device that an application demands. Its place in the manifest is its handle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEntry {
    /// Its handle.
    pub handle: usize,
    /// What it is called.
    pub name: String,
    /// What it is.
    pub kind: DeviceKind,
}

/// A segment's place in memory, and what its program may do there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// First guest-physical address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Whether it is written.
    pub writable: bool,
    /// Whether it is executed.
    pub executable: bool,
}

/// An image built for the hvt interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Solo5Image {
    /// The devices, in the order of their handles.
    pub devices: Vec<DeviceEntry>,
    /// The manifest as it stands in the image, without the note's padding.
    pub manifest: Vec<u8>,
    /// Its segments.
    pub areas: Vec<Area>,
}

/// What has been seen of Solo5 among a file's notes.
#[derive(Default)]
pub(super) struct Solo5Notes {
    abi: Option<(u32, u32)>,
    manifest: Option<Vec<u8>>,
}

impl Solo5Notes {
    /// Takes a note, if it is one of Solo5's.
    pub(super) fn take(&mut self, note: &Note<'_>) {
        if note.owner != OWNER {
            return;
        }
        match note.note_type {
            ABI_NOTE => self.abi = word(note.description, 0).zip(word(note.description, 4)),
            MANIFEST_NOTE => self.manifest = note.description.get(MANIFEST_PADDING..).map(<[u8]>::to_vec),
            _ => {}
        }
    }

    /// The image, if the file is one.
    pub(super) fn image(self, areas: Vec<Area>) -> Result<Option<Solo5Image>, ImageError> {
        let (target, version) = match (self.abi, &self.manifest) {
            (Some(abi), _) => abi,
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(malformed("a Solo5 image without an interface note")),
        };
        if target != TARGET_HVT {
            return Err(ImageError::OtherBuild {
                what: format!("a Solo5 image for the target {}", target_name(target)),
                instead: "build it for hvt",
            });
        }
        if version != HVT_VERSION {
            return Err(ImageError::OtherBuild {
                what: format!("a Solo5 image for version {version} of the hvt interface"),
                instead: "build it with Solo5 0.6.6 or newer, whose version is 2",
            });
        }
        let manifest = self.manifest.ok_or(malformed("a Solo5 image without a manifest"))?;
        let devices = devices(&manifest)?;
        Ok(Some(Solo5Image {
            devices,
            manifest,
            areas,
        }))
    }
}

fn devices(manifest: &[u8]) -> Result<Vec<DeviceEntry>, ImageError> {
    let header = word(manifest, 0).zip(word(manifest, 4));
    let (version, count) = header.ok_or(malformed("a Solo5 manifest that is cut off"))?;
    if version != MANIFEST_VERSION {
        return Err(malformed("a Solo5 manifest of unknown version"));
    }
    let count = count as usize;
    if count == 0 || count > MAX_ENTRIES || manifest.len() != MANIFEST_HEADER_SIZE + count * ENTRY_SIZE {
        return Err(malformed(
            "a Solo5 manifest whose length and number of entries do not agree",
        ));
    }
    let mut devices: Vec<DeviceEntry> = Vec::new();
    for (handle, entry) in manifest[MANIFEST_HEADER_SIZE..].chunks_exact(ENTRY_SIZE).enumerate() {
        let kind = match word(entry, TYPE_OFFSET) {
            Some(TYPE_BLOCK) => DeviceKind::Block,
            Some(TYPE_NET) => DeviceKind::Net,
            Some(TYPE_RESERVED) if handle == 0 => continue,
            _ => return Err(malformed("a Solo5 manifest with a device of unknown type")),
        };
        let name = name(entry).ok_or(malformed("a Solo5 manifest with a device that has no proper name"))?;
        if devices.iter().any(|device| device.name == name) {
            return Err(malformed("a Solo5 manifest with two devices of one name"));
        }
        devices.push(DeviceEntry { handle, name, kind });
    }
    Ok(devices)
}

/// Where in the manifest the entry of `handle` begins.
pub fn entry_offset(handle: usize) -> usize {
    MANIFEST_HEADER_SIZE + handle * ENTRY_SIZE
}

/// Names are letters and digits, ended by a NUL.
fn name(entry: &[u8]) -> Option<String> {
    let end = entry[..NAME_SIZE].iter().position(|byte| *byte == 0)?;
    let name = &entry[..end];
    let proper = !name.is_empty() && name.iter().all(u8::is_ascii_alphanumeric);
    proper.then(|| String::from_utf8_lossy(name).into_owned())
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn target_name(target: u32) -> String {
    match target {
        2 => "spt".to_owned(),
        3 => "virtio".to_owned(),
        4 => "muen".to_owned(),
        5 => "genode".to_owned(),
        6 => "xen".to_owned(),
        other => format!("number {other}"),
    }
}

fn malformed(what: &'static str) -> ImageError {
    ImageError::Malformed { what }
}

/// The notes of images, for tests.
#[cfg(test)]
pub(crate) mod test_support {
    use super::*;

    /// The description of an ABI note.
    pub(crate) fn abi(target: u32, version: u32) -> Vec<u8> {
        [target, version, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    /// The description of a manifest note with these devices behind the reserved entry.
    pub(crate) fn manifest(devices: &[(&str, u32)]) -> Vec<u8> {
        let entries = devices.len() as u32 + 1;
        let mut bytes: Vec<u8> = [0, MANIFEST_VERSION, entries]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        for (name, kind) in [("", TYPE_RESERVED)].iter().chain(devices) {
            let mut entry = [0; ENTRY_SIZE];
            entry[..name.len()].copy_from_slice(name.as_bytes());
            entry[TYPE_OFFSET..][..4].copy_from_slice(&kind.to_le_bytes());
            bytes.extend(entry);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::test_support::{abi, manifest};
    use super::*;

    fn image(abi: &[u8], manifest: &[u8]) -> Result<Option<Solo5Image>, ImageError> {
        let mut notes = Solo5Notes::default();
        for (note_type, description) in [(ABI_NOTE, abi), (MANIFEST_NOTE, manifest)] {
            notes.take(&Note {
                owner: OWNER,
                note_type,
                description,
            });
        }
        notes.image(Vec::new())
    }

    #[test]
    fn the_devices_of_a_manifest_have_their_places_as_handles() {
        let image = image(&abi(1, 2), &manifest(&[("storage", 1), ("service", 2)]))
            .unwrap()
            .unwrap();
        let device = |handle, name: &str, kind| DeviceEntry {
            handle,
            name: name.to_owned(),
            kind,
        };
        assert_eq!(
            image.devices,
            [
                device(1, "storage", DeviceKind::Block),
                device(2, "service", DeviceKind::Net)
            ]
        );
        assert_eq!(image.manifest.len(), 8 + 3 * ENTRY_SIZE);
    }

    #[test]
    fn other_targets_and_versions_are_named() {
        for (abi, name) in [
            (abi(2, 2), "spt"),
            (abi(3, 2), "virtio"),
            (abi(9, 2), "number 9"),
            (abi(1, 1), "version 1"),
        ] {
            let error = image(&abi, &manifest(&[])).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_damaged_manifest_is_refused() {
        let good = manifest(&[("a", 1)]);
        let mut unknown_type = good.clone();
        unknown_type[4 + entry_offset(1) + TYPE_OFFSET] = 7;
        let mut nameless = good.clone();
        nameless[4 + entry_offset(1)] = 0;
        let mut endless_name = good.clone();
        endless_name[4 + entry_offset(1)..][..NAME_SIZE].fill(b'a');
        let mut too_many = good.clone();
        too_many[8] = 200;
        let mut version = good.clone();
        version[4] = 2;
        let cases = [
            &good[..good.len() - 1],
            &good[..6],
            &unknown_type,
            &nameless,
            &endless_name,
            &too_many,
            &version,
            &manifest(&[("a", 1), ("a", 2)]),
        ];
        for damaged in cases {
            let error = image(&abi(1, 2), damaged).unwrap_err();
            assert!(matches!(error, ImageError::Malformed { .. }), "{error}");
        }
    }
}
