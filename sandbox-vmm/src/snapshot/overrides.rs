//! From the original's spec to a clone's.

use sandbox_core::snapshot::{DiskOverride, NetworkOverride, Overrides};
use sandbox_core::spec::{DiskSpec, NetworkSpec, TapSpec};
use sandbox_core::{Error, Result, SandboxSpec};

/// The spec of a clone: the original's with its overrides.
///
/// # Errors
/// An override that names nothing of the original, and a resource that only one sandbox can hold and that no override
/// speaks of.
pub fn apply(original: &SandboxSpec, overrides: &Overrides) -> Result<SandboxSpec> {
    let mut spec = original.clone();
    if let Some(id) = &overrides.id {
        spec.id = Some(id.clone());
    }
    refuse_unknown("disks", overrides.disks.keys(), |id| {
        spec.disks.iter().any(|disk| disk.id == *id)
    })?;
    refuse_unknown("networks", overrides.networks.keys(), |id| {
        spec.networks.iter().any(|network| network.id == *id)
    })?;
    for disk in &mut spec.disks {
        override_disk(disk, overrides.disks.get(&disk.id))?;
    }
    for network in &mut spec.networks {
        override_network(network, overrides.networks.get(&network.id))?;
    }
    match (&mut spec.vsock, &overrides.vsock_path) {
        (Some(vsock), Some(path)) => vsock.path.clone_from(path),
        (Some(_), None) => {
            return Err(Error::invalid(
                "overrides.vsock_path",
                "the original's socket is its own; name another path",
            ));
        }
        (None, Some(_)) => return Err(Error::invalid("overrides.vsock_path", "the snapshot has no vsock")),
        (None, None) => {}
    }
    if let Some(limits) = &overrides.limits {
        spec.limits = limits.clone();
    }
    if let Some(huge_pages) = overrides.huge_pages {
        spec.huge_pages = huge_pages;
    }
    spec.validate()?;
    Ok(spec)
}

fn refuse_unknown<'a>(
    what: &str,
    mut named: impl Iterator<Item = &'a String>,
    exists: impl Fn(&String) -> bool,
) -> Result<()> {
    match named.find(|id| !exists(id)) {
        Some(id) => {
            let context = format!("names nothing in the snapshot; its {what} have other ids");
            Err(Error::invalid(format!("overrides.{what}.{id}"), context))
        }
        None => Ok(()),
    }
}

fn override_disk(disk: &mut DiskSpec, given: Option<&DiskOverride>) -> Result<()> {
    let field = |name: &str| format!("overrides.disks.{}{name}", disk.id);
    let Some(given) = given else {
        return match disk.read_only || disk.private {
            true => Ok(()),
            false => {
                let context = "the guest writes this disk, which is the original's; name another file, or the same one if \
                               the original is gone, or have it private";
                Err(Error::invalid(field(""), context))
            }
        };
    };
    if given.private && (disk.read_only || given.read_only == Some(true)) {
        let context = "contradicts read_only: a disk that is only read has nothing to keep to itself";
        return Err(Error::invalid(field(".private"), context));
    }
    let names_it = given.path.is_some() || given.read_only == Some(true) || given.private || disk.private;
    if !disk.read_only && !names_it {
        return Err(Error::invalid(
            field(".path"),
            "the guest writes this disk, which is the original's; name a file",
        ));
    }
    if let Some(path) = &given.path {
        disk.path.clone_from(path);
    }
    // A file that is named for the clone is its own to write, unless it is to be shared.
    disk.private = given.private || disk.private && given.path.is_none() && given.read_only != Some(true);
    disk.read_only = given.read_only.unwrap_or(disk.read_only);
    disk.rate_limit = given.rate_limit.unwrap_or(disk.rate_limit);
    Ok(())
}

fn override_network(network: &mut NetworkSpec, given: Option<&NetworkOverride>) -> Result<()> {
    match given.and_then(|given| given.tap.as_ref()) {
        Some(tap) => network.tap = tap.clone(),
        None if is_exclusive(&network.tap) => {
            let field = format!("overrides.networks.{}.tap", network.id);
            return Err(Error::invalid(field, "the original's tap is its own; name another"));
        }
        None => {}
    }
    if let Some(given) = given {
        network.mac = given.mac.clone().or_else(|| network.mac.clone());
        network.guest_address = given.address.clone().or_else(|| network.guest_address.clone());
    }
    Ok(())
}

/// Whether two sandboxes cannot have the same. One that the kernel names is made anew for each.
fn is_exclusive(tap: &TapSpec) -> bool {
    !matches!(
        tap,
        TapSpec::Create {
            name: None,
            host_address: None
        }
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use sandbox_core::ErrorKind;

    use super::*;

    fn original() -> SandboxSpec {
        let json = br#"{"guest": {"unikernel": {"image": "/i"}}, "isolation": "in_process",
            "disks": [{"id": "root", "path": "/r", "read_only": true}, {"id": "data", "path": "/d"}],
            "networks": [{"id": "own", "tap": {"name": "tap7"}}, {"id": "made"}],
            "vsock": {"cid": 3, "path": "/s"}}"#;
        SandboxSpec::from_json(json).unwrap()
    }

    fn sufficient() -> Overrides {
        let disk = DiskOverride {
            path: Some(PathBuf::from("/copy")),
            ..DiskOverride::default()
        };
        let network = NetworkOverride {
            tap: Some(TapSpec::Name("tap8".to_owned())),
            ..NetworkOverride::default()
        };
        Overrides {
            disks: [("data".to_owned(), disk)].into(),
            networks: [("own".to_owned(), network)].into(),
            vsock_path: Some(PathBuf::from("/t")),
            ..Overrides::default()
        }
    }

    fn refused(overrides: &Overrides) -> String {
        let error = apply(&original(), overrides).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        error.field().unwrap().to_owned()
    }

    #[test]
    fn a_clone_has_what_was_named_for_it_and_shares_what_can_be_shared() {
        let spec = apply(&original(), &sufficient()).unwrap();
        assert_eq!(spec.disks[0].path, PathBuf::from("/r"));
        assert_eq!(spec.disks[1].path, PathBuf::from("/copy"));
        assert_eq!(spec.networks[0].tap, TapSpec::Name("tap8".to_owned()));
        assert_eq!(spec.vsock.unwrap().path, PathBuf::from("/t"));
    }

    #[test]
    fn what_is_the_originals_own_is_not_taken_over() {
        let mut overrides = sufficient();
        overrides.disks.clear();
        assert_eq!(refused(&overrides), "overrides.disks.data");
        overrides = sufficient();
        overrides.disks.insert("data".to_owned(), DiskOverride::default());
        assert_eq!(refused(&overrides), "overrides.disks.data.path");
        overrides = sufficient();
        overrides.networks.clear();
        assert_eq!(refused(&overrides), "overrides.networks.own.tap");
        overrides = sufficient();
        overrides.vsock_path = None;
        assert_eq!(refused(&overrides), "overrides.vsock_path");
    }

    #[test]
    fn an_override_that_names_nothing_is_an_error() {
        let mut overrides = sufficient();
        overrides.disks.insert("dta".to_owned(), DiskOverride::default());
        assert_eq!(refused(&overrides), "overrides.disks.dta");
        overrides = sufficient();
        overrides.networks.insert("eth0".to_owned(), NetworkOverride::default());
        assert_eq!(refused(&overrides), "overrides.networks.eth0");
        let mut plain = original();
        plain.vsock = None;
        assert!(apply(&plain, &sufficient()).is_err());
    }
}
