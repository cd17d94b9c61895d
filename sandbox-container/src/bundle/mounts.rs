//! What is mounted in a container beside its root file system.

use std::path::Path;

use oci_spec::runtime::Mount;
use sandbox_core::spec::MountSpec;

use super::Plan;
use super::names::NameFile;

/// The file systems that every Linux program expects, and the mounts that the spec adds.
pub fn all(plan: &Plan<'_>) -> Vec<Mount> {
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount("/dev/pts", "devpts", "devpts", terminals(plan)),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    if plan.cgroup.is_some() {
        let options = ["nosuid", "noexec", "nodev", "relatime", "ro"];
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &options));
    }
    let own = |file: &&NameFile| {
        let mut mounts = plan.guest.mounts.iter();
        // Below a folder that the spec mounts, it is the spec's file that is meant.
        !mounts.any(|mount| Path::new(file.destination).starts_with(&mount.destination))
    };
    let name_files = plan.name_files.iter().filter(own);
    mounts.extend(name_files.map(|file| {
        bind(&MountSpec {
            source: file.source.clone(),
            destination: file.destination.into(),
            read_only: true,
        })
    }));
    mounts.extend(plan.guest.mounts.iter().map(bind));
    mounts
}

/// A terminal belongs to a group that does not exist where one user is all there is.
fn terminals(plan: &Plan<'_>) -> &'static [&'static str] {
    let options = &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    match plan.is_rootless {
        true => &options[..5],
        false => options,
    }
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(ToString::to_string).collect()));
    mount
}

fn bind(spec: &MountSpec) -> Mount {
    let access = if spec.read_only { "ro" } else { "rw" };
    let options = ["rbind", "rprivate", "nosuid", "nodev", access];
    let mut mount = mount("", "bind", "", &options);
    mount
        .set_destination(spec.destination.clone())
        .set_source(Some(absolute(&spec.source)));
    mount
}

/// Runtimes take relative paths from the bundle's folder; the spec means the caller's.
fn absolute(path: &Path) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
