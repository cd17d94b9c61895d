//! The model-specific registers of a snapshot.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::host::KvmError;
use super::vcpu_state::VcpuStateError;

/// `IA32_TIME_STAMP_COUNTER`.
const TSC: u32 = 0x10;
/// `IA32_TSC_DEADLINE`.
const TSC_DEADLINE: u32 = 0x6e0;
/// KVM's own MSRs, wherever in the range: some are in KVM's list and some only work (kernel documentation,
/// virt/kvm/x86/msr.rst).
const KVM_RANGE: std::ops::RangeInclusive<u32> = 0x4b56_4d00..=0x4b56_4dff;
/// Memory type range registers and the page attribute table, which not every KVM lists: pairs of base and mask, the
/// fixed ranges, the default type.
const MEMORY_TYPES: [std::ops::RangeInclusive<u32>; 6] = [
    0x200..=0x20f,
    0x250..=0x250,
    0x258..=0x259,
    0x268..=0x26f,
    0x277..=0x277,
    0x2ff..=0x2ff,
];
/// How many MSRs go into one call; KVM takes less than 256.
const CHUNK: usize = 128;
/// State of a machine check (`IA32_MCG_STATUS`).
const MCG_STATUS: u32 = 0x17a;

/// The MSRs that can be read of `fd`, out of KVM's list and those that belong to a snapshot beside it: the TSC first and
/// its deadline behind it, since that is compared with it when it is written.
pub fn readable(fd: &VcpuFd, listed: &[u32]) -> Result<Vec<u32>, KvmError> {
    let mut wanted = vec![TSC];
    let beside = MEMORY_TYPES.into_iter().flatten().chain([MCG_STATUS]).chain(KVM_RANGE);
    wanted.extend(listed.iter().copied().chain(beside).filter(|index| *index != TSC));
    wanted.push(TSC_DEADLINE);
    let mut seen = std::collections::HashSet::new();
    wanted.retain(|index| seen.insert(*index));
    let entries = read(fd, &wanted)?;
    Ok(entries.iter().map(|entry| entry.index).collect())
}

/// Reads these MSRs, but for those that the vCPU does not have.
pub fn read(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let mut found = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(CHUNK)];
        let entries: Vec<_> = chunk.iter().map(|index| entry(*index, 0)).collect();
        let mut list = list(&entries)?;
        // KVM stops at the first that it refuses, and says how many it read.
        let count = fd
            .get_msrs(&mut list)
            .map_err(KvmError::call("KVM_GET_MSRS"))?
            .min(chunk.len());
        found.extend_from_slice(&list.as_slice()[..count]);
        let refused = usize::from(count < chunk.len());
        rest = &rest[count + refused..];
    }
    Ok(found)
}

/// The TSC among these.
pub fn tsc(msrs: &[kvm_msr_entry]) -> Option<u64> {
    msrs.iter().find(|msr| msr.index == TSC).map(|msr| msr.data)
}

/// Replaces the TSC among these.
pub fn set_tsc(msrs: &mut [kvm_msr_entry], value: u64) {
    msrs.iter_mut()
        .filter(|msr| msr.index == TSC)
        .for_each(|msr| msr.data = value);
}

/// Replaces a deadline of 0, which may be that of a timer that went off just now and whose interrupt KVM has yet to
/// deliver and does not save: with one that is over, the interrupt comes at once. At worst the guest sees one more.
pub fn mend_deadline(msrs: &mut [kvm_msr_entry]) {
    let Some(tsc) = tsc(msrs) else {
        return;
    };
    let deadline = msrs.iter_mut().find(|msr| msr.index == TSC_DEADLINE);
    if let Some(deadline) = deadline.filter(|deadline| deadline.data == 0) {
        deadline.data = tsc;
    }
}

/// Writes these MSRs into a fresh vCPU, the TSC later by `tsc_ticks`. One that KVM refuses must have its value already.
pub fn write(fd: &VcpuFd, msrs: &[kvm_msr_entry], tsc_ticks: u64) -> Result<(), VcpuStateError> {
    let later = |msr: &kvm_msr_entry| match msr.index {
        TSC => entry(TSC, msr.data.wrapping_add(tsc_ticks)),
        index => entry(index, msr.data),
    };
    let entries: Vec<_> = msrs.iter().map(later).collect();
    let mut rest = &entries[..];
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(CHUNK)];
        let written = fd.set_msrs(&list(chunk)?).map_err(KvmError::call("KVM_SET_MSRS"))?;
        let count = written.min(chunk.len());
        rest = &rest[count..];
        if count < chunk.len() {
            let refused = chunk[count];
            let present = read(fd, &[refused.index])?;
            // One that does not exist here reads as 0 to a guest that is told so, or faults as it did.
            if present.first().map_or(0, |msr| msr.data) != refused.data {
                return Err(VcpuStateError::Msr {
                    index: refused.index,
                    value: refused.data,
                });
            }
            rest = &rest[1..];
        }
    }
    Ok(())
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries).map_err(|_| KvmError::Call {
        call: "KVM_SET_MSRS",
        source: std::io::Error::from_raw_os_error(libc::E2BIG),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_zero_becomes_one_that_is_over_and_others_stay() {
        let mut msrs = [entry(TSC, 1000), entry(TSC_DEADLINE, 0)];
        mend_deadline(&mut msrs);
        assert_eq!(msrs[1].data, 1000);
        let mut armed = [entry(TSC, 1000), entry(TSC_DEADLINE, 5000)];
        mend_deadline(&mut armed);
        assert_eq!(armed[1].data, 5000);
    }
}
