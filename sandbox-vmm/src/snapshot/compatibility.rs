//! Whether a saved machine can go on here.

use std::collections::BTreeMap;

use kvm_bindings::kvm_cpuid_entry2;
use sandbox_core::{Error, ErrorKind, Result};

use super::saved::SavedMachine;
use crate::machine::cpu_features;
use crate::machine::host::KvmHost;

/// Features that KVM gives guests whatever its list says, or that change while a guest runs.
const NOT_OF_THE_HOST: [&str; 6] = ["hypervisor", "tsc_deadline_timer", "ht", "ospke", "osxsave", "x2apic"];

/// What the manifest says of the guest's processor.
pub fn describe(saved: &SavedMachine) -> BTreeMap<String, String> {
    let cpuid = saved.vcpus.first().map_or(&[][..], |vcpu| vcpu.cpuid());
    let tsc = saved.vcpus.first().map_or(0, |vcpu| vcpu.tsc_khz());
    BTreeMap::from([
        ("vendor".to_owned(), vendor(cpuid)),
        (
            "signature".to_owned(),
            format!("{:#x}", leaf(cpuid, 1).map_or(0, |leaf| leaf.eax)),
        ),
        ("features".to_owned(), cpu_features::names(cpuid).join(" ")),
        ("tsc_khz".to_owned(), tsc.to_string()),
    ])
}

/// Refuses a guest that would meet another processor than it knows.
///
/// # Errors
/// [`ErrorKind::Incompatible`] with what is missing.
pub fn check(host: &KvmHost, saved: &SavedMachine) -> Result<()> {
    let incompatible = |context: String| Err(Error::new(ErrorKind::Incompatible, context));
    let here = host.supported_cpuid().as_slice();
    for vcpu in &saved.vcpus {
        let (theirs, ours) = (vendor(vcpu.cpuid()), vendor(here));
        if theirs != ours {
            return incompatible(format!(
                "the guest knows a processor of {theirs}, and this host's is of {ours}"
            ));
        }
        let mut missing = cpu_features::missing(vcpu.cpuid(), here);
        missing.retain(|name| !NOT_OF_THE_HOST.contains(name));
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return incompatible(format!(
                "the guest uses a processor with {missing}, which this host's has not"
            ));
        }
    }
    Ok(())
}

/// The vendor's name of CPUID leaf 0: EBX, EDX, ECX.
fn vendor(cpuid: &[kvm_cpuid_entry2]) -> String {
    let Some(leaf) = leaf(cpuid, 0) else {
        return "unknown".to_owned();
    };
    let bytes: Vec<u8> = [leaf.ebx, leaf.edx, leaf.ecx]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn leaf(cpuid: &[kvm_cpuid_entry2], function: u32) -> Option<&kvm_cpuid_entry2> {
    cpuid.iter().find(|entry| entry.function == function)
}
