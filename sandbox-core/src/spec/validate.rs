//! The checks that need no host.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::Path;

use super::{
    ContainerGuest, GuestSpec, LinuxGuest, MAX_VCPUS, NetworkSpec, PortSpec, ReadyCheck, SandboxSpec, TapSpec,
    UnikernelGuest,
};
use crate::error::{Error, Result};
use crate::limits::{RateLimit, TokenBucket};

const PAGE_SIZE: u64 = 4096;
/// The last context identifier that is not reserved (virtio 1.3 §5.10.4).
const MAX_CID: u32 = u32::MAX - 1;
const MIN_CID: u32 = 3;

pub(super) fn validate(spec: &SandboxSpec) -> Result<()> {
    if let Some(id) = &spec.id {
        name("id", id)?;
    }
    guest(&spec.guest)?;
    processors_and_memory(spec)?;
    devices(spec)?;
    limits(spec)?;
    match &spec.ready {
        Some(check) => ready(check, spec),
        None => Ok(()),
    }
}

fn processors_and_memory(spec: &SandboxSpec) -> Result<()> {
    if spec.vcpus == 0 || spec.vcpus > MAX_VCPUS {
        let context = format!("is {}; give 1 to {MAX_VCPUS}", spec.vcpus);
        return Err(Error::invalid("vcpus", context));
    }
    if spec.memory == 0 {
        return Err(Error::invalid("memory", "is 0; give the guest's memory in bytes"));
    }
    page_multiple("memory", spec.memory)?;
    for (index, feature) in spec.cpu.mask.iter().enumerate() {
        not_empty(&format!("cpu.mask[{index}]"), feature)?;
    }
    Ok(())
}

fn guest(guest: &GuestSpec) -> Result<()> {
    match guest {
        GuestSpec::Linux(linux) => linux_guest(linux),
        GuestSpec::Unikernel(unikernel) => unikernel_guest(unikernel),
        GuestSpec::Container(container) => container_guest(container),
    }
}

fn linux_guest(linux: &LinuxGuest) -> Result<()> {
    path("guest.linux.kernel", &linux.kernel)?;
    if let Some(initrd) = &linux.initrd {
        path("guest.linux.initrd", initrd)?;
    }
    no_nul("guest.linux.cmdline", &linux.cmdline)
}

fn unikernel_guest(unikernel: &UnikernelGuest) -> Result<()> {
    path("guest.unikernel.image", &unikernel.image)?;
    if let Some(initrd) = &unikernel.initrd {
        path("guest.unikernel.initrd", initrd)?;
    }
    if let Some(cmdline) = &unikernel.cmdline {
        no_nul("guest.unikernel.cmdline", cmdline)?;
        if !unikernel.args.is_empty() || !unikernel.env.is_empty() {
            let context = "stands beside args or env; give either the raw command line or those";
            return Err(Error::invalid("guest.unikernel.cmdline", context));
        }
    }
    for (index, argument) in unikernel.args.iter().enumerate() {
        no_nul(&format!("guest.unikernel.args[{index}]"), argument)?;
    }
    environment("guest.unikernel.env", &unikernel.env)
}

fn container_guest(container: &ContainerGuest) -> Result<()> {
    not_empty("guest.container.runtime", &container.runtime)?;
    match (&container.rootfs, &container.image) {
        (Some(rootfs), None) => path("guest.container.rootfs", rootfs)?,
        (None, Some(image)) => path("guest.container.image", image)?,
        _ => {
            let context = "give exactly one of rootfs and image";
            return Err(Error::invalid("guest.container.rootfs", context));
        }
    }
    match &container.image_name {
        Some(_) if container.image.is_none() => {
            let context = "names an image of a layout; give the layout as image";
            return Err(Error::invalid("guest.container.image_name", context));
        }
        Some(name) => not_empty("guest.container.image_name", name)?,
        None => {}
    }
    if let Some(process) = &container.process {
        if process.args.is_empty() {
            let context = "is empty; its first entry names the program";
            return Err(Error::invalid("guest.container.process.args", context));
        }
        for (index, argument) in process.args.iter().enumerate() {
            no_nul(&format!("guest.container.process.args[{index}]"), argument)?;
        }
        environment("guest.container.process.env", &process.env)?;
        if let Some(cwd) = &process.cwd {
            absolute("guest.container.process.cwd", cwd)?;
        }
    }
    for (index, mount) in container.mounts.iter().enumerate() {
        path(&format!("guest.container.mounts[{index}].source"), &mount.source)?;
        absolute(
            &format!("guest.container.mounts[{index}].destination"),
            &mount.destination,
        )?;
    }
    Ok(())
}

