//! Telling runtimes apart by what they say of themselves.

use std::path::Path;

use sandbox_core::{Error, ErrorKind, Result};

use super::{FIELD, Kind, OciRuntime};

/// The oldest versions whose commands are used here as they are.
const OLDEST_RUNC: (u32, u32) = (1, 1);
const OLDEST_CRUN: (u32, u32) = (1, 0);
/// runsc's versions are dates.
const OLDEST_RUNSC: u32 = 2022;

/// Reads what `program --version` printed.
///
/// # Errors
/// It is no runtime that is known here, or too old.
pub fn identify(program: &Path, output: &str) -> Result<OciRuntime> {
    let first = output.lines().next().unwrap_or_default();
    let (kind, version) = Kind::ALL
        .into_iter()
        .find_map(|kind| {
            let rest = first.strip_prefix(kind.name())?.strip_prefix(" version ")?;
            Some((kind, rest.trim().to_owned()))
        })
        .ok_or_else(|| {
            let context = format!(
                "{} says {first:?} of its version; it is none of runc, crun and runsc",
                program.display()
            );
            Error::new(ErrorKind::Unsupported, context).with_field(FIELD)
        })?;
    let known = match kind {
        Kind::Runc => numbers(&version).is_none_or(|found| found >= OLDEST_RUNC),
        Kind::Crun => numbers(&version).is_none_or(|found| found >= OLDEST_CRUN),
        Kind::Runsc => year(&version).is_none_or(|found| found >= OLDEST_RUNSC),
    };
    if !known {
        let oldest = match kind {
            Kind::Runc => format!("{}.{}", OLDEST_RUNC.0, OLDEST_RUNC.1),
            Kind::Crun => format!("{}.{}", OLDEST_CRUN.0, OLDEST_CRUN.1),
            Kind::Runsc => OLDEST_RUNSC.to_string(),
        };
        let context = format!(
            "{} {version} is too old; {oldest} is the oldest that is used",
            kind.name()
        );
        return Err(Error::new(ErrorKind::Unsupported, context).with_field(FIELD));
    }
    Ok(OciRuntime {
        kind,
        program: program.to_owned(),
        version,
    })
}

/// Whether this runsc takes every network namespace for the host's own on kernels that show `ROOT_NETWORK_SIGN` in all
/// of them: from Linux 6.11 on, and until it looked for something else in 2024.
pub fn mistakes_namespaces(runtime: &OciRuntime) -> bool {
    runtime.kind == Kind::Runsc && year(&runtime.version).is_some_and(|year| year < 2024)
}

/// What older versions of runsc tell the host's own network namespace by.
pub const ROOT_NETWORK_SIGN: &str = "/proc/sys/net/core/rmem_default";

/// The first two numbers of `1.2.3`; versions of other forms are built by hand and taken as they are.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-', '+', '~']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The year in `release-20221219.0`, or in Debian's `0.0~20221219.0`.
fn year(version: &str) -> Option<u32> {
    version
        .split(|character: char| !character.is_ascii_digit())
        .find(|part| part.len() == 8)
        .and_then(|date| date[..4].parse().ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_told_apart() {
        let identified = |output| identify(Path::new("/x"), output).map(|found| (found.kind, found.version));
        let runc = identified("runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\n");
        assert_eq!(runc.unwrap(), (Kind::Runc, "1.1.5+ds1".to_owned()));
        let crun = identified("crun version 1.8.1\ncommit: f8a0\n");
        assert_eq!(crun.unwrap(), (Kind::Crun, "1.8.1".to_owned()));
        let runsc = identified("runsc version 0.0~20221219.0\nspec: 1.0.2-dev\n");
        assert_eq!(runsc.unwrap(), (Kind::Runsc, "0.0~20221219.0".to_owned()));
        assert!(identified("runsc version release-20240305.0\n").is_ok());
        assert!(identified("runc version unknown\n").is_ok());
    }

    #[test]
    fn what_is_no_runtime_or_too_old_is_refused() {
        for output in [
            "",
            "true (GNU coreutils) 9.1\n",
            "runc version 1.0.3\n",
            "runsc version release-20190529.1\n",
        ] {
            let error = identify(Path::new("/x"), output).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{output}");
            assert_eq!(error.field(), Some(FIELD));
        }
    }
}
