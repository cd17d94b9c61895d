//! Guest dialects: how each family of guests is fed. The machine knows no family; a dialect knows no KVM.

mod bare;
mod family;
mod hermit;
mod linux;
mod nanos;
mod osv;
mod solo5;
mod told;
mod unikraft;

use std::path::Path;

use sandbox_core::spec::{BootProtocol, GuestSpec, SandboxSpec};
use sandbox_core::{Error, Result};

use crate::boot::MemoryMap;
use crate::boot::image::KernelImage;
use crate::boot::image::origin::Executes;
use crate::devices::legacy::PortMap;
use crate::machine::vm::Chipset;
use crate::renewal::Channel;

pub use family::{Identification, identify};

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
    /// Ports beyond the common ones, and what the common ones mean.
    pub ports: PortMap,
    /// Whether the boot vCPU starts with caching by MTRR on and fast string operations, as firmware leaves it.
    pub firmware_msrs: bool,
    /// Whether it touches most of its memory, so that huge pages pay.
    pub dense_memory: bool,
    /// Whether CPUID tells the frequency of the TSC, in the hypervisor's timing leaf: guests without kvmclock take a
    /// tenth of a second to measure it otherwise.
    pub timing_leaf: bool,
    /// Instructions without which the guest ends at once.
    pub executes: Executes,
    /// Whether it is a guest of Solo5's hvt interface, for which the machine is another one: no interrupts, no devices,
    /// hypercalls.
    pub hvt: bool,
}

/// A family of guests.
pub trait Dialect: Sync {
    /// What this guest wants, whose kernel file is `image`.
    ///
    /// # Errors
    /// A part of the spec that this family has no way to be told, or cannot do without.
    fn plan<'a>(&self, spec: &'a SandboxSpec, image: &KernelImage) -> Result<BootPlan<'a>>;
}

/// The kernel file of a spec's guest, and the spec's field that names it.
///
/// # Errors
/// A guest that is no micro-VM.
pub fn kernel_file(spec: &SandboxSpec) -> Result<(&Path, &'static str)> {
    match &spec.guest {
        GuestSpec::Linux(linux) => Ok((&linux.kernel, "guest.linux.kernel")),
        GuestSpec::Unikernel(unikernel) => Ok((&unikernel.image, "guest.unikernel.image")),
        _ => Err(no_micro_vm()),
    }
}

/// The dialect of a spec's guest, whose kernel file is `image`.
///
/// # Errors
/// A guest that is no micro-VM, or a file that is not of the family that the spec says.
pub fn select(spec: &SandboxSpec, image: &KernelImage) -> Result<&'static dyn Dialect> {
    match &spec.guest {
        GuestSpec::Linux(_) => Ok(&linux::Linux),
        GuestSpec::Unikernel(unikernel) => family::dialect(unikernel, image),
        _ => Err(no_micro_vm()),
    }
}

fn no_micro_vm() -> Error {
    Error::unsupported("guest", "this backend runs linux and unikernel guests")
}

/// Specs and images for the dialects' tests.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::image::Source;
    use crate::boot::test_support::ElfBuilder;

    /// A kernel file that says nothing of its family.
    pub(super) fn plain_image() -> KernelImage {
        let file = ElfBuilder::new(0x10_0000).segment(0x10_0000, b"code", 4).build();
        KernelImage::parse(Source::Bytes(&file)).unwrap()
    }

    /// A spec of a unikernel with these fields in the guest and beside it.
    fn spec(guest: &str, rest: &str) -> SandboxSpec {
        let comma = if rest.is_empty() { "" } else { ", " };
        let json = format!(r#"{{"guest": {{"unikernel": {{"image": "i", {guest}}}}}{comma}{rest}}}"#);
        SandboxSpec::from_json(json.as_bytes()).unwrap()
    }

    /// The command line that `dialect` makes.
    pub(super) fn plan(dialect: &dyn Dialect, image: &KernelImage, guest: &str, rest: &str) -> String {
        dialect.plan(&spec(guest, rest), image).unwrap().cmdline
    }

    /// The field that `dialect` refuses.
    pub(super) fn refused(dialect: &dyn Dialect, image: &KernelImage, guest: &str, rest: &str) -> String {
        let spec = spec(guest, rest);
        let error = dialect.plan(&spec, image).err().unwrap();
        error.field().unwrap().to_owned()
    }
}
