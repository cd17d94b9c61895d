//! Guest dialects: how each family of guests is fed. The machine knows no family; a dialect knows no KVM.

mod bare;
mod linux;

use std::path::Path;

use sandbox_core::spec::{BootProtocol, GuestSpec, NetworkSpec, SandboxSpec, UnikernelFamily};
use sandbox_core::{Error, Result};

use crate::boot::MemoryMap;
use crate::devices::legacy::PortMap;
use crate::machine::vm::Chipset;
use crate::renewal::Channel;

/// How a guest finds its virtio-mmio devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// ACPI tables.
    Acpi,
    /// `virtio_mmio.device=` on the command line.
    CommandLine,
}

/// What a family of guests wants of the machine.
pub struct BootPlan<'a> {
    /// The kernel file, and the spec's field that names it.
    pub kernel: (&'a Path, &'static str),
    /// Initial RAM disk, likewise.
    pub initrd: Option<(&'a Path, &'static str)>,
    /// The command line, without device tokens.
    pub cmdline: String,
    /// The spec's field that the command line comes from.
    pub cmdline_field: &'static str,
    /// How the kernel is entered.
    pub protocol: BootProtocol,
    /// How devices are found.
    pub discovery: Discovery,
    /// What the memory map tells.
    pub memory_map: MemoryMap,
    /// Timers and interrupt controllers.
    pub chipset: Chipset,
    /// How a clone learns that it is one.
    pub renewal: Channel,
    /// Ports beyond the common ones.
    pub ports: PortMap,
    /// Whether the boot vCPU starts with caching by MTRR on and fast string operations, as firmware leaves it.
    pub firmware_msrs: bool,
    /// Whether it touches most of its memory, so that huge pages pay.
    pub dense_memory: bool,
}

/// A family of guests.
pub trait Dialect: Sync {
    /// What this guest wants.
    ///
    /// # Errors
    /// A part of the spec that this family has no way to be told.
    fn plan<'a>(&self, spec: &'a SandboxSpec) -> Result<BootPlan<'a>>;
}

/// The dialect of a spec's guest.
///
/// # Errors
/// A guest that is no micro-VM, or a family without a dialect here.
pub fn select(spec: &SandboxSpec) -> Result<&'static dyn Dialect> {
    match &spec.guest {
        GuestSpec::Linux(_) => Ok(&linux::Linux),
        GuestSpec::Unikernel(unikernel) => match unikernel.family {
            // The one family there is; once there are more, the file tells.
            UnikernelFamily::Auto | UnikernelFamily::Bare => Ok(&bare::Bare),
            family => {
                let context = format!("the family {family:?} is not supported yet; accepted: auto, bare");
                Err(Error::unsupported("guest.unikernel.family", context))
            }
        },
        _ => Err(Error::unsupported(
            "guest",
            "this backend runs linux and unikernel guests",
        )),
    }
}

/// For families that cannot be told their address: refuses one, so that it does not quietly mean nothing.
fn refuse_addresses(networks: &[NetworkSpec]) -> Result<()> {
    for (index, network) in networks.iter().enumerate() {
        let named = [
            ("guest_address", network.guest_address.is_some()),
            ("gateway", network.gateway.is_some()),
        ];
        if let Some((field, _)) = named.into_iter().find(|(_, given)| *given) {
            let context = "this kind of guest cannot be told; configure the network inside";
            return Err(Error::unsupported(format!("networks[{index}].{field}"), context));
        }
    }
    Ok(())
}
