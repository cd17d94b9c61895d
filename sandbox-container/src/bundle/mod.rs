//! The document that tells a runtime what to make: `config.json` (OCI runtime-spec, "Configuration").
//!
//! Its defaults are the safe ones: no new privileges, few capabilities, a list of allowed system calls, hidden and
//! read-only parts of `/proc` and `/sys`, a read-only root file system, a bound on processes.

mod mounts;
mod names;
mod process;
mod resources;
mod seccomp;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Root, Spec};
use sandbox_core::spec::{ContainerGuest, ProcessSpec};
use sandbox_core::{Result, SandboxSpec};

pub use names::{NameFile, write as write_name_files};
pub use process::{Account, further as further_process};
pub use resources::{CPU_PERIOD, cpu_quota};

use crate::disks::DiskLimits;
use crate::runtime::Kind;

/// What a bundle is made from.
pub struct Plan<'a> {
    /// The runtime that reads it.
    pub kind: Kind,
    /// The sandbox's description.
    pub spec: &'a SandboxSpec,
    /// Its container.
    pub guest: &'a ContainerGuest,
    /// What runs, complete.
    pub process: &'a ProcessSpec,
    /// Who runs it.
    pub account: &'a Account,
    /// The root file system.
    pub root: &'a Path,
    /// Host name inside.
    pub hostname: &'a str,
    /// The cgroup that the runtime is to make, where it does.
    pub cgroup: Option<&'a Path>,
    /// The network namespace to enter; a new one, with nothing but a loopback, if left out.
    pub network: Option<&'a Path>,
    /// Whether everything is done without root's rights.
    pub is_rootless: bool,
    /// Whether the host's cgroups are of version 2.
    pub is_unified: bool,
    /// Files by which it knows names.
    pub name_files: &'a [NameFile],
    /// What CRIU is to be told by a file.
    pub criu_config: Option<&'a Path>,
    /// What it gets of the host's disks.
    pub disk_limits: &'a DiskLimits,
}

/// The whole document.
///
/// # Errors
/// A limit that is no number of the kernel's, a device that cannot be found.
pub fn document(plan: &Plan<'_>) -> Result<Spec> {
    let mut spec = Spec::default();
    let mut root = Root::default();
    root.set_path(plan.root.to_owned());
    root.set_readonly(Some(!plan.guest.writable_root));
    spec.set_version("1.0.2".to_owned())
        .set_root(Some(root))
        .set_hostname(Some(plan.hostname.to_owned()))
        .set_process(Some(process::first(plan.process, plan.account)))
        .set_mounts(Some(mounts::all(plan)))
        .set_linux(Some(linux(plan)?));
    if let Some(path) = plan.criu_config {
        let path = path.display().to_string();
        spec.set_annotations(Some(HashMap::from([(CRIU_CONFIG.to_owned(), path)])));
    }
    Ok(spec)
}

/// The annotation by which runc takes a configuration file for CRIU.
const CRIU_CONFIG: &str = "org.criu.config";

/// Writes what CRIU must know of a container that it restores: the cgroup that its processes go to. On version 2 runc
/// does not say, and they would go to the one that they were saved in, beside the original's and without the new
/// container's limits.
///
/// # Errors
/// The host's.
pub fn write_criu_config(folder: &Path, cgroup: &Path) -> io::Result<PathBuf> {
    let path = folder.join("criu.conf");
    fs::write(&path, format!("cgroup-root {}\n", cgroup.display()))?;
    Ok(path)
}

fn linux(plan: &Plan<'_>) -> Result<Linux> {
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(plan)))
        .set_masked_paths(Some(paths(&MASKED)))
        .set_readonly_paths(Some(paths(&READ_ONLY)))
        .set_resources(resources::all(plan)?)
        .set_cgroups_path(plan.cgroup.map(Path::to_owned));
    if plan.kind != Kind::Runsc {
        // gVisor's kernel is the filter there; it has one of its own towards the host.
        linux.set_seccomp(Some(seccomp::profile()));
    }
    if plan.is_rootless {
        linux.set_uid_mappings(Some(own(rustix::process::geteuid().as_raw())));
        linux.set_gid_mappings(Some(own(rustix::process::getegid().as_raw())));
    }
    Ok(linux)
}

fn namespaces(plan: &Plan<'_>) -> Vec<LinuxNamespace> {
    let mut types = vec![
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Network,
    ];
    if plan.cgroup.is_some() {
        types.push(LinuxNamespaceType::Cgroup);
    }
    if plan.is_rootless {
        types.push(LinuxNamespaceType::User);
    }
    let namespace = |typ| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ);
        if typ == LinuxNamespaceType::Network {
            namespace.set_path(plan.network.map(Path::to_owned));
        }
        namespace
    };
    types.into_iter().map(namespace).collect()
}

