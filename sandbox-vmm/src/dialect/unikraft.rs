//! Unikraft, as built for Firecracker: 64-bit Linux boot protocol, virtio-mmio devices and addresses on the command
//! line, the 8259 interrupt controllers and the 8254 timer.
//!
//! Its command line begins with a name for the program, has parameters of its libraries up to ` -- ` if there are any,
//! and the program's arguments behind it. It ends by pulsing the processor's reset line, whatever it ends for, and tells
//! no exit code; that is a power-off here.

use sandbox_core::spec::{SandboxSpec, UnikernelGuest};
use sandbox_core::{Error, Result};

use super::{BootPlan, Dialect, Discovery, told};
use crate::boot::MemoryMap;
use crate::boot::image::KernelImage;
use crate::devices::legacy::PortMap;
use crate::machine::vm::Chipset;
use crate::renewal::Channel;

const NAME: &str = "Unikraft";
/// What the program is called where it looks at its own name.
const PROGRAM: &str = "app";
/// Least memory that it was seen to work with, in bytes: a program that prints a line.
const LEAST_MEMORY: u64 = 2 << 20;
/// What stands between the parameters of its libraries and the program's arguments.
const STOP: &str = "--";
/// Most devices that it reads from the command line.
const MOST_DEVICES: usize = 4;

pub(super) struct Unikraft;

impl Dialect for Unikraft {
    fn plan<'a>(&self, spec: &'a SandboxSpec, image: &KernelImage) -> Result<BootPlan<'a>> {
        let guest = told::unikernel(spec)?;
        told::require_memory(spec, LEAST_MEMORY, NAME)?;
        told::refuse_processors(spec, NAME)?;
        refuse_devices(spec, image)?;
        let initrd = guest.initrd.as_deref();
        Ok(BootPlan {
            kernel: (&guest.image, "guest.unikernel.image"),
            initrd: initrd.map(|path| (path, "guest.unikernel.initrd")),
            cmdline: cmdline(guest, spec, image)?,
            cmdline_field: told::cmdline_field(guest),
            protocol: guest.protocol,
            discovery: Discovery::CommandLine,
            memory_map: MemoryMap::RamOnly,
            chipset: Chipset {
                irqchip: true,
                pit: true,
            },
            renewal: Channel::None,
            ports: PortMap {
                reset_is_power_off: true,
                ..PortMap::default()
            },
            firmware_msrs: false,
            dense_memory: false,
            timing_leaf: true,
            executes: image.origin.executes,
            hvt: false,
        })
    }
}

/// How many virtio devices the spec has.
fn devices(spec: &SandboxSpec) -> usize {
    let singles = [spec.vsock.is_some(), spec.rng, spec.balloon.is_some()];
    spec.disks.len() + spec.networks.len() + singles.into_iter().filter(|there| *there).count()
}

fn refuse_devices(spec: &SandboxSpec, image: &KernelImage) -> Result<()> {
    let count = devices(spec);
    if count > MOST_DEVICES {
        let context = format!("{NAME} takes {MOST_DEVICES} devices in all, and the spec has {count}");
        return Err(Error::unsupported("disks", context));
    }
    match count > 0 && is_deaf(image) {
        true => Err(deaf("networks")),
        false => Ok(()),
    }
}

/// Refuses an argument that would end parameters that there are none of: it would be lost, with all before it.
fn refuse_stop(guest: &UnikernelGuest) -> Result<()> {
    match guest.args.iter().position(|argument| argument == STOP) {
        None => Ok(()),
        Some(index) => {
            let context = format!("is {STOP}, which {NAME} takes for the end of its parameters where it is given none");
            Err(Error::invalid(format!("guest.unikernel.args[{index}]"), context))
        }
    }
}

/// Whether the image was built without its library for parameters; then all words are arguments of the program.
fn is_deaf(image: &KernelImage) -> bool {
    image.origin.maker.is_some() && !image.origin.reads_parameters
}

