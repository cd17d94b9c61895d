//! Which family a unikernel is of: as its file says, checked against what the spec says.

use sandbox_core::spec::{UnikernelFamily, UnikernelGuest};
use sandbox_core::{Error, ErrorKind, Result};

use super::{Dialect, bare, hermit, nanos, osv, solo5, unikraft};
use crate::boot::image::KernelImage;
use crate::boot::image::origin::Maker;

const FAMILY_FIELD: &str = "guest.unikernel.family";
const IMAGE_FIELD: &str = "guest.unikernel.image";

/// What a kernel file was recognised as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identification {
    /// The family, as `auto` takes it; `Bare` for a file that says nothing of itself.
    pub family: UnikernelFamily,
    /// What in the file says so, a clause such as "it has a section .uk_bootinfo".
    pub evidence: &'static str,
}

/// The family of the unikernel `image`.
///
/// # Errors
/// A file that is no unikernel, or only a part of one.
pub fn identify(image: &KernelImage) -> Result<Identification> {
    let Some((maker, evidence)) = image.origin.maker else {
        return Ok(Identification {
            family: UnikernelFamily::Bare,
            evidence: "nothing in it tells of a family",
        });
    };
    let family = match maker {
        Maker::HermitLoader => UnikernelFamily::Hermit,
        Maker::Nanos => UnikernelFamily::Nanos,
        Maker::Osv => UnikernelFamily::Osv,
        Maker::Solo5 => UnikernelFamily::Solo5,
        Maker::Unikraft => UnikernelFamily::Unikraft,
        Maker::HermitApplication => {
            let remedy = "give Hermit's loader as image and this file as initrd";
            return Err(misplaced(format!("is an application of Hermit ({evidence}); {remedy}")));
        }
        Maker::Linux => {
            let remedy = "give it as guest.linux.kernel";
            return Err(misplaced(format!("is a Linux kernel ({evidence}); {remedy}")));
        }
    };
    Ok(Identification { family, evidence })
}

fn misplaced(context: String) -> Error {
    Error::new(ErrorKind::BadImage, context).with_field(IMAGE_FIELD)
}

/// The dialect of the family that the spec says, which a file that tells its family must agree with.
pub(super) fn dialect(guest: &UnikernelGuest, image: &KernelImage) -> Result<&'static dyn Dialect> {
    let found = identify(image)?;
    let told = found.family != UnikernelFamily::Bare;
    let family = match guest.family {
        UnikernelFamily::Auto => found.family,
        family if told && family != found.family => {
            let (said, seen) = (name(family), name(found.family));
            let evidence = found.evidence;
            let context = format!("is {said}, but the file looks like {seen}: {evidence}; say {seen} or auto");
            return Err(Error::invalid(FAMILY_FIELD, context));
        }
        family => family,
    };
    tracing::debug!(family = name(family), evidence = found.evidence, "unikernel");
    match family {
        UnikernelFamily::Bare => Ok(&bare::Bare),
        UnikernelFamily::Unikraft => Ok(&unikraft::Unikraft),
        UnikernelFamily::Nanos => Ok(&nanos::Nanos),
        UnikernelFamily::Osv => Ok(&osv::Osv),
        UnikernelFamily::Hermit => Ok(&hermit::Hermit),
        UnikernelFamily::Solo5 => Ok(&solo5::Solo5),
        _ => Err(Error::unsupported(FAMILY_FIELD, "is not known to this backend")),
    }
}

/// The family's name in a spec.
fn name(family: UnikernelFamily) -> &'static str {
    match family {
        UnikernelFamily::Auto => "auto",
        UnikernelFamily::Bare => "bare",
        UnikernelFamily::Unikraft => "unikraft",
        UnikernelFamily::Nanos => "nanos",
        UnikernelFamily::Osv => "osv",
        UnikernelFamily::Hermit => "hermit",
        UnikernelFamily::Solo5 => "solo5",
        _ => "unknown",
    }
}
