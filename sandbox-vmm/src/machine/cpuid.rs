//! The CPUID that a vCPU shows its guest: what KVM supports, with topology and identity put right and what the spec
//! hides taken out.

use std::borrow::Cow;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::cpu_features;

/// Leaf 0x40000000 of KVM and the timing leaf 0x40000010 that VMware defined and that FreeBSD, Unikraft and others read.
const HYPERVISOR_BASE: u32 = 0x4000_0000;
const HYPERVISOR_TIMING: u32 = 0x4000_0010;
/// Leaf 1 ECX: the TSC-deadline timer, which KVM offers by a capability and not by its list.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: there is a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: leaf 1 EBX bits 23-16 count the logical processors.
const HTT: u32 = 1 << 28;

/// Errors of making a CPUID.
#[derive(Debug, thiserror::Error)]
pub enum CpuidError {
    /// A feature to hide has a name that we do not know.
    #[error("{0:?} is no feature known by the names of /proc/cpuinfo")]
    UnknownFeature(String),
    /// The host's list is longer than KVM takes back.
    #[error("the CPUID has too many leaves")]
    TooManyLeaves,
}

/// What a guest's CPUID is made of, beside the host's.
#[derive(Clone, Debug, Default)]
pub struct CpuidConfig<'a> {
    /// Number of vCPUs, all in one package, one thread per core.
    pub vcpus: u32,
    /// Whether to offer the TSC-deadline timer.
    pub tsc_deadline: bool,
    /// Features to hide.
    pub mask: &'a [String],
}

/// A guest's CPUID, the same for all of its vCPUs but for their own numbers.
pub struct CpuidTemplate {
    entries: Vec<kvm_cpuid_entry2>,
}

impl CpuidTemplate {
    /// Makes it from what the host supports.
    ///
    /// # Errors
    /// A feature to hide that is not known by that name.
    pub fn new(supported: &CpuId, config: &CpuidConfig<'_>) -> Result<Self, CpuidError> {
        let mut entries = supported.as_slice().to_vec();
        // The topology leaves are written anew: the host's own would speak of the host's cores.
        entries.retain(|entry| !matches!(entry.function, 0xb | 0x1f));
        for entry in &mut entries {
            adapt(entry, config);
        }
        entries.extend(topology(config.vcpus));
        for name in config.mask {
            hide(&mut entries, name)?;
        }
        Ok(Self { entries })
    }

    /// The value of a register of leaf `function`, subleaf 0; 0 if there is no such leaf.
    pub fn feature_word(&self, function: u32, register: impl Fn(&kvm_cpuid_entry2) -> u32) -> u32 {
        let found = self
            .entries
            .iter()
            .find(|entry| (entry.function, entry.index) == (function, 0));
        found.map_or(0, register)
    }

    /// The CPUID of vCPU number `id`, which tells the frequency of its TSC in kHz if there is one given.
    ///
    /// # Errors
    /// More leaves than KVM takes.
    pub fn for_vcpu(&self, id: u32, tsc_khz: Option<u32>) -> Result<CpuId, CpuidError> {
        let mut entries = Cow::Borrowed(&self.entries);
        if let Some(tsc_khz) = tsc_khz {
            add_timing_leaf(entries.to_mut(), tsc_khz);
        }
        let mut cpuid = CpuId::from_entries(&entries).map_err(|_| CpuidError::TooManyLeaves)?;
        for entry in cpuid.as_mut_slice() {
            match entry.function {
                0x1 => entry.ebx = (entry.ebx & 0x00ff_ffff) | (id << 24),
                0xb | 0x1f => entry.edx = id,
                0x8000_001e => entry.eax = id,
                _ => {}
            }
        }
        Ok(cpuid)
    }
}

fn adapt(entry: &mut kvm_cpuid_entry2, config: &CpuidConfig<'_>) {
    let vcpus = config.vcpus;
    match entry.function {
        0x1 => {
            entry.ecx |= HYPERVISOR;
            if config.tsc_deadline {
                entry.ecx |= TSC_DEADLINE;
            }
            entry.ebx = (entry.ebx & 0x0000_ffff) | (vcpus << 16);
            entry.edx = if vcpus > 1 { entry.edx | HTT } else { entry.edx & !HTT };
        }
        // Deterministic cache parameters: cores in the package (31-26); caches below level 3 belong to one thread,
        // level 3 to all (25-14), both less one.
        0x4 => {
            let level = (entry.eax >> 5) & 0x7;
            let sharing = if level >= 3 { vcpus - 1 } else { 0 };
            if entry.eax & 0x1f != 0 {
                entry.eax = (entry.eax & 0x3fff) | (sharing << 14) | ((vcpus - 1) << 26);
            }
        }
        // Number of cores less one, and the width of the APIC identifier's core part.
        0x8000_0008 => entry.ecx = (entry.ecx & !0xf0ff) | (vcpus - 1) | (core_bits(vcpus) << 12),
        // AMD's cache topology, in the shape of leaf 4.
        0x8000_001d => {
            let level = (entry.eax >> 5) & 0x7;
            let sharing = if level >= 3 { vcpus - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharing << 14);
        }
        // One thread per core, one node.
        0x8000_001e => (entry.ebx, entry.ecx) = (0, 0),
        _ => {}
    }
}

