//! What of a VM, beside its memory and its vCPUs, goes into a snapshot: interrupt controllers, timer, clock.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip, kvm_pit_state2,
};
use serde::{Deserialize, Serialize};

use super::clock::{RealTime, TimePassed};
use super::host::KvmError;
use super::vm::{Chipset, Vm};
use crate::snapshot::section::{SectionKind, SectionState};

/// The chips of a VM, by the numbers that KVM gives them.
const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

/// A VM that stands still.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmState {
    /// Both PICs and the IOAPIC, or nothing.
    chips: Vec<kvm_irqchip>,
    pit: Option<kvm_pit_state2>,
    /// kvmclock in nanoseconds.
    clock: u64,
    /// When all this was.
    saved_at: RealTime,
}

impl SectionState for VmState {
    const KIND: SectionKind = SectionKind::Vm;
    const VERSION: u16 = 1;
}

impl VmState {
    /// Real time since it was saved.
    pub fn time_passed(&self) -> TimePassed {
        self.saved_at.passed()
    }
}

impl Vm {
    /// Reads the chipset and the clock. To be called when the vCPUs have settled, and before theirs is read: their TSC
    /// is to be of the same moment.
    ///
    /// # Errors
    /// A KVM call that failed.
    pub fn save(&self, chipset: Chipset) -> Result<VmState, KvmError> {
        let clock = self.fd().get_clock().map_err(KvmError::call("KVM_GET_CLOCK"))?;
        let saved_at = RealTime::now();
        let mut chips = Vec::new();
        if chipset.irqchip {
            for chip_id in CHIPS {
                let mut chip = kvm_irqchip {
                    chip_id,
                    ..Default::default()
                };
                self.fd()
                    .get_irqchip(&mut chip)
                    .map_err(KvmError::call("KVM_GET_IRQCHIP"))?;
                chips.push(chip);
            }
        }
        let pit = match chipset.pit {
            true => Some(self.fd().get_pit2().map_err(KvmError::call("KVM_GET_PIT2"))?),
            false => None,
        };
        Ok(VmState {
            chips,
            pit,
            clock: clock.clock,
            saved_at,
        })
    }

    /// Puts the chipset of a fresh VM in this place. The clock comes last, by [`Vm::restore_clock`].
    ///
    /// # Errors
    /// A KVM call that failed.
    pub fn restore(&self, state: &VmState) -> Result<(), KvmError> {
        for chip in &state.chips {
            self.fd().set_irqchip(chip).map_err(KvmError::call("KVM_SET_IRQCHIP"))?;
        }
        if let Some(pit) = &state.pit {
            self.fd().set_pit2(pit).map_err(KvmError::call("KVM_SET_PIT2"))?;
        }
        Ok(())
    }

    /// Sets kvmclock to what it has become. Before the vCPUs run, and before their MSRs are written, by which KVM writes
    /// the wall clock of its guest anew.
    ///
    /// # Errors
    /// A KVM call that failed.
    pub fn restore_clock(&self, state: &VmState, passed: &TimePassed) -> Result<(), KvmError> {
        let clock = kvm_clock_data {
            clock: state.clock.saturating_add(passed.nanoseconds()),
            ..Default::default()
        };
        self.fd().set_clock(&clock).map_err(KvmError::call("KVM_SET_CLOCK"))
    }
}
