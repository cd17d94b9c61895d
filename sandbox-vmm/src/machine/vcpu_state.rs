//! What of a vCPU goes into a snapshot, and how a fresh vCPU takes its place.
//!
//! The order is KVM's: CPUID before everything that depends on it, the special registers (which hold the APIC base)
//! before the local APIC, the local APIC before the deadline of its timer, which is an MSR, and what tells whether the
//! vCPU runs last.

use kvm_bindings::{
    Xsave, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::clock::TimePassed;
use super::host::{KvmError, KvmHost};
use super::msr;
use super::vcpu::Vcpu;
use crate::snapshot::bytes::ByteString;
use crate::snapshot::section::{SectionKind, SectionState};

/// Size of the XSAVE area that every KVM has, in bytes; what extensions such as AMX add follows it.
const XSAVE_SIZE: usize = size_of::<kvm_xsave>();
/// `CR4.VMXE`, and `EFER.SVME`: the guest is a hypervisor itself.
const CR4_VMXE: u64 = 1 << 13;
const EFER_SVME: u64 = 1 << 12;

/// Errors of saving and restoring a vCPU.
#[derive(Debug, thiserror::Error)]
pub enum VcpuStateError {
    /// A KVM call failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The guest runs guests of its own, whose state is not saved.
    #[error("the guest uses the processor's virtualisation itself, which cannot be saved")]
    Nested,
    /// An MSR has no place here.
    #[error("this host refuses the value {value:#x} of MSR {index:#x}")]
    Msr {
        /// Its number.
        index: u32,
        /// The saved value.
        value: u64,
    },
    /// The extended state is larger than this host's.
    #[error("the saved extended state has {saved} bytes, and this host's processors have {here}")]
    XsaveTooLarge {
        /// Bytes in the snapshot.
        saved: usize,
        /// Bytes here.
        here: usize,
    },
    /// The list of CPUID leaves is longer than KVM takes.
    #[error("there are too many CPUID leaves")]
    TooManyLeaves,
    /// The guest's TSC runs at another rate than this host's, and KVM here cannot scale it.
    #[error(
        "the guest's time-stamp counter runs at {saved} kHz and this host's at {here}, and its KVM cannot scale it"
    )]
    TscRate {
        /// In the snapshot.
        saved: u32,
        /// Here.
        here: u32,
    },
}

/// A vCPU that stands still.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VcpuState {
    cpuid: Vec<kvm_cpuid_entry2>,
    /// 0 where KVM does not know.
    tsc_khz: u32,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xcrs: kvm_xcrs,
    xsave: ByteString,
    /// None without interrupt controllers in the kernel.
    lapic: Option<kvm_lapic_state>,
    msrs: Vec<kvm_msr_entry>,
    debug_regs: kvm_debugregs,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
}

impl SectionState for VcpuState {
    const KIND: SectionKind = SectionKind::Vcpu;
    const VERSION: u16 = 1;
}

impl VcpuState {
    /// Reads all of a vCPU that has settled.
    ///
    /// # Errors
    /// [`VcpuStateError`].
    pub fn save(host: &KvmHost, vcpu: &Vcpu, irqchip: bool) -> Result<Self, VcpuStateError> {
        let call = KvmError::call;
        let fd = &vcpu.fd;
        // First: reading it lets KVM take a start-up interrupt in that is pending.
        let mp_state = fd.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?;
        let regs = fd.get_regs().map_err(call("KVM_GET_REGS"))?;
        let sregs = fd.get_sregs().map_err(call("KVM_GET_SREGS"))?;
        if sregs.cr4 & CR4_VMXE != 0 || sregs.efer & EFER_SVME != 0 {
            return Err(VcpuStateError::Nested);
        }
        let lapic = match irqchip {
            true => Some(fd.get_lapic().map_err(call("KVM_GET_LAPIC"))?),
            false => None,
        };
        let mut msrs = msr::read(fd, host.saved_msrs(fd)?)?;
        msr::mend_deadline(&mut msrs);
        Ok(Self {
            cpuid: vcpu.cpuid.as_slice().to_vec(),
            tsc_khz: fd.get_tsc_khz().unwrap_or(0),
            regs,
            sregs,
            xcrs: fd.get_xcrs().map_err(call("KVM_GET_XCRS"))?,
            xsave: ByteString(save_xsave(host, fd)?),
            lapic,
            msrs,
            debug_regs: fd.get_debug_regs().map_err(call("KVM_GET_DEBUGREGS"))?,
            events: fd.get_vcpu_events().map_err(call("KVM_GET_VCPU_EVENTS"))?,
            mp_state,
        })
    }

