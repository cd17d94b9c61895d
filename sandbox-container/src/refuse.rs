//! What a spec may ask for that a container does not have: refused, so that no field means less than it says.

use std::collections::BTreeSet;

use sandbox_core::snapshot::MemoryRestore;
use sandbox_core::spec::{ContainerGuest, HugePages, ReadyCheck};
use sandbox_core::{Capability, Error, RestoreOptions, Result, SandboxSpec};

use crate::error::kind_of;

/// Checks `spec` against what the runtime can do here.
///
/// # Errors
/// The first field that cannot be had.
pub fn check(spec: &SandboxSpec, capabilities: &BTreeSet<Capability>) -> Result<()> {
    let fields = [
        (
            !spec.disks.is_empty(),
            "disks",
            "containers have mounts instead of disks",
        ),
        (spec.vsock.is_some(), "vsock", "containers have none"),
        (spec.rng, "rng", "containers use the host's random numbers"),
        (
            spec.balloon.is_some(),
            "balloon",
            "a container's memory is the host's own",
        ),
        (
            spec.huge_pages != HugePages::Auto,
            "huge_pages",
            "a container's memory is the host's own",
        ),
        (
            !spec.cpu.mask.is_empty(),
            "cpu.mask",
            "containers see the host's processor",
        ),
        (
            spec.track_dirty,
            "track_dirty",
            "a container's memory is the host's own",
        ),
        (
            matches!(spec.ready, Some(ReadyCheck::BootPort)),
            "ready",
            "containers have no boot port; use another check",
        ),
        (
            matches!(spec.ready, Some(ReadyCheck::Vsock { .. })),
            "ready",
            "containers have no vsock; use another check",
        ),
        (
            spec.limits.cpu_quota.is_some() && !capabilities.contains(&Capability::LimitCpuQuota),
            "limits.cpu_quota",
            "needs the right to make cgroups",
        ),
        (
            !spec.limits.disk_read.is_none() && !capabilities.contains(&Capability::LimitDisk),
            "limits.disk_read",
            "needs the right to make cgroups, and a kernel that limits disks by them",
        ),
        (
            !spec.limits.disk_write.is_none() && !capabilities.contains(&Capability::LimitDisk),
            "limits.disk_write",
            "needs the right to make cgroups, and a kernel that limits disks by them",
        ),
        (
            spec.limits.pids.is_some() && !capabilities.contains(&Capability::LimitPids),
            "limits.pids",
            "this runtime cannot hold a container to it here",
        ),
    ];
    match fields.into_iter().find(|(asked, _, _)| *asked) {
        Some((_, field, reason)) => Err(Error::unsupported(field, reason)),
        None => Ok(()),
    }
}

/// Checks that what is to be mounted is there.
///
/// # Errors
/// The first source that is not.
pub fn check_mounts(guest: &ContainerGuest) -> Result<()> {
    for (index, mount) in guest.mounts.iter().enumerate() {
        if let Err(error) = mount.source.metadata() {
            let context = format!("cannot mount {}", mount.source.display());
            return Err(Error::new(kind_of(&error), context)
                .with_field(format!("guest.container.mounts[{index}].source"))
                .with_source(error));
        }
    }
    Ok(())
}

/// Checks what a restore is asked for.
///
/// # Errors
/// The first option that cannot be had.
pub fn check_restore(options: &RestoreOptions) -> Result<()> {
    let overrides = &options.overrides;
    let cases = [
        (
            !options.start,
            "start",
            "runtimes let a restored container run at once (restore_paused is absent); ask for start",
        ),
        (
            options.memory == MemoryRestore::Uffd,
            "memory",
            "runtimes read a container's memory themselves",
        ),
        (!overrides.disks.is_empty(), "overrides.disks", "containers have none"),
        (
            !overrides.networks.is_empty(),
            "overrides.networks",
            "containers are saved without networks",
        ),
        (
            overrides.huge_pages.is_some(),
            "overrides.huge_pages",
            "a container's memory is the host's own",
        ),
        (
            overrides.vsock_path.is_some(),
            "overrides.vsock_path",
            "containers have none",
        ),
    ];
    match cases.into_iter().find(|(asked, _, _)| *asked) {
        Some((_, field, reason)) => Err(Error::unsupported(field, reason)),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use sandbox_core::ErrorKind;

    fn spec() -> SandboxSpec {
        let text = br#"{"guest": {"container": {"runtime": "runc", "rootfs": "/r", "process": {"args": ["/a"]}}}}"#;
        SandboxSpec::from_json(text).unwrap()
    }

    #[test]
    fn what_only_machines_have_is_refused_by_field() {
        let all = BTreeSet::from(Capability::ALL);
        check(&spec(), &all).unwrap();
        type Change = fn(&mut SandboxSpec);
        let cases: [(&str, Change); 4] = [
            ("rng", |spec| spec.rng = true),
            ("track_dirty", |spec| spec.track_dirty = true),
            ("ready", |spec| spec.ready = Some(ReadyCheck::BootPort)),
            ("cpu.mask", |spec| spec.cpu.mask = vec!["avx".to_owned()]),
        ];
        for (field, change) in cases {
            let mut spec = spec();
            change(&mut spec);
            let error = check(&spec, &all).unwrap_err();
            assert_eq!((error.kind(), error.field()), (ErrorKind::Unsupported, Some(field)));
        }
    }

    #[test]
    fn what_a_restored_container_cannot_be_given_is_refused_by_field() {
        type Change = fn(&mut RestoreOptions);
        let cases: [(&str, Change); 5] = [
            ("start", |options| options.start = false),
            ("memory", |options| options.memory = MemoryRestore::Uffd),
            ("overrides.networks", |options| {
                options.overrides.networks.insert("net".to_owned(), Default::default());
            }),
            ("overrides.huge_pages", |options| {
                options.overrides.huge_pages = Some(HugePages::Never);
            }),
            ("overrides.vsock_path", |options| {
                options.overrides.vsock_path = Some("/v".into());
            }),
        ];
        for (field, change) in cases {
            let mut options = RestoreOptions {
                start: true,
                ..RestoreOptions::default()
            };
            check_restore(&options).unwrap();
            change(&mut options);
            let error = check_restore(&options).unwrap_err();
            assert_eq!((error.kind(), error.field()), (ErrorKind::Unsupported, Some(field)));
        }
    }

    #[test]
    fn limits_that_cannot_be_held_are_refused() {
        let mut spec = spec();
        spec.limits.pids = Some(3);
        let error = check(&spec, &BTreeSet::new()).unwrap_err();
        assert_eq!(error.field(), Some("limits.pids"));
    }
}
