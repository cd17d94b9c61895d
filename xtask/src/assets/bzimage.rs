//! The kernel proper inside a bzImage, unpacked.
//!
//! Layout: Linux `Documentation/arch/x86/boot.rst`, fields `setup_sects`,
//! `payload_offset` and `payload_length` (boot protocol 2.08).

use anyhow::{Context, Result, bail};

use super::compression::Compression;

const SETUP_SECTS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// A `setup_sects` of 0 stands for this number.
const DEFAULT_SETUP_SECTS: usize = 4;
/// The first version of the protocol that has the payload fields.
const FIRST_VERSION: u16 = 0x0208;

/// Unpacks the `vmlinux` ELF file out of a bzImage.
pub(super) fn vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image)?;
    let compression = Compression::of(payload).context("the payload's compression is unknown")?;
    let unpacked = if compression.size_appended {
        let (packed, size) = payload.split_last_chunk::<4>().context("the payload is too short")?;
        let unpacked = compression.undo(packed)?;
        if unpacked.len() != u32::from_le_bytes(*size) as usize {
            bail!("the payload unpacks to another size than it says");
        }
        unpacked
    } else {
        compression.undo(payload)?
    };
    if !unpacked.starts_with(b"\x7fELF") {
        bail!("the payload is no ELF file");
    }
    Ok(unpacked)
}

fn payload(image: &[u8]) -> Result<&[u8]> {
    if image.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
        bail!("the file is no bzImage: it lacks the HdrS signature");
    }
    let version = image
        .get(VERSION..VERSION + 2)
        .and_then(|bytes| <[u8; 2]>::try_from(bytes).ok())
        .map(u16::from_le_bytes)
        .context("the setup header is truncated")?;
    if version < FIRST_VERSION {
        bail!("boot protocol {version:#06x} does not tell where the payload is");
    }
    let sectors = match image[SETUP_SECTS] {
        0 => DEFAULT_SETUP_SECTS,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR + read_u32(image, PAYLOAD_OFFSET)?;
    let length = read_u32(image, PAYLOAD_LENGTH)?;
    image
        .get(start..start + length)
        .context("the payload lies outside the file")
}

fn read_u32(image: &[u8], offset: usize) -> Result<usize> {
    image
        .get(offset..offset + 4)
        .and_then(|bytes| <[u8; 4]>::try_from(bytes).ok())
        .map(|bytes| u32::from_le_bytes(bytes) as usize)
        .context("the setup header is truncated")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::compression;

    /// A bzImage with one setup sector whose payload is `payload`.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        image[SETUP_SECTS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..][..4].copy_from_slice(&16_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..][..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image
    }

    #[test]
    fn the_payload_is_found_behind_the_setup_sectors() {
        assert_eq!(super::payload(&image(b"packed")).unwrap(), b"packed");
    }

    #[test]
    fn broken_images_are_refused() {
        assert!(payload(b"").is_err());
        assert!(payload(&[0; 4096]).is_err());
        let whole = image(b"packed");
        assert!(payload(&whole[..whole.len() - 1]).is_err());
        assert!(payload(&whole[..PAYLOAD_LENGTH]).is_err());
        let mut old = whole;
        old[VERSION..VERSION + 2].copy_from_slice(&0x0204_u16.to_le_bytes());
        assert!(payload(&old).is_err());
    }

    #[test]
    fn a_gzip_payload_is_unpacked() {
        let elf = b"\x7fELF and so on";
        let packed = compression::gzip(elf).unwrap();
        assert_eq!(vmlinux(&image(&packed)).unwrap(), elf);
    }

    #[test]
    fn a_payload_that_is_no_kernel_is_refused() {
        let packed = compression::gzip(b"text").unwrap();
        assert!(vmlinux(&image(&packed)).is_err());
        assert!(vmlinux(&image(b"unknown compression")).is_err());
    }
}
