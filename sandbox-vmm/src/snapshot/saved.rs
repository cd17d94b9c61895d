//! A machine that stands still, without its memory.

use sandbox_core::spec::GuestSpec;
use sandbox_core::{Error, ErrorKind, Result, SandboxSpec};
use serde::{Deserialize, Serialize};

use super::section::{Identity, SectionError, SectionKind, SectionState, StateFile, StateWriter};
use crate::devices::legacy::PortMap;
use crate::devices::persist::{DEVICES_VERSION, DevicesState};
use crate::error::with_cause;
use crate::machine::vcpu_state::VcpuState;
use crate::machine::vm::Chipset;
use crate::machine::vm_state::VmState;
use crate::renewal::Channel;

/// What a machine was made by, as far as it cannot be read from the spec alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The spec.
    pub spec: SandboxSpec,
    /// Timers and interrupt controllers in the kernel.
    pub chipset: Chipset,
    /// Ports of the guest's family.
    pub ports: PortMap,
    /// How a clone learns that it is one.
    pub renewal: Channel,
    /// Whether it touches most of its memory, so that huge pages pay.
    pub dense_memory: bool,
}

impl Origin {
    /// The guest's family.
    pub fn family(&self) -> String {
        match &self.spec.guest {
            GuestSpec::Unikernel(guest) => format!("{:?}", guest.family).to_lowercase(),
            GuestSpec::Linux(_) => "linux".to_owned(),
            _ => "unknown".to_owned(),
        }
    }
}

/// A machine that stands still, without its memory.
#[derive(Clone, Debug)]
pub struct SavedMachine {
    /// What it was made by.
    pub origin: Origin,
    /// Whether its guest had said that it is ready.
    pub ready: bool,
    /// Chipset and clock.
    pub vm: VmState,
    /// The vCPUs by number.
    pub vcpus: Vec<VcpuState>,
    /// The devices.
    pub devices: DevicesState,
}

/// The section that [`Origin`] is written as.
#[derive(Debug, Serialize, Deserialize)]
struct OriginState {
    /// As JSON: the spec's own reader checks it.
    spec: String,
    chipset: Chipset,
    ports: PortMap,
    renewal: Channel,
    dense_memory: bool,
    ready: bool,
}

impl SectionState for OriginState {
    const KIND: SectionKind = SectionKind::Machine;
    const VERSION: u16 = 1;
}

impl SectionState for DevicesState {
    const KIND: SectionKind = SectionKind::Devices;
    const VERSION: u16 = DEVICES_VERSION as u16;
}

impl SavedMachine {
    /// Writes it as sections of the state file of snapshot `identity`.
    ///
    /// # Errors
    /// A structure that cannot be encoded.
    pub fn write(&self, identity: Identity) -> std::result::Result<StateWriter, SectionError> {
        let mut writer = StateWriter::new(identity);
        writer.add(&OriginState {
            spec: self.origin.spec.to_json(),
            chipset: self.origin.chipset,
            ports: self.origin.ports,
            renewal: self.origin.renewal,
            dense_memory: self.origin.dense_memory,
            ready: self.ready,
        })?;
        writer.add(&self.vm)?;
        for (index, vcpu) in (0..).zip(&self.vcpus) {
            writer.add_numbered(index, vcpu)?;
        }
        writer.add(&self.devices)?;
        Ok(writer)
    }

    /// Reads it from a state file.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] or [`ErrorKind::Incompatible`].
    pub fn read(state: &StateFile<'_>) -> Result<Self> {
        let origin: OriginState = state.get()?;
        let spec = SandboxSpec::from_json(origin.spec.as_bytes()).map_err(|error| {
            let context = "the snapshot's spec cannot be read";
            Error::new(ErrorKind::Corrupt, context).with_source(error)
        })?;
        let vcpus = (0..spec.vcpus).map(|index| state.get_numbered(index));
        Ok(Self {
            vcpus: vcpus.collect::<std::result::Result<_, _>>()?,
            origin: Origin {
                spec,
                chipset: origin.chipset,
                ports: origin.ports,
                renewal: origin.renewal,
                dense_memory: origin.dense_memory,
            },
            ready: origin.ready,
            vm: state.get()?,
            devices: state.get()?,
        })
    }
}

impl From<SectionError> for Error {
    fn from(error: SectionError) -> Self {
        let kind = match &error {
            SectionError::NewerFormat(_) | SectionError::Version { .. } => ErrorKind::Incompatible,
            _ => ErrorKind::Corrupt,
        };
        Error::new(kind, "the snapshot's state cannot be read").with_source(with_cause(kind, error))
    }
}
