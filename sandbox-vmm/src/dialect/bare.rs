//! Bare programs, such as the project's own guests: devices and addresses on the command line, an exit code by a
//! debug-exit port.

use sandbox_core::spec::{GuestSpec, NetworkSpec, SandboxSpec, UnikernelGuest};
use sandbox_core::{Error, Result};

use super::{BootPlan, Dialect, Discovery};
use crate::boot::MemoryMap;
use crate::devices::legacy::PortMap;
use crate::machine::vm::Chipset;
use crate::renewal::Channel;

/// One byte written here ends the guest with that exit code.
const DEBUG_EXIT_PORT: u16 = 0x501;

pub(super) struct Bare;

impl Dialect for Bare {
    fn plan<'a>(&self, spec: &'a SandboxSpec) -> Result<BootPlan<'a>> {
        let GuestSpec::Unikernel(guest) = &spec.guest else {
            return Err(Error::unsupported("guest", "the bare dialect runs unikernel guests"));
        };
        if !guest.env.is_empty() {
            let context = "bare programs have no environment; use args";
            return Err(Error::unsupported("guest.unikernel.env", context));
        }
        let initrd = guest.initrd.as_deref();
        Ok(BootPlan {
            kernel: (&guest.image, "guest.unikernel.image"),
            initrd: initrd.map(|path| (path, "guest.unikernel.initrd")),
            cmdline: cmdline(guest, &spec.networks)?,
            cmdline_field: match guest.cmdline {
                Some(_) => "guest.unikernel.cmdline",
                None => "guest.unikernel.args",
            },
            protocol: guest.protocol,
            discovery: Discovery::CommandLine,
            memory_map: MemoryMap::RamOnly,
            chipset: Chipset {
                irqchip: true,
                pit: false,
            },
            renewal: Channel::Record,
            ports: PortMap {
                debug_exit: Some(DEBUG_EXIT_PORT),
            },
            firmware_msrs: false,
            dense_memory: false,
        })
    }
}

/// `ip=` and `gw=` of the first network that has an address, then the arguments; or the raw line, to the letter.
fn cmdline(guest: &UnikernelGuest, networks: &[NetworkSpec]) -> Result<String> {
    if let Some(raw) = &guest.cmdline {
        super::refuse_addresses(networks)?;
        return Ok(raw.clone());
    }
    let mut words = Vec::new();
    for (index, network) in networks.iter().enumerate() {
        let Some(address) = &network.guest_address else {
            continue;
        };
        if !words.is_empty() {
            let field = format!("networks[{index}].guest_address");
            return Err(Error::unsupported(field, "bare programs can be told one address"));
        }
        words.push(format!("ip={address}"));
        words.extend(network.gateway.map(|gateway| format!("gw={gateway}")));
    }
    for (index, argument) in guest.args.iter().enumerate() {
        if argument.is_empty() || argument.contains(char::is_whitespace) {
            let field = format!("guest.unikernel.args[{index}]");
            return Err(Error::invalid(
                field,
                "is empty or has white space, which separates arguments here",
            ));
        }
        words.push(argument.clone());
    }
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> SandboxSpec {
        SandboxSpec::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn address_and_arguments_reach_the_command_line() {
        let spec = spec(
            r#"{"guest": {"unikernel": {"image": "i", "args": ["exit=3"]}},
                "networks": [{"id": "n", "guest_address": "10.0.0.2/30", "gateway": "10.0.0.1"}]}"#,
        );
        assert_eq!(Bare.plan(&spec).unwrap().cmdline, "ip=10.0.0.2/30 gw=10.0.0.1 exit=3");
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let two_words = spec(r#"{"guest": {"unikernel": {"image": "i", "args": ["a b"]}}}"#);
        assert_eq!(
            Bare.plan(&two_words).err().unwrap().field(),
            Some("guest.unikernel.args[0]")
        );
        let environment = spec(r#"{"guest": {"unikernel": {"image": "i", "env": ["A=b"]}}}"#);
        assert_eq!(
            Bare.plan(&environment).err().unwrap().field(),
            Some("guest.unikernel.env")
        );
    }
}
