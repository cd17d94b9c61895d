//! The host's KVM: opened once, asked once.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use kvm_bindings::{CpuId, KVM_CAP_XSAVE2, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_sregs};
use kvm_ioctls::{Cap, Kvm, VmFd};
use serde::{Deserialize, Serialize};

use super::msr;

/// The KVM API version that every kernel since 2.6.22 has.
const KVM_API_VERSION: i32 = 12;

/// Errors of the KVM interface.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no such device.
    #[error("there is no {path}; load the kvm_intel or kvm_amd module, or enable virtualisation in the firmware")]
    Missing {
        /// The device's path.
        path: String,
    },
    /// The device may not be opened.
    #[error("{path} may not be opened by this user; add the user to the group that owns it, usually kvm")]
    PermissionDenied {
        /// The device's path.
        path: String,
    },
    /// The device opened, but it is not KVM as we know it.
    #[error("{path} is no usable KVM: it has API version {version}, and 12 is needed")]
    WrongVersion {
        /// The device's path.
        path: String,
        /// What it answered.
        version: i32,
    },
    /// A system call on it failed.
    #[error("{call} failed")]
    Call {
        /// The call's name in the KVM API.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl KvmError {
    /// For `map_err` behind a kvm-ioctls call.
    pub fn call(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Call {
            call,
            source: error.into(),
        }
    }
}

/// What one process found out about the host's KVM, for another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KvmFacts {
    cpuid: Vec<kvm_cpuid_entry2>,
    has_tsc_deadline: bool,
    max_vcpus: usize,
    scales_tsc: bool,
    xsave_size: Option<usize>,
}

/// The host's KVM and the facts about it that never change.
pub struct KvmHost {
    kvm: Kvm,
    supported_cpuid: CpuId,
    has_tsc_deadline: bool,
    max_vcpus: usize,
    scales_tsc: bool,
    xsave_size: Option<usize>,
    saved_msrs: OnceLock<Vec<u32>>,
    reset_sregs: OnceLock<kvm_sregs>,
    tsc_khz: OnceLock<Option<u32>>,
    /// Made ahead of time for the next one who wants a VM.
    spare_vm: Mutex<Option<VmFd>>,
}

impl AsRawFd for KvmHost {
    fn as_raw_fd(&self) -> RawFd {
        self.kvm.as_raw_fd()
    }
}