    /// Puts the fresh vCPU `fd`, number `id`, in this place, `passed` later than it was saved.
    ///
    /// # Errors
    /// [`VcpuStateError`].
    pub fn restore(&self, host: &KvmHost, fd: VcpuFd, id: u32, passed: &TimePassed) -> Result<Vcpu, VcpuStateError> {
        let call = KvmError::call;
        let cpuid = kvm_bindings::CpuId::from_entries(&self.cpuid).map_err(|_| VcpuStateError::TooManyLeaves)?;
        fd.set_cpuid2(&cpuid).map_err(call("KVM_SET_CPUID2"))?;
        self.scale_tsc(host, &fd)?;
        fd.set_sregs(&self.sregs).map_err(call("KVM_SET_SREGS"))?;
        fd.set_xcrs(&self.xcrs).map_err(call("KVM_SET_XCRS"))?;
        restore_xsave(host, &fd, &self.xsave.0)?;
        fd.set_regs(&self.regs).map_err(call("KVM_SET_REGS"))?;
        if let Some(lapic) = &self.lapic {
            fd.set_lapic(lapic).map_err(call("KVM_SET_LAPIC"))?;
        }
        msr::write(&fd, &self.msrs, passed.tsc_ticks(self.tsc_khz))?;
        fd.set_vcpu_events(&self.events).map_err(call("KVM_SET_VCPU_EVENTS"))?;
        fd.set_debug_regs(&self.debug_regs).map_err(call("KVM_SET_DEBUGREGS"))?;
        fd.set_mp_state(self.mp_state).map_err(call("KVM_SET_MP_STATE"))?;
        // The guest's watchdogs are told that it was not running; a guest without kvmclock has nothing to be told.
        let _ = fd.kvmclock_ctrl();
        Ok(Vcpu { fd, id, cpuid })
    }

    /// The CPUID that the guest sees.
    pub fn cpuid(&self) -> &[kvm_cpuid_entry2] {
        &self.cpuid
    }

    /// Frequency of the guest's TSC in kHz; 0 where KVM did not know.
    pub fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }

    /// Gives the TSC its rate, where the host's own differs by more than guests put up with (250 ppm, what NTP corrects
    /// at most is 500).
    fn scale_tsc(&self, host: &KvmHost, fd: &VcpuFd) -> Result<(), VcpuStateError> {
        const TOLERANCE: u64 = 4000;
        let Ok(here) = fd.get_tsc_khz() else {
            return Ok(());
        };
        if self.tsc_khz == 0 || u64::from(here.abs_diff(self.tsc_khz)) * TOLERANCE <= u64::from(here) {
            return Ok(());
        }
        let scaled = host.scales_tsc() && fd.set_tsc_khz(self.tsc_khz).is_ok();
        match scaled {
            true => Ok(()),
            false => Err(VcpuStateError::TscRate {
                saved: self.tsc_khz,
                here,
            }),
        }
    }
}

/// Gives all vCPUs the TSC of the first: they were read one after the other, and their guest takes the counters to be the
/// same.
pub fn share_tsc(vcpus: &mut [VcpuState]) {
    let Some(tsc) = vcpus.first().and_then(|vcpu| msr::tsc(&vcpu.msrs)) else {
        return;
    };
    vcpus.iter_mut().for_each(|vcpu| msr::set_tsc(&mut vcpu.msrs, tsc));
}

/// The whole XSAVE area, however large this host's is.
fn save_xsave(host: &KvmHost, fd: &VcpuFd) -> Result<Vec<u8>, VcpuStateError> {
    let Some(size) = host.xsave_size() else {
        let xsave = fd.get_xsave().map_err(KvmError::call("KVM_GET_XSAVE"))?;
        return Ok(xsave.region.iter().flat_map(|word| word.to_ne_bytes()).collect());
    };
    let mut xsave = new_xsave(size)?;
    // SAFETY: the area was made as large as KVM says that its own is.
    unsafe { fd.get_xsave2(&mut xsave) }.map_err(KvmError::call("KVM_GET_XSAVE2"))?;
    let area = xsave.as_fam_struct_ref();
    let words = area.xsave.region.iter().chain(xsave.as_slice());
    Ok(words.flat_map(|word| word.to_ne_bytes()).collect())
}

fn restore_xsave(host: &KvmHost, fd: &VcpuFd, bytes: &[u8]) -> Result<(), VcpuStateError> {
    let size = host.xsave_size().unwrap_or(XSAVE_SIZE);
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if used > size {
        return Err(VcpuStateError::XsaveTooLarge {
            saved: used,
            here: size,
        });
    }
    let mut xsave = new_xsave(size)?;
    let words = bytes[..used.next_multiple_of(4).min(bytes.len())]
        .chunks(4)
        .map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_ne_bytes(word)
        });
    let mut words = words.fuse();
    // SAFETY: the length of the flexible array is not changed.
    let area = unsafe { xsave.as_mut_fam_struct() };
    for (place, word) in area.xsave.region.iter_mut().zip(&mut words) {
        *place = word;
    }
    for (place, word) in xsave.as_mut_slice().iter_mut().zip(&mut words) {
        *place = word;
    }
    // SAFETY: KVM reads as much as it says that its area has, and this one has at least as much.
    unsafe { fd.set_xsave2(&xsave) }.map_err(KvmError::call("KVM_SET_XSAVE"))?;
    Ok(())
}

/// An empty area of `size` bytes, at least that of every KVM.
fn new_xsave(size: usize) -> Result<Xsave, VcpuStateError> {
    let extra = size.saturating_sub(XSAVE_SIZE).div_ceil(4);
    Xsave::new(extra).map_err(|_| VcpuStateError::XsaveTooLarge {
        saved: size,
        here: XSAVE_SIZE,
    })
}
