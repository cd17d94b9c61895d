//! Bare programs, such as the project's own guests: devices and addresses on the command line, an exit code by a
//! debug-exit port.

use sandbox_core::spec::{NetworkSpec, SandboxSpec, UnikernelGuest};
use sandbox_core::{Error, Result};

use super::{BootPlan, Dialect, Discovery, told};
use crate::boot::MemoryMap;
use crate::boot::image::KernelImage;
use crate::boot::image::origin::Executes;
use crate::devices::legacy::{ExitPort, PortMap};
use crate::machine::vm::Chipset;
use crate::renewal::Channel;

/// One byte written here ends the guest with that exit code.
const DEBUG_EXIT_PORT: u16 = 0x501;

pub(super) struct Bare;

impl Dialect for Bare {
    fn plan<'a>(&self, spec: &'a SandboxSpec, _image: &KernelImage) -> Result<BootPlan<'a>> {
        let guest = told::unikernel(spec)?;
        if !guest.env.is_empty() {
            let context = "bare programs have no environment; use args";
            return Err(Error::unsupported("guest.unikernel.env", context));
        }
        let initrd = guest.initrd.as_deref();
        Ok(BootPlan {
            kernel: (&guest.image, "guest.unikernel.image"),
            initrd: initrd.map(|path| (path, "guest.unikernel.initrd")),
            cmdline: cmdline(guest, &spec.networks)?,
            cmdline_field: told::cmdline_field(guest),
            protocol: guest.protocol,
            discovery: Discovery::CommandLine,
            memory_map: MemoryMap::RamOnly,
            chipset: Chipset {
                irqchip: true,
                pit: false,
            },
            renewal: Channel::Record,
            ports: PortMap {
                exit: Some(ExitPort::Byte(DEBUG_EXIT_PORT)),
                ..PortMap::default()
            },
            firmware_msrs: false,
            dense_memory: false,
            timing_leaf: false,
            executes: Executes::default(),
            hvt: false,
        })
    }
}

/// `ip=` and `gw=` of the first network, then the arguments; or the raw line, to the letter.
fn cmdline(guest: &UnikernelGuest, networks: &[NetworkSpec]) -> Result<String> {
    if let Some(raw) = &guest.cmdline {
        told::refuse_addresses(networks)?;
        return Ok(raw.clone());
    }
    let mut words = Vec::new();
    if let Some(address) = told::one_address(networks, "a bare program")? {
        words.push(format!("ip={}", address.cidr));
        words.extend(address.gateway.map(|gateway| format!("gw={gateway}")));
    }
    let field = "guest.unikernel.args";
    words.extend(told::words(&guest.args, field, told::UNQUOTED, told::unquoted)?);
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::tests::plain_image;

    fn spec(json: &str) -> SandboxSpec {
        SandboxSpec::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn address_and_arguments_reach_the_command_line() {
        let spec = spec(
            r#"{"guest": {"unikernel": {"image": "i", "args": ["exit=3"]}},
                "networks": [{"id": "n", "guest_address": "10.0.0.2/30", "gateway": "10.0.0.1"}]}"#,
        );
        assert_eq!(
            Bare.plan(&spec, &plain_image()).unwrap().cmdline,
            "ip=10.0.0.2/30 gw=10.0.0.1 exit=3"
        );
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let two_words = spec(r#"{"guest": {"unikernel": {"image": "i", "args": ["a b"]}}}"#);
        assert_eq!(
            Bare.plan(&two_words, &plain_image()).err().unwrap().field(),
            Some("guest.unikernel.args[0]")
        );
        let environment = spec(r#"{"guest": {"unikernel": {"image": "i", "env": ["A=b"]}}}"#);
        assert_eq!(
            Bare.plan(&environment, &plain_image()).err().unwrap().field(),
            Some("guest.unikernel.env")
        );
    }
}
