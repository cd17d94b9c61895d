//! OSv: its options and then the program and the program's arguments on the command line, virtio-mmio devices there as
//! well; the root file system on the first disk, or within the kernel.
//!
//! Without ACPI it powers off by pulsing the processor's reset line; a reboot it begins by the system control port,
//! which tells the two apart. It tells no exit code.

use sandbox_core::spec::{SandboxSpec, UnikernelGuest};
use sandbox_core::{Error, Result};

use super::{BootPlan, Dialect, Discovery, told};
use crate::boot::MemoryMap;
use crate::boot::image::KernelImage;
use crate::boot::image::origin::Executes;
use crate::devices::legacy::PortMap;
use crate::machine::vm::Chipset;
use crate::renewal::Channel;

const NAME: &str = "OSv";
/// Least memory that it was seen to work with, in bytes.
const LEAST_MEMORY: u64 = 14 << 20;
/// What would be read as something else than a part of an argument: ends of commands, and variables.
const SPECIAL: [char; 4] = [';', '&', '!', '$'];

pub(super) struct Osv;

impl Dialect for Osv {
    fn plan<'a>(&self, spec: &'a SandboxSpec, _image: &KernelImage) -> Result<BootPlan<'a>> {
        let guest = told::unikernel(spec)?;
        told::require_memory(spec, LEAST_MEMORY, NAME)?;
        told::refuse_initrd(guest, NAME)?;
        told::refuse_processors(spec, NAME)?;
        Ok(BootPlan {
            kernel: (&guest.image, "guest.unikernel.image"),
            initrd: None,
            cmdline: cmdline(guest, spec)?,
            cmdline_field: told::cmdline_field(guest),
            protocol: guest.protocol,
            discovery: Discovery::CommandLine,
            memory_map: MemoryMap::RamOnly,
            chipset: Chipset {
                irqchip: true,
                pit: false,
            },
            renewal: Channel::None,
            ports: PortMap {
                reset_is_power_off: true,
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

fn cmdline(guest: &UnikernelGuest, spec: &SandboxSpec) -> Result<String> {
    if let Some(raw) = &guest.cmdline {
        told::refuse_addresses(&spec.networks)?;
        return Ok(raw.clone());
    }
    if guest.args.is_empty() {
        let context = "is empty, and OSv is told its program there; give the program's path in the image first";
        return Err(Error::invalid("guest.unikernel.args", context));
    }
    let mut words = vec!["--nopci".to_owned()];
    let addresses = told::addresses(&spec.networks)?;
    for address in &addresses {
        let (ip, mask) = (address.cidr.address(), address.cidr.netmask());
        words.push(format!("--ip=eth{},{ip},{mask}", address.card));
    }
    // There is one default gateway, the first that is named.
    let gateways: Vec<_> = addresses.iter().filter(|address| address.gateway.is_some()).collect();
    if let Some(second) = gateways.get(1) {
        let field = format!("networks[{}].gateway", second.card);
        return Err(Error::unsupported(
            field,
            "is a second gateway, and OSv can be told one",
        ));
    }
    words.extend(
        gateways
            .first()
            .and_then(|first| first.gateway)
            .map(|gateway| format!("--defaultgw={gateway}")),
    );
    let variables = told::words(&guest.env, "guest.unikernel.env", told::UNQUOTED, told::unquoted)?;
    words.extend(variables.iter().map(|variable| format!("--env={variable}")));
    let hindrance = "has a double quote, a backslash, a line feed or one of ; & ! $, which OSv cannot be told";
    words.extend(told::words(&guest.args, "guest.unikernel.args", hindrance, argument)?);
    Ok(words.join(" "))
}

fn argument(value: &str) -> Option<String> {
    match value.contains(SPECIAL) {
        true => None,
        false => told::quoted(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::tests::{plain_image, plan, refused};

    #[test]
    fn address_environment_and_program_are_told_in_its_own_words() {
        let told = plan(
            &Osv,
            &plain_image(),
            r#""args": ["/web", "a b"], "env": ["A=1"]"#,
            r#""networks": [{"id": "n", "guest_address": "10.0.0.2/30", "gateway": "10.0.0.1"}]"#,
        );
        assert_eq!(
            told,
            r#"--nopci --ip=eth0,10.0.0.2,255.255.255.252 --defaultgw=10.0.0.1 --env=A=1 /web "a b""#
        );
    }

    #[test]
    fn what_it_cannot_be_told_is_refused() {
        let cases = [
            (r#""args": []"#, "", "guest.unikernel.args"),
            (r#""args": ["/x", "$HOME"]"#, "", "guest.unikernel.args[1]"),
            (r#""args": ["/x"], "env": ["A=a b"]"#, "", "guest.unikernel.env[0]"),
            (r#""args": ["/x"], "initrd": "i""#, "", "guest.unikernel.initrd"),
            (r#""args": ["/x"]"#, r#""memory": 8388608"#, "memory"),
        ];
        for (guest, spec, field) in cases {
            assert_eq!(refused(&Osv, &plain_image(), guest, spec), field);
        }
    }
}
