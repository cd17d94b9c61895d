//! Solo5 by its hvt interface: a machine of its own without interrupt controllers and devices, whose guests reach the
//! host by hypercalls. The devices that an application demands by name in its manifest are the spec's disks and
//! networks of the same id, no more and no fewer. The command line is the arguments, separated by spaces.

use sandbox_core::spec::{BootProtocol, SandboxSpec, UnikernelGuest};
use sandbox_core::{Error, Result};

use super::{BootPlan, Dialect, Discovery, told};
use crate::boot::MemoryMap;
use crate::boot::hvt::MEMORY_MAX;
use crate::boot::image::KernelImage;
use crate::boot::image::origin::Executes;
use crate::boot::image::solo5::{DeviceEntry, DeviceKind, Solo5Image};
use crate::devices::legacy::PortMap;
use crate::machine::vm::Chipset;
use crate::renewal::Channel;
use sandbox_core::limits::RateLimit;

const NAME: &str = "Solo5";
/// Least memory that it was seen to work with, in bytes.
const LEAST_MEMORY: u64 = 4 << 20;

pub(super) struct Solo5;

impl Dialect for Solo5 {
    fn plan<'a>(&self, spec: &'a SandboxSpec, image: &KernelImage) -> Result<BootPlan<'a>> {
        let guest = told::unikernel(spec)?;
        let Some(solo5) = &image.solo5 else {
            let context = "is solo5, but the file has no Solo5 notes; say auto, or build it with Solo5's tools";
            return Err(Error::invalid("guest.unikernel.family", context));
        };
        told::require_memory(spec, LEAST_MEMORY, NAME)?;
        told::refuse_processors(spec, NAME)?;
        told::refuse_initrd(guest, NAME)?;
        refuse_what_it_has_not(spec, guest)?;
        bind(spec, solo5)?;
        Ok(BootPlan {
            kernel: (&guest.image, "guest.unikernel.image"),
            initrd: None,
            cmdline: cmdline(guest, spec)?,
            cmdline_field: told::cmdline_field(guest),
            protocol: guest.protocol,
            discovery: Discovery::CommandLine,
            memory_map: MemoryMap::RamOnly,
            chipset: Chipset {
                irqchip: false,
                pit: false,
            },
            renewal: Channel::None,
            ports: PortMap::default(),
            firmware_msrs: false,
            dense_memory: false,
            timing_leaf: false,
            executes: Executes::default(),
            hvt: true,
        })
    }
}

fn refuse_what_it_has_not(spec: &SandboxSpec, guest: &UnikernelGuest) -> Result<()> {
    if spec.memory > MEMORY_MAX {
        let context = format!("is {} bytes; {NAME} takes at most {MEMORY_MAX}", spec.memory);
        return Err(Error::unsupported("memory", context));
    }
    let devices = [
        ("vsock", spec.vsock.is_some()),
        ("rng", spec.rng),
        ("balloon", spec.balloon.is_some()),
    ];
    if let Some((field, _)) = devices.into_iter().find(|(_, there)| *there) {
        return Err(Error::unsupported(
            field,
            "is nothing that the hvt interface of Solo5 has",
        ));
    }
    if guest.protocol != BootProtocol::Auto {
        let context = "is for kernels; a Solo5 guest has an entry of its own";
        return Err(Error::unsupported("guest.unikernel.protocol", context));
    }
    if !guest.env.is_empty() {
        let context = "cannot be told: Solo5 has no environment; use args";
        return Err(Error::unsupported("guest.unikernel.env", context));
    }
    told::refuse_addresses(&spec.networks)?;
    let disks = spec.disks.iter().enumerate();
    let networks = spec.networks.iter().enumerate();
    let limits = disks
        .map(|(index, disk)| (format!("disks[{index}].rate_limit"), disk.rate_limit))
        .chain(networks.flat_map(|(index, network)| {
            [
                (format!("networks[{index}].receive_limit"), network.receive_limit),
                (format!("networks[{index}].send_limit"), network.send_limit),
            ]
        }));
    for (field, limit) in limits {
        if limit != RateLimit::default() {
            return Err(Error::unsupported(
                field,
                "is not kept for hypercalls yet; leave it out",
            ));
        }
    }
    Ok(())
}

