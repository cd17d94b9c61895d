//! A machine for Solo5's hvt interface: memory, one vCPU, hypercalls.

use std::sync::Arc;
use std::time::Duration;

use sandbox_core::spec::SandboxSpec;
use sandbox_core::{ErrorKind, Phase, Result};

use super::opened::OpenDevices;
use super::{
    Draft, Library, Opened, Parts, disk, kernel_placement, network, new_machine, origin, set_entry, shell_kind,
    tell_vcpus,
};
use crate::boot::hvt::{self, Properties};
use crate::boot::image::solo5::{DeviceKind, Solo5Image};
use crate::boot::load;
use crate::devices::hvt::{BLOCK_SIZE, Device, Hypercalls};
use crate::error::{boot_error, with_cause};
use crate::machine::host::KvmHost;
use crate::machine::shell::Shell;
use crate::sandbox::life::Assembly;
use crate::sandbox::{Counters, Outlets};

/// Makes everything that `spec` describes.
pub(super) fn assemble(
    host: &KvmHost,
    library: &Library,
    (spec, draft): (&SandboxSpec, &Draft<'_>),
    opened: Opened,
    outlets: &Outlets,
) -> Result<Parts> {
    let recorder = &outlets.recorder;
    let image = opened.kernel.image();
    let bound = match &image.solo5 {
        Some(solo5) => bind(spec, solo5, opened.devices)?,
        None => Bound::default(),
    };
    recorder.record(Phase::SpecChecked);

    let kind = shell_kind(spec, draft.plan.chipset, draft.plan.dense_memory);
    let Shell { vm, vcpus } = library.shells.take(host, &kind, recorder)?;
    let memory = vm.memory().clone();
    let failed = |error| boot_error(error, &super::fields(&draft.plan));
    load::load_with(&opened.kernel, &memory, kernel_placement(kind.huge_pages)).map_err(failed)?;
    let entry = hvt::prepare(&memory, image, &draft.cmdline, &bound.properties).map_err(failed)?;
    recorder.record(Phase::KernelLoaded);
    let mut machine = new_machine(host, vm, (draft.plan.ports, draft.plan.renewal), outlets);
    machine.hvt = Some(Hypercalls::new(
        memory.clone(),
        Arc::clone(&outlets.console),
        bound.devices,
    ));
    recorder.record(Phase::DevicesReady);
    let vcpus = tell_vcpus(host, vcpus, draft)?;
    let tsc_hertz = host.tsc_khz(&vcpus[0].fd).map_or(0, |khz| u64::from(khz) * 1000);
    hvt::write_tsc_frequency(&memory, tsc_hertz).map_err(failed)?;
    set_entry(host, &vcpus[0], &entry)?;
    recorder.record(Phase::VcpusReady);
    Ok(Parts {
        assembly: Assembly {
            machine,
            vcpus,
            deadline: spec.limits.deadline_ms.map(Duration::from_millis),
            origin: origin(spec, &draft.plan),
            revived: None,
        },
        counters: bound.counters,
    })
}

/// The devices of a manifest, each before what was opened for it.
#[derive(Default)]
struct Bound {
    /// By handle.
    devices: Vec<Option<Device>>,
    properties: Vec<(usize, Properties)>,
    counters: Counters,
}

impl Bound {
    fn add(&mut self, handle: usize, device: Device) {
        let properties = match &device {
            Device::Block(disk) => Properties::Block {
                capacity: disk.capacity(),
                block_size: BLOCK_SIZE as u16,
            },
            Device::Net(card) => Properties::Net {
                mac: card.mac(),
                mtu: card.mtu(),
            },
        };
        if self.devices.len() <= handle {
            self.devices.resize_with(handle + 1, || None);
        }
        self.devices[handle] = Some(device);
        self.properties.push((handle, properties));
    }
}

/// Names are unique, and were compared with the manifest.
fn bind(spec: &SandboxSpec, image: &Solo5Image, opened: OpenDevices) -> Result<Bound> {
    let handle = |kind, name: &str| {
        let device = image
            .devices
            .iter()
            .find(|device| device.kind == kind && device.name == name);
        device.map_or(0, |device| device.handle)
    };
    let mut bound = Bound::default();
    for (index, (disk, file)) in spec.disks.iter().zip(opened.disks).enumerate() {
        let device = disk::hvt_device(disk, file, &format!("disks[{index}]"))?;
        bound.counters.disks.push(device.counters());
        bound.add(handle(DeviceKind::Block, &disk.id), Device::Block(device));
    }
    for (index, (card, opened)) in spec.networks.iter().zip(opened.networks).enumerate() {
        let device = network::hvt_device(card, opened)
            .map_err(|error| with_cause(ErrorKind::HostFailure, error).with_field(format!("networks[{index}]")))?;
        bound.counters.networks.push(device.counters());
        bound.add(handle(DeviceKind::Net, &card.id), Device::Net(device));
    }
    Ok(bound)
}