impl KvmHost {
    /// Opens the KVM device at `path` (`/dev/kvm`) and asks it what it supports.
    ///
    /// # Errors
    /// [`KvmError`], each with its remedy.
    pub fn open(path: &Path) -> Result<Self, KvmError> {
        let name = path.display().to_string();
        let kvm = open_device(path, &name)?;
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION {
            return Err(KvmError::WrongVersion { path: name, version });
        }
        let supported_cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::call("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self {
            supported_cpuid,
            has_tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            max_vcpus: kvm.get_max_vcpus(),
            scales_tsc: kvm.check_extension(Cap::TscControl),
            xsave_size: usize::try_from(kvm.check_extension_raw(KVM_CAP_XSAVE2.into()))
                .ok()
                .filter(|size| *size > 0),
            saved_msrs: OnceLock::new(),
            kvm,
            reset_sregs: OnceLock::new(),
            tsc_khz: OnceLock::new(),
            spare_vm: Mutex::new(None),
        })
    }

    /// A KVM device that somebody else opened, with what they found out about it; `None` if that cannot be.
    pub fn from_parts(device: OwnedFd, facts: &KvmFacts) -> Option<Self> {
        Some(Self {
            supported_cpuid: CpuId::from_entries(&facts.cpuid).ok()?,
            // SAFETY: the descriptor is owned by the caller, who gives it away.
            kvm: unsafe { Kvm::from_raw_fd(device.into_raw_fd()) },
            has_tsc_deadline: facts.has_tsc_deadline,
            max_vcpus: facts.max_vcpus,
            scales_tsc: facts.scales_tsc,
            xsave_size: facts.xsave_size,
            saved_msrs: OnceLock::new(),
            reset_sregs: OnceLock::new(),
            tsc_khz: OnceLock::new(),
            spare_vm: Mutex::new(None),
        })
    }

    /// What was found out when the device was opened.
    pub fn facts(&self) -> KvmFacts {
        KvmFacts {
            cpuid: self.supported_cpuid.as_slice().to_vec(),
            has_tsc_deadline: self.has_tsc_deadline,
            max_vcpus: self.max_vcpus,
            scales_tsc: self.scales_tsc,
            xsave_size: self.xsave_size,
        }
    }

    /// Makes a VM ahead of time, for the next [`KvmHost::create_vm`].
    pub fn make_spare_vm(&self) -> Result<(), KvmError> {
        let vm = self.create_vm()?;
        *self.spare_vm.lock().unwrap_or_else(PoisonError::into_inner) = Some(vm);
        Ok(())
    }

    /// The CPUID that guests can be given.
    pub fn supported_cpuid(&self) -> &CpuId {
        &self.supported_cpuid
    }

    /// Whether the in-kernel local APIC has the TSC-deadline timer.
    pub fn has_tsc_deadline(&self) -> bool {
        self.has_tsc_deadline
    }

    /// How many vCPUs one VM can have.
    pub fn max_vcpus(&self) -> usize {
        self.max_vcpus
    }

    /// Whether a guest's TSC can run at another rate than the host's.
    pub fn scales_tsc(&self) -> bool {
        self.scales_tsc
    }

    /// Size of the XSAVE area in bytes, where KVM says it.
    pub fn xsave_size(&self) -> Option<usize> {
        self.xsave_size
    }

    /// The MSRs that belong to a snapshot of this host: found by trying them out on `vcpu` the first time.
    pub fn saved_msrs(&self, vcpu: &kvm_ioctls::VcpuFd) -> Result<&[u32], KvmError> {
        if let Some(msrs) = self.saved_msrs.get() {
            return Ok(msrs);
        }
        let listed = self
            .kvm
            .get_msr_index_list()
            .map_err(KvmError::call("KVM_GET_MSR_INDEX_LIST"))?;
        let readable = msr::readable(vcpu, listed.as_slice())?;
        Ok(self.saved_msrs.get_or_init(|| readable))
    }

    /// A new VM without anything in it.
    pub fn create_vm(&self) -> Result<VmFd, KvmError> {
        if let Some(vm) = self.spare_vm.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(vm);
        }
        loop {
            match self.kvm.create_vm() {
                Ok(vm) => return Ok(vm),
                // A signal that arrives while the kernel waits for a grace period; nothing was made.
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(KvmError::call("KVM_CREATE_VM")(error)),
            }
        }
    }

    /// The special registers of a boot processor after reset, which are the same for every VM of a host: read from
    /// `vcpu`, which must be fresh, the first time, and remembered.
    pub fn reset_sregs(&self, vcpu: &kvm_ioctls::VcpuFd) -> Result<kvm_sregs, KvmError> {
        if let Some(sregs) = self.reset_sregs.get() {
            return Ok(*sregs);
        }
        let sregs = vcpu.get_sregs().map_err(KvmError::call("KVM_GET_SREGS"))?;
        Ok(*self.reset_sregs.get_or_init(|| sregs))
    }

    /// The frequency of a new vCPU's time stamp counter in kHz, the same for every vCPU of a host: asked of `vcpu` the
    /// first time, and remembered. `None` where the host's counter has no steady frequency.
    pub fn tsc_khz(&self, vcpu: &kvm_ioctls::VcpuFd) -> Option<u32> {
        let ask = || vcpu.get_tsc_khz().ok().filter(|frequency| *frequency > 0);
        *self.tsc_khz.get_or_init(ask)
    }

    /// True when KVM answers although the processor has no virtualisation for it: guest code is then emulated, or run
    /// by a paravirtual scheme, and most kernels meet an instruction that the emulation lacks.
    pub fn is_software(&self) -> bool {
        !processor_has_virtualisation()
    }

    /// True on processors of Intel's kind, where KVM wants pages of guest memory for a TSS and an identity map.
    pub fn wants_tss() -> bool {
        std::arch::x86_64::__cpuid(0).ecx == u32::from_le_bytes(*b"ntel")
    }
}

fn open_device(path: &Path, name: &str) -> Result<Kvm, KvmError> {
    let c_path = std::ffi::CString::new(name).map_err(|_| KvmError::Missing { path: name.to_owned() })?;
    debug_assert_eq!(path.as_os_str().len(), name.len());
    Kvm::new_with_path(c_path).map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing { path: name.to_owned() },
        libc::EACCES | libc::EPERM => KvmError::PermissionDenied { path: name.to_owned() },
        _ => KvmError::Call {
            call: "open of the KVM device",
            source: error.into(),
        },
    })
}

/// VMX (CPUID.1:ECX bit 5) or SVM (CPUID.8000_0001h:ECX bit 2).
fn processor_has_virtualisation() -> bool {
    use std::arch::x86_64::__cpuid;
    let vmx = __cpuid(1).ecx & (1 << 5) != 0;
    let svm = __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & (1 << 2) != 0;
    vmx || svm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_told_with_its_remedy() {
        let error = KvmHost::open(Path::new("/nonexistent/kvm")).err().unwrap();
        assert!(matches!(error, KvmError::Missing { .. }));
        assert!(error.to_string().contains("kvm_intel"));
    }

    #[test]
    fn a_device_that_is_not_kvm_is_refused() {
        let error = KvmHost::open(Path::new("/dev/null")).err().unwrap();
        assert!(matches!(error, KvmError::WrongVersion { version: -1, .. }), "{error}");
    }
}
