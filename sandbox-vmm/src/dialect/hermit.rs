//! Hermit: its loader is the kernel, and the application with Hermit's own kernel in it is the initial RAM disk. Devices
//! and addresses stand on the command line, the application's arguments behind `--`.
//!
//! The loader takes every entry of the memory map for memory, so there is RAM in it alone; and of that the kernel then
//! takes all from 2 MiB up, the loader's page tables and the stack that it runs on with it, which are overwritten by the
//! first frames that the guest receives. So the loader's place is left out. The end is told on the port of QEMU's
//! debug-exit device, as success or failure.

use sandbox_core::spec::{SandboxSpec, UnikernelGuest};
use sandbox_core::{Error, Result};

use super::{BootPlan, Dialect, Discovery, told};
use crate::boot::MemoryMap;
use crate::boot::image::KernelImage;
use crate::boot::image::origin::Executes;
use crate::devices::legacy::{ExitPort, PortMap};
use crate::machine::vm::Chipset;
use crate::renewal::Channel;

const NAME: &str = "Hermit";
/// Least memory that it was seen to work with, in bytes.
const LEAST_MEMORY: u64 = 10 << 20;
/// QEMU's debug-exit device, as Hermit expects it.
const EXIT_PORT: u16 = 0xf4;
/// What Hermit writes there when the application returned 0.
const SUCCESS: u32 = 1;
/// Where the memory begins that its kernel takes.
const TAKEN_START: u64 = 2 << 20;
/// What the loader uses behind its own end: a page, and a stack of 32 KiB; and as much again, should that grow.
const STACK: u64 = 64 << 10;
const PAGE: u64 = 4096;

pub(super) struct Hermit;

impl Dialect for Hermit {
    fn plan<'a>(&self, spec: &'a SandboxSpec, image: &KernelImage) -> Result<BootPlan<'a>> {
        let guest = told::unikernel(spec)?;
        told::require_memory(spec, LEAST_MEMORY, NAME)?;
        told::refuse_processors(spec, NAME)?;
        let Some(initrd) = &guest.initrd else {
            let context = "is left out, and Hermit's loader starts the application that is given there";
            return Err(Error::invalid("guest.unikernel.initrd", context));
        };
        Ok(BootPlan {
            kernel: (&guest.image, "guest.unikernel.image"),
            initrd: Some((initrd, "guest.unikernel.initrd")),
            cmdline: cmdline(guest, spec)?,
            cmdline_field: told::cmdline_field(guest),
            protocol: guest.protocol,
            discovery: Discovery::CommandLine,
            memory_map: beside_loader(image),
            chipset: Chipset {
                irqchip: true,
                pit: false,
            },
            renewal: Channel::None,
            ports: PortMap {
                exit: Some(ExitPort::DebugExit {
                    port: EXIT_PORT,
                    success: SUCCESS,
                }),
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

/// RAM beside the loader of `image`, as far as the kernel would take its place.
fn beside_loader(image: &KernelImage) -> MemoryMap {
    match image.end <= TAKEN_START {
        true => MemoryMap::RamOnly,
        false => MemoryMap::RamBeside {
            // A page earlier, since the kernel panics at an entry that ends where the memory begins that it takes.
            start: TAKEN_START - PAGE,
            end: image.end.next_multiple_of(PAGE) + STACK,
        },
    }
}

fn cmdline(guest: &UnikernelGuest, spec: &SandboxSpec) -> Result<String> {
    if let Some(raw) = &guest.cmdline {
        told::refuse_addresses(&spec.networks)?;
        return Ok(raw.clone());
    }
    let mut words = Vec::new();
    if let Some(address) = told::one_address(&spec.networks, NAME)? {
        words.push(format!(
            "-ip {} -mask {}",
            address.cidr.address(),
            address.cidr.netmask()
        ));
        words.extend(address.gateway.map(|gateway| format!("-gateway {gateway}")));
    }
    let variables = told::words(&guest.env, "guest.unikernel.env", told::QUOTED, told::quoted)?;
    words.extend(variables.iter().map(|variable| format!("env={variable}")));
    let arguments = told::words(&guest.args, "guest.unikernel.args", told::QUOTED, told::quoted)?;
    if !arguments.is_empty() {
        words.push("--".to_owned());
        words.extend(arguments);
    }
    // The loader looks for the line's end in as many bytes as it is told to be there, and an empty line has none.
    Ok(match words.is_empty() {
        true => " ".to_owned(),
        false => words.join(" "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::tests::{plain_image, plan, refused};

    #[test]
    fn address_environment_and_arguments_are_told_in_its_own_words() {
        let told = plan(
            &Hermit,
            &plain_image(),
            r#""initrd": "a", "args": ["-v", "a b"], "env": ["A=x y"]"#,
            r#""networks": [{"id": "n", "guest_address": "10.0.0.2/30", "gateway": "10.0.0.1"}]"#,
        );
        assert_eq!(
            told,
            r#"-ip 10.0.0.2 -mask 255.255.255.252 -gateway 10.0.0.1 env="A=x y" -- -v "a b""#
        );
    }

    #[test]
    fn there_is_always_a_line_for_the_loader_to_find() {
        assert_eq!(plan(&Hermit, &plain_image(), r#""initrd": "a""#, ""), " ");
    }

    #[test]
    fn the_loader_is_left_out_of_the_memory_that_the_kernel_takes() {
        let ending_at = |end| beside_loader(&KernelImage { end, ..plain_image() });
        let (start, end) = (0x1f_f000, 0x23_1000);
        assert_eq!(ending_at(0x22_0020), MemoryMap::RamBeside { start, end });
        // The kernel leaves all below 2 MiB alone.
        assert_eq!(ending_at(0x12_0020), MemoryMap::RamOnly);
    }

    #[test]
    fn what_it_cannot_do_without_and_cannot_be_told_is_refused() {
        let cases = [
            (r#""args": []"#, "", "guest.unikernel.initrd"),
            (r#""initrd": "a", "args": ["a\\b"]"#, "", "guest.unikernel.args[0]"),
            (r#""initrd": "a""#, r#""vcpus": 2"#, "vcpus"),
            (r#""initrd": "a""#, r#""memory": 4194304"#, "memory"),
        ];
        for (guest, spec, field) in cases {
            assert_eq!(refused(&Hermit, &plain_image(), guest, spec), field);
        }
    }
}