fn devices(spec: &SandboxSpec) -> Result<()> {
    let mut seen = HashSet::new();
    for (index, disk) in spec.disks.iter().enumerate() {
        let field = format!("disks[{index}]");
        unique(&format!("{field}.id"), &disk.id, &mut seen)?;
        path(&format!("{field}.path"), &disk.path)?;
        if disk.private && disk.read_only {
            let context = "contradicts read_only: a disk that is only read has nothing to keep to itself";
            return Err(Error::invalid(format!("{field}.private"), context));
        }
        rate_limit(&format!("{field}.rate_limit"), &disk.rate_limit)?;
    }
    seen.clear();
    for (index, network) in spec.networks.iter().enumerate() {
        let field = format!("networks[{index}]");
        unique(&format!("{field}.id"), &network.id, &mut seen)?;
        rate_limit(&format!("{field}.receive_limit"), &network.receive_limit)?;
        rate_limit(&format!("{field}.send_limit"), &network.send_limit)?;
        if let Some(address) = &network.guest_address {
            address_with_prefix(&format!("{field}.guest_address"), address)?;
        }
        managed_network(&field, network)?;
        if let TapSpec::Create {
            host_address: Some(address),
            ..
        } = &network.tap
        {
            address_with_prefix(&format!("{field}.tap.create.host_address"), address)?;
        }
    }
    if let Some(vsock) = &spec.vsock {
        if !(MIN_CID..=MAX_CID).contains(&vsock.cid) {
            let context = format!("is {}; give {MIN_CID} to {MAX_CID}", vsock.cid);
            return Err(Error::invalid("vsock.cid", context));
        }
        path("vsock.path", &vsock.path)?;
    }
    if let Some(balloon) = &spec.balloon {
        page_multiple("balloon.size", balloon.size)?;
        if balloon.size >= spec.memory {
            let context = format!(
                "is {} of {} bytes; leave the guest some memory",
                balloon.size, spec.memory
            );
            return Err(Error::invalid("balloon.size", context));
        }
    }
    Ok(())
}

/// Who makes a network, and what is asked of them.
fn managed_network(field: &str, network: &NetworkSpec) -> Result<()> {
    let given = [
        ("tap", network.tap != TapSpec::default()),
        ("netns", network.netns.is_some()),
        ("bridge", network.bridge.is_some()),
        ("cni", network.cni.is_some()),
    ];
    let mut given = given.iter().filter(|(_, given)| *given).map(|(name, _)| *name);
    match (given.next(), given.next()) {
        // A tap in a namespace.
        (Some("tap"), Some("netns")) if given.next().is_none() => {}
        (Some(first), Some(second)) => {
            let context = format!("stands beside {first}; a network comes from one of them");
            return Err(Error::invalid(format!("{field}.{second}"), context));
        }
        _ => {}
    }
    if let Some(netns) = &network.netns {
        absolute(&format!("{field}.netns"), netns)?;
    }
    if let Some(bridge) = &network.bridge {
        let field = format!("{field}.bridge");
        interface_name(&format!("{field}.name"), &bridge.name)?;
        if let Some(subnet) = &bridge.subnet {
            address_with_prefix(&format!("{field}.subnet"), subnet)?;
        }
        ports(&field, &bridge.ports)?;
    }
    if let Some(cni) = &network.cni {
        let field = format!("{field}.cni");
        path(&format!("{field}.config"), &cni.config)?;
        for (index, folder) in cni.plugin_dirs.iter().enumerate() {
            absolute(&format!("{field}.plugin_dirs[{index}]"), folder)?;
        }
        ports(&field, &cni.ports)?;
    }
    Ok(())
}

fn ports(field: &str, ports: &[PortSpec]) -> Result<()> {
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        if port.guest == 0 {
            return Err(Error::invalid(format!("{field}.guest"), "is 0; give 1 to 65535"));
        }
        if port.host != 0 && !seen.insert((port.protocol, port.host, port.host_address)) {
            let context = format!("{} is published twice", port.host);
            return Err(Error::invalid(format!("{field}.host"), context));
        }
    }
    Ok(())
}

fn interface_name(field: &str, value: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let starts_well = value.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    match starts_well && value.len() <= 15 && value.bytes().all(allowed) {
        true => Ok(()),
        false => {
            let context = format!("{value:?} is no interface name: 1 to 15 of a-z A-Z 0-9 . _ -");
            Err(Error::invalid(field.to_owned(), context))
        }
    }
}

fn limits(spec: &SandboxSpec) -> Result<()> {
    let limits = &spec.limits;
    let zero = |field, value: Option<u64>| match value {
        Some(0) => Err(Error::invalid(field, "is 0; leave it out for no limit")),
        _ => Ok(()),
    };
    zero("limits.cpu_quota", limits.cpu_quota.map(u64::from))?;
    zero("limits.pids", limits.pids.map(u64::from))?;
    zero("limits.deadline_ms", limits.deadline_ms)?;
    zero("limits.console_bytes", Some(limits.console_bytes))?;
    rate_limit("limits.disk_read", &limits.disk_read)?;
    rate_limit("limits.disk_write", &limits.disk_write)
}

