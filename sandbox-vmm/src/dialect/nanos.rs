//! Nanos: a kernel of its own and a root file system on the first disk; devices and addresses on the command line by
//! the 64-bit Linux boot protocol, by ACPI with PVH, whose command line it does not read.
//!
//! The program, its arguments and its environment stand in a tree of settings on the disk; the command line overrides
//! branches of it (`environment.NAME=value`, `arguments.1=value`; argument 0 is the program's own name, as on the disk).
//! It ends with the program's exit code on a port.

use sandbox_core::spec::{BootProtocol, SandboxSpec, UnikernelGuest};
use sandbox_core::{Error, Result};

use super::{BootPlan, Dialect, Discovery, told};
use crate::boot::MemoryMap;
use crate::boot::image::KernelImage;
use crate::boot::image::origin::Executes;
use crate::devices::legacy::{ExitPort, PortMap};
use crate::machine::vm::Chipset;
use crate::renewal::Channel;

const NAME: &str = "Nanos";
/// Least memory that it was seen to work with, in bytes.
const LEAST_MEMORY: u64 = 11 << 20;
/// Takes the program's exit code as a byte.
const EXIT_PORT: u16 = 0x501;

pub(super) struct Nanos;

impl Dialect for Nanos {
    fn plan<'a>(&self, spec: &'a SandboxSpec, image: &KernelImage) -> Result<BootPlan<'a>> {
        let guest = told::unikernel(spec)?;
        told::require_memory(spec, LEAST_MEMORY, NAME)?;
        told::refuse_initrd(guest, NAME)?;
        if spec.disks.is_empty() {
            let context = "is empty, and the root file system of Nanos is a disk; give the image that ops or mkfs made";
            return Err(Error::invalid("disks", context));
        }
        let by_pvh = match guest.protocol {
            BootProtocol::Pvh => true,
            BootProtocol::Linux64 => false,
            BootProtocol::Auto => image.linux_entry.is_none(),
        };
        if !by_pvh {
            told::refuse_processors(spec, "Nanos by the Linux boot protocol")?;
        }
        Ok(BootPlan {
            kernel: (&guest.image, "guest.unikernel.image"),
            initrd: None,
            cmdline: match by_pvh {
                true => nothing_told(guest, spec)?,
                false => cmdline(guest, spec)?,
            },
            cmdline_field: told::cmdline_field(guest),
            protocol: guest.protocol,
            discovery: match by_pvh {
                true => Discovery::Acpi,
                false => Discovery::CommandLine,
            },
            memory_map: MemoryMap::RamOnly,
            chipset: Chipset {
                irqchip: true,
                pit: false,
            },
            renewal: Channel::None,
            ports: PortMap {
                exit: Some(ExitPort::Byte(EXIT_PORT)),
                ..PortMap::default()
            },
            firmware_msrs: false,
            dense_memory: false,
            timing_leaf: true,
            executes: Executes::default(),
            hvt: false,
        })
    }
}

fn nothing_told(guest: &UnikernelGuest, spec: &SandboxSpec) -> Result<String> {
    told::refuse_addresses(&spec.networks)?;
    let given = [
        ("guest.unikernel.args", !guest.args.is_empty()),
        ("guest.unikernel.env", !guest.env.is_empty()),
        ("guest.unikernel.cmdline", guest.cmdline.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(String::new()),
        Some((field, _)) => {
            let context = "cannot be told: by PVH Nanos does not read its command line; use the protocol linux64";
            Err(Error::unsupported(field, context))
        }
    }
}

fn cmdline(guest: &UnikernelGuest, spec: &SandboxSpec) -> Result<String> {
    if let Some(raw) = &guest.cmdline {
        told::refuse_addresses(&spec.networks)?;
        return Ok(raw.clone());
    }
    let mut words = Vec::new();
    for address in told::addresses(&spec.networks)? {
        // Cards are counted from 1.
        let card = address.card + 1;
        words.push(format!("en{card}.ipaddr={}", address.cidr.address()));
        words.push(format!("en{card}.netmask={}", address.cidr.netmask()));
        words.extend(address.gateway.map(|gateway| format!("en{card}.gateway={gateway}")));
    }
    let variables = told::words(&guest.env, "guest.unikernel.env", told::UNQUOTED, told::unquoted)?;
    words.extend(variables.iter().map(|variable| format!("environment.{variable}")));
    let arguments = told::words(&guest.args, "guest.unikernel.args", told::UNQUOTED, told::unquoted)?;
    let numbered = arguments.iter().enumerate();
    words.extend(numbered.map(|(index, argument)| format!("arguments.{}={argument}", index + 1)));
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::tests::{plain_image, plan, refused};

    const DISK: &str = r#""disks": [{"id": "root", "path": "d"}]"#;

    #[test]
    fn address_environment_and_arguments_are_told_in_its_own_words() {
        let network = r#""networks": [{"id": "n", "guest_address": "10.0.0.2/30", "gateway": "10.0.0.1"}]"#;
        let told = plan(
            &Nanos,
            &plain_image(),
            r#""args": ["-p", "80"], "env": ["A=1"]"#,
            &format!("{DISK}, {network}"),
        );
        assert_eq!(
            told,
            "en1.ipaddr=10.0.0.2 en1.netmask=255.255.255.252 en1.gateway=10.0.0.1 environment.A=1 arguments.1=-p \
             arguments.2=80"
        );
    }

    #[test]
    fn what_it_cannot_be_told_is_refused() {
        let network = format!(r#"{DISK}, "networks": [{{"id": "n", "guest_address": "10.0.0.2/30"}}]"#);
        let cases = [
            (r#""args": []"#, "", "disks"),
            (r#""env": ["A=a b"]"#, DISK, "guest.unikernel.env[0]"),
            (r#""initrd": "i""#, DISK, "guest.unikernel.initrd"),
            (r#""protocol": "pvh", "args": ["a"]"#, DISK, "guest.unikernel.args"),
            (r#""protocol": "pvh""#, &network, "networks[0].guest_address"),
        ];
        for (guest, spec, field) in cases {
            assert_eq!(refused(&Nanos, &plain_image(), guest, spec), field);
        }
    }
}