fn deaf(field: &'static str) -> Error {
    let context = "cannot be told to this image: it is built without the library uklibparam, which reads parameters \
                   from the command line; build it with CONFIG_LIBUKLIBPARAM";
    Error::unsupported(field, context)
}

fn cmdline(guest: &UnikernelGuest, spec: &SandboxSpec, image: &KernelImage) -> Result<String> {
    if let Some(raw) = &guest.cmdline {
        told::refuse_addresses(&spec.networks)?;
        return Ok(raw.clone());
    }
    let mut parameters = Vec::new();
    if let Some(address) = told::one_address(&spec.networks, NAME)? {
        let gateway = address.gateway.map(|gateway| format!(":{gateway}")).unwrap_or_default();
        parameters.push(format!("netdev.ip={}{gateway}", address.cidr));
    }
    if !guest.env.is_empty() {
        if is_deaf(image) {
            return Err(deaf("guest.unikernel.env"));
        }
        let variables = told::words(&guest.env, "guest.unikernel.env", told::QUOTED, told::quoted)?;
        parameters.push(format!("env.vars=[ {} ]", variables.join(" ")));
    }
    let arguments = told::words(&guest.args, "guest.unikernel.args", told::QUOTED, told::quoted)?;
    let has_parameters = !parameters.is_empty() || devices(spec) > 0;
    if !has_parameters && arguments.is_empty() {
        return Ok(String::new());
    }
    let mut words = vec![PROGRAM.to_owned()];
    words.append(&mut parameters);
    // Without it parameters would be arguments, those that name devices among them; without parameters it would be one.
    match has_parameters {
        true => words.push(STOP.to_owned()),
        false if !is_deaf(image) => refuse_stop(guest)?,
        false => {}
    }
    words.extend(arguments);
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::image::origin::{Maker, Origin};
    use crate::dialect::tests::{plain_image, plan, refused};

    fn image(reads_parameters: bool) -> KernelImage {
        KernelImage {
            origin: Origin {
                maker: Some((Maker::Unikraft, "test")),
                reads_parameters,
                ..Origin::default()
            },
            ..plain_image()
        }
    }

    #[test]
    fn address_environment_and_arguments_are_told_in_its_own_words() {
        let told = plan(
            &Unikraft,
            &image(true),
            r#""args": ["-c", "a b"], "env": ["A=1", "B=x y"]"#,
            r#""networks": [{"id": "n", "guest_address": "172.44.0.2/24", "gateway": "172.44.0.1"}]"#,
        );
        assert_eq!(
            told,
            r#"app netdev.ip=172.44.0.2/24:172.44.0.1 env.vars=[ A=1 "B=x y" ] -- -c "a b""#
        );
    }

    #[test]
    fn nobody_asked_for_nothing_and_nothing_is_told() {
        assert_eq!(plan(&Unikraft, &image(true), r#""args": []"#, ""), "");
        assert_eq!(
            plan(&Unikraft, &image(true), r#""args": []"#, r#""rng": true"#),
            "app --"
        );
        for reads_parameters in [true, false] {
            assert_eq!(
                plan(&Unikraft, &image(reads_parameters), r#""args": ["x"]"#, ""),
                "app x"
            );
        }
        assert_eq!(plan(&Unikraft, &image(false), r#""cmdline": "me x""#, ""), "me x");
    }

    #[test]
    fn what_it_cannot_be_told_is_refused() {
        let cases = [
            (true, r#""args": ["a\"b"]"#, "", "guest.unikernel.args[0]"),
            (true, r#""args": ["a", "--"]"#, "", "guest.unikernel.args[1]"),
            (false, r#""env": ["A=b"]"#, "", "guest.unikernel.env"),
            (false, r#""args": []"#, r#""networks": [{"id": "n"}]"#, "networks"),
            (true, r#""args": []"#, r#""vcpus": 2"#, "vcpus"),
            (true, r#""args": []"#, r#""memory": 1048576"#, "memory"),
        ];
        for (reads_parameters, guest, spec, field) in cases {
            assert_eq!(refused(&Unikraft, &image(reads_parameters), guest, spec), field);
        }
    }
}