/// Root inside is who we are outside, and nobody else is inside.
fn own(id: u32) -> Vec<LinuxIdMapping> {
    let mapping = LinuxIdMappingBuilder::default()
        .host_id(id)
        .container_id(0_u32)
        .size(1_u32)
        .build();
    mapping.into_iter().collect()
}

/// What tells of the host, or would let the container change it.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn paths(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// Where the document stands in a sandbox's folder.
pub fn file(folder: &Path) -> PathBuf {
    folder.join("config.json")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::resources::DEFAULT_PIDS;
    use super::*;
    use crate::disks::Rate;
    use sandbox_core::spec::GuestSpec;
    use serde_json::{Value, json};

    fn documented(kind: Kind, change: impl FnOnce(&mut SandboxSpec)) -> Value {
        let text = json!({"guest": {"container": {
            "runtime": kind.name(),
            "rootfs": "/r",
            "process": {"args": ["/bin/true"], "env": ["A=b"]}
        }}});
        let mut spec = SandboxSpec::from_json(text.to_string().as_bytes()).unwrap();
        change(&mut spec);
        let GuestSpec::Container(guest) = &spec.guest else {
            unreachable!()
        };
        let document = document(&Plan {
            kind,
            spec: &spec,
            guest,
            process: guest.process.as_ref().unwrap(),
            account: &Account::default(),
            root: Path::new("/r"),
            hostname: "box",
            cgroup: (kind != Kind::Runsc).then_some(Path::new("/sandbox/box")),
            network: None,
            is_rootless: false,
            is_unified: false,
            name_files: &[NameFile {
                source: "/box/hosts".into(),
                destination: "/etc/hosts",
            }],
            criu_config: None,
            disk_limits: &DiskLimits {
                disks: vec![(254, 0)],
                read: Rate {
                    bytes: Some(1000),
                    operations: None,
                },
                write: Rate::default(),
            },
        });
        serde_json::to_value(document.unwrap()).unwrap()
    }

    #[test]
    fn the_defaults_are_safe() {
        let document = documented(Kind::Runc, |_| {});
        assert_eq!(document["root"], json!({"path": "/r", "readonly": true}));
        assert_eq!(document["process"]["noNewPrivileges"], true);
        let capabilities = document["process"]["capabilities"]["bounding"].as_array().unwrap();
        assert!(!capabilities.contains(&json!("CAP_SYS_ADMIN")) && capabilities.contains(&json!("CAP_CHOWN")));
        assert_eq!(document["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(document["linux"]["resources"]["pids"]["limit"], DEFAULT_PIDS);
        assert_eq!(document["linux"]["resources"]["memory"]["limit"], 128 << 20);
        assert_eq!(document["linux"]["resources"]["memory"]["swap"], 128 << 20);
        assert_eq!(document["linux"]["resources"]["devices"][0]["allow"], false);
        assert_eq!(document["hostname"], "box");
    }

    #[test]
    fn limits_are_what_the_spec_says() {
        let document = documented(Kind::Crun, |spec| {
            spec.limits.cpu_quota = Some(250);
            spec.limits.pids = Some(7);
        });
        let resources = &document["linux"]["resources"];
        assert_eq!(resources["cpu"]["quota"], 25_000);
        assert_eq!(resources["cpu"]["period"], 100_000);
        assert_eq!(resources["pids"]["limit"], 7);
        let throttled = json!({"throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1000}]});
        assert_eq!(resources["blockIO"], throttled);
    }

    #[test]
    fn files_of_names_are_mounted_unless_the_spec_mounts_its_own() {
        let at_hosts = |document: &Value| {
            let mounts = document["mounts"].as_array().unwrap().iter();
            let sources = mounts.filter(|mount| mount["destination"] == "/etc/hosts");
            sources.map(|mount| mount["source"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(at_hosts(&documented(Kind::Runc, |_| {})), ["/box/hosts"]);
        let own = documented(Kind::Runc, |spec| {
            if let GuestSpec::Container(guest) = &mut spec.guest {
                guest.mounts = vec![sandbox_core::spec::MountSpec {
                    source: "/own".into(),
                    destination: "/etc/hosts".into(),
                    read_only: true,
                }];
            }
        });
        assert_eq!(at_hosts(&own), ["/own"]);
    }

    #[test]
    fn gvisor_has_its_own_filter_and_our_cgroup() {
        let document = documented(Kind::Runsc, |_| {});
        assert_eq!(document["linux"].get("seccomp"), None);
        assert_eq!(document["linux"].get("resources"), None);
    }
}
