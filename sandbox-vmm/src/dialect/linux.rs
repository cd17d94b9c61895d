//! Linux: devices by ACPI, which stock distribution kernels need (they are built without `virtio_mmio.device=`); the
//! command line is the user's own, to the letter.

use sandbox_core::spec::{GuestSpec, SandboxSpec};
use sandbox_core::{Error, Result};

use super::told::refuse_addresses;
use super::{BootPlan, Dialect, Discovery};
use crate::boot::MemoryMap;
use crate::boot::image::KernelImage;
use crate::boot::image::origin::Executes;
use crate::devices::legacy::PortMap;
use crate::machine::vm::Chipset;
use crate::renewal::Channel;

pub(super) struct Linux;

impl Dialect for Linux {
    fn plan<'a>(&self, spec: &'a SandboxSpec, _image: &KernelImage) -> Result<BootPlan<'a>> {
        let GuestSpec::Linux(guest) = &spec.guest else {
            return Err(Error::unsupported("guest", "the Linux dialect runs linux guests"));
        };
        refuse_addresses(&spec.networks)?;
        let initrd = guest.initrd.as_deref();
        Ok(BootPlan {
            kernel: (&guest.kernel, "guest.linux.kernel"),
            initrd: initrd.map(|path| (path, "guest.linux.initrd")),
            cmdline: guest.cmdline.clone(),
            cmdline_field: "guest.linux.cmdline",
            protocol: guest.protocol,
            discovery: Discovery::Acpi,
            memory_map: MemoryMap::RamAndReserved,
            chipset: Chipset {
                irqchip: true,
                pit: false,
            },
            renewal: Channel::GenerationId,
            ports: PortMap::default(),
            firmware_msrs: true,
            dense_memory: true,
            timing_leaf: false,
            executes: Executes::default(),
            hvt: false,
        })
    }
}