fn ready(check: &ReadyCheck, spec: &SandboxSpec) -> Result<()> {
    match check {
        ReadyCheck::Console { marker } => not_empty("ready.console.marker", marker),
        ReadyCheck::Http { path, .. } => http_path("ready.http.path", path),
        ReadyCheck::Post { path, .. } => http_path("ready.post.path", path),
        ReadyCheck::Vsock { .. } if spec.vsock.is_none() => {
            Err(Error::invalid("ready.vsock", "needs the sandbox to have a vsock"))
        }
        _ => Ok(()),
    }
}

fn rate_limit(field: &str, limit: &RateLimit) -> Result<()> {
    let buckets = [("bandwidth", limit.bandwidth), ("operations", limit.operations)];
    for (name, bucket) in buckets {
        match bucket {
            Some(TokenBucket { size: 0, .. }) => {
                return Err(Error::invalid(
                    format!("{field}.{name}.size"),
                    "is 0; nothing would ever pass",
                ));
            }
            Some(TokenBucket { refill_time_ms: 0, .. }) => {
                let field = format!("{field}.{name}.refill_time_ms");
                return Err(Error::invalid(field, "is 0; leave the bucket out for no limit"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn unique(field: &str, id: &str, seen: &mut HashSet<String>) -> Result<()> {
    name(field, id)?;
    match seen.insert(id.to_owned()) {
        true => Ok(()),
        false => Err(Error::invalid(field.to_owned(), format!("{id:?} is used twice"))),
    }
}

fn name(field: &str, value: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let starts_well = value.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    match starts_well && value.len() <= 64 && value.bytes().all(allowed) {
        true => Ok(()),
        false => {
            let context = format!("{value:?} is no name: 1 to 64 of a-z A-Z 0-9 . _ -, the first a letter or digit");
            Err(Error::invalid(field.to_owned(), context))
        }
    }
}

fn page_multiple(field: &'static str, value: u64) -> Result<()> {
    match value % PAGE_SIZE {
        0 => Ok(()),
        _ => {
            let context = format!("is {value}, which is no multiple of {PAGE_SIZE} bytes");
            Err(Error::invalid(field, context))
        }
    }
}

fn not_empty(field: &str, value: &str) -> Result<()> {
    no_nul(field, value)?;
    match value.is_empty() {
        false => Ok(()),
        true => Err(Error::invalid(field.to_owned(), "is empty")),
    }
}

fn no_nul(field: &str, value: &str) -> Result<()> {
    match value.contains('\0') {
        false => Ok(()),
        true => Err(Error::invalid(field.to_owned(), "contains a NUL byte")),
    }
}

fn path(field: &str, value: &Path) -> Result<()> {
    let bytes = value.as_os_str().as_encoded_bytes();
    match (bytes.is_empty(), bytes.contains(&0)) {
        (true, _) => Err(Error::invalid(field.to_owned(), "is an empty path")),
        (_, true) => Err(Error::invalid(field.to_owned(), "contains a NUL byte")),
        _ => Ok(()),
    }
}

fn absolute(field: &str, value: &Path) -> Result<()> {
    path(field, value)?;
    match value.is_absolute() {
        true => Ok(()),
        false => Err(Error::invalid(field.to_owned(), "is no absolute path")),
    }
}

fn http_path(field: &'static str, value: &str) -> Result<()> {
    let clean = value.starts_with('/') && value.bytes().all(|byte| byte.is_ascii_graphic());
    match clean {
        true => Ok(()),
        false => Err(Error::invalid(
            field,
            "is no path: begin with / and use printable ASCII without spaces",
        )),
    }
}

fn environment(field: &str, variables: &[String]) -> Result<()> {
    for (index, variable) in variables.iter().enumerate() {
        let field = format!("{field}[{index}]");
        no_nul(&field, variable)?;
        if !matches!(variable.find('='), Some(1..)) {
            return Err(Error::invalid(field, "is not of the form NAME=value"));
        }
    }
    Ok(())
}

fn address_with_prefix(field: &str, value: &str) -> Result<()> {
    let parsed = value.split_once('/').is_some_and(|(address, prefix)| {
        address.parse::<Ipv4Addr>().is_ok() && prefix.parse::<u8>().is_ok_and(|prefix| prefix <= 32)
    });
    match parsed {
        true => Ok(()),
        false => {
            let context = format!("{value:?} is not of the form a.b.c.d/prefix");
            Err(Error::invalid(field.to_owned(), context))
        }
    }
}