/// Extended topology (leaf 0xb): one thread per core, all cores in one package.
fn topology(vcpus: u32) -> [kvm_cpuid_entry2; 2] {
    const THREAD: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    let level = |index: u32, shift: u32, processors: u32, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: processors,
        ecx: index | kind,
        ..Default::default()
    };
    [level(0, 0, 1, THREAD), level(1, core_bits(vcpus), vcpus, CORE)]
}

/// Bits that number `vcpus` cores.
fn core_bits(vcpus: u32) -> u32 {
    vcpus.next_power_of_two().trailing_zeros()
}

/// Leaf 0x40000010: EAX is the TSC frequency in kHz. The base leaf must name it as within the range.
fn add_timing_leaf(entries: &mut Vec<kvm_cpuid_entry2>, tsc_khz: u32) {
    entries.retain(|entry| entry.function != HYPERVISOR_TIMING);
    if let Some(base) = entries.iter_mut().find(|entry| entry.function == HYPERVISOR_BASE) {
        base.eax = base.eax.max(HYPERVISOR_TIMING);
        entries.push(kvm_cpuid_entry2 {
            function: HYPERVISOR_TIMING,
            eax: tsc_khz,
            ..Default::default()
        });
    }
}

fn hide(entries: &mut [kvm_cpuid_entry2], name: &str) -> Result<(), CpuidError> {
    let bits = cpu_features::find(name).ok_or_else(|| CpuidError::UnknownFeature(name.to_owned()))?;
    for bit in bits {
        let matching = |entry: &&mut kvm_cpuid_entry2| entry.function == bit.leaf && entry.index == bit.subleaf;
        for entry in entries.iter_mut().filter(matching) {
            let register = match bit.register {
                cpu_features::Register::Eax => &mut entry.eax,
                cpu_features::Register::Ebx => &mut entry.ebx,
                cpu_features::Register::Ecx => &mut entry.ecx,
                cpu_features::Register::Edx => &mut entry.edx,
            };
            *register &= !(1 << bit.bit);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> CpuId {
        let entry = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        CpuId::from_entries(&[
            entry(0x1, 0, 0x1234_0800, !TSC_DEADLINE, u32::MAX),
            entry(0x7, 0, u32::MAX, 0, 0),
            entry(0xb, 9, 9, 9, 9),
            entry(HYPERVISOR_BASE, 0x4000_0001, 1, 2, 3),
        ])
        .unwrap()
    }

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let found = cpuid
            .as_slice()
            .iter()
            .find(|entry| (entry.function, entry.index) == (function, index));
        *found.unwrap()
    }

    #[test]
    fn each_vcpu_has_its_number_and_all_have_the_count() {
        let config = CpuidConfig {
            vcpus: 6,
            tsc_deadline: true,
            ..Default::default()
        };
        let cpuid = CpuidTemplate::new(&supported(), &config)
            .unwrap()
            .for_vcpu(5, None)
            .unwrap();
        let first = leaf(&cpuid, 1, 0);
        assert_eq!((first.ebx >> 24, (first.ebx >> 16) & 0xff), (5, 6));
        assert_ne!(first.ecx & TSC_DEADLINE, 0);
        let cores = leaf(&cpuid, 0xb, 1);
        assert_eq!((cores.eax, cores.ebx, cores.edx), (3, 6, 5));
        assert_eq!(cpuid.as_slice().iter().filter(|entry| entry.function == 0xb).count(), 2);
    }

    #[test]
    fn the_timing_leaf_is_reachable_from_the_base_leaf() {
        let config = CpuidConfig {
            vcpus: 1,
            ..Default::default()
        };
        let template = CpuidTemplate::new(&supported(), &config).unwrap();
        let cpuid = template.for_vcpu(0, Some(2_000_000)).unwrap();
        assert_eq!(leaf(&cpuid, HYPERVISOR_BASE, 0).eax, HYPERVISOR_TIMING);
        assert_eq!(leaf(&cpuid, HYPERVISOR_TIMING, 0).eax, 2_000_000);
    }

    #[test]
    fn hidden_features_are_gone_and_unknown_names_are_errors() {
        let mask = ["avx2".to_owned()];
        let config = CpuidConfig {
            vcpus: 1,
            mask: &mask,
            ..Default::default()
        };
        let cpuid = CpuidTemplate::new(&supported(), &config)
            .unwrap()
            .for_vcpu(0, None)
            .unwrap();
        assert_eq!(leaf(&cpuid, 7, 0).ebx, !(1u32 << 5));
        let unknown = ["warp-drive".to_owned()];
        let config = CpuidConfig {
            mask: &unknown,
            ..config
        };
        assert!(matches!(
            CpuidTemplate::new(&supported(), &config),
            Err(CpuidError::UnknownFeature(_))
        ));
    }
}