/// Whether the devices of the spec are those of the manifest.
fn bind(spec: &SandboxSpec, image: &Solo5Image) -> Result<()> {
    let disks: Vec<&str> = spec.disks.iter().map(|disk| disk.id.as_str()).collect();
    let networks: Vec<&str> = spec.networks.iter().map(|network| network.id.as_str()).collect();
    for (field, ids, kind) in [
        ("disks", disks, DeviceKind::Block),
        ("networks", networks, DeviceKind::Net),
    ] {
        let names = image.devices.iter().filter(|device| device.kind == kind);
        let names: Vec<&str> = names.map(|device: &DeviceEntry| device.name.as_str()).collect();
        if let Some(name) = names.iter().find(|name| !ids.contains(name)) {
            let context = format!("has no {name:?}, which the image's manifest demands; add one with that id");
            return Err(Error::invalid(field, context));
        }
        if let Some(index) = ids.iter().position(|id| !names.contains(id)) {
            let context = format!(
                "is {:?}, which the image's manifest does not name; it names {names:?}",
                ids[index]
            );
            return Err(Error::invalid(format!("{field}[{index}].id"), context));
        }
    }
    Ok(())
}

fn cmdline(guest: &UnikernelGuest, spec: &SandboxSpec) -> Result<String> {
    if let Some(raw) = &guest.cmdline {
        told::refuse_addresses(&spec.networks)?;
        return Ok(raw.clone());
    }
    let arguments = told::words(&guest.args, "guest.unikernel.args", told::QUOTED, told::quoted)?;
    Ok(arguments.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::image::Source;
    use crate::boot::image::solo5::test_support::{abi, manifest};
    use crate::boot::test_support::ElfBuilder;
    use crate::dialect::tests::{plain_image, plan, refused};

    fn image(devices: &[(&str, u32)]) -> KernelImage {
        let file = ElfBuilder::new(0x10_0000)
            .segment(0x10_0000, b"code", 4)
            .note(b"Solo5\0", u32::from_le_bytes(*b"ABI1"), &abi(1, 2), 4)
            .note(b"Solo5\0", u32::from_le_bytes(*b"MFT1"), &manifest(devices), 4)
            .build();
        KernelImage::parse(Source::Bytes(&file)).unwrap()
    }

    const DISK: &str = r#""disks": [{"id": "storage", "path": "d"}]"#;

    #[test]
    fn devices_are_bound_by_name() {
        let image = image(&[("storage", 1), ("service", 2)]);
        let both = format!(r#"{DISK}, "networks": [{{"id": "service"}}]"#);
        assert_eq!(plan(&Solo5, &image, r#""args": ["a", "b c"]"#, &both), "a \"b c\"");
        let surplus = format!(r#"{DISK}, "networks": [{{"id": "service"}}, {{"id": "other"}}]"#);
        let swapped = r#""disks": [{"id": "service", "path": "d"}], "networks": [{"id": "storage"}]"#;
        for (rest, field) in [(DISK, "networks"), (&surplus, "networks[1].id"), (swapped, "disks")] {
            assert_eq!(refused(&Solo5, &image, r#""args": []"#, rest), field);
        }
    }

    #[test]
    fn what_the_interface_has_not_is_refused() {
        let cases = [
            (r#""args": []"#, r#""rng": true"#, "rng"),
            (r#""args": []"#, r#""memory": 8589934592"#, "memory"),
            (r#""args": []"#, r#""memory": 1048576"#, "memory"),
            (r#""args": []"#, r#""vcpus": 2"#, "vcpus"),
            (r#""args": []"#, DISK, "disks[0].id"),
            (r#""env": ["A=b"]"#, "", "guest.unikernel.env"),
            (r#""protocol": "pvh""#, "", "guest.unikernel.protocol"),
            (r#""initrd": "i""#, "", "guest.unikernel.initrd"),
        ];
        for (guest, rest, field) in cases {
            assert_eq!(refused(&Solo5, &image(&[]), guest, rest), field);
        }
        assert_eq!(
            refused(&Solo5, &plain_image(), r#""args": []"#, ""),
            "guest.unikernel.family"
        );
    }
}
