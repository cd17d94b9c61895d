//! What kind of KVM this machine has: whether tests that need a complete one
//! run here or in the emulated host.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};

/// Kinds of hosts, which differ in what the tests can do on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HostKind {
    /// `/dev/kvm` runs guests on the processor.
    Hardware,
    /// `/dev/kvm` interprets guests, and not every instruction.
    Software,
    /// The emulated KVM host.
    Emulated,
    /// `/dev/kvm` is missing or forbidden.
    Missing,
}

impl HostKind {
    /// The name of the kind's list of skips.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware-kvm",
            Self::Software => "software-kvm",
            Self::Emulated => "emulated-kvm",
            Self::Missing => "no-kvm",
        }
    }
}

/// Finds out the kind of this machine, and tells how.
pub(crate) fn probe() -> (HostKind, String) {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return (HostKind::Missing, format!("cannot open /dev/kvm: {error}")),
    };
    match run_probe(&kvm) {
        Ok(Answer::Executed) => (
            HostKind::Hardware,
            "a guest on /dev/kvm executed pxor and cmpxchg16b".to_owned(),
        ),
        Ok(Answer::Stopped(exit)) => (
            HostKind::Software,
            format!("a guest on /dev/kvm could not execute pxor and cmpxchg16b: {exit}"),
        ),
        Err(error) => (HostKind::Missing, format!("/dev/kvm cannot run a guest: {error}")),
    }
}

enum Answer {
    /// The guest came to its last instruction.
    Executed,
    /// The guest came to this exit before.
    Stopped(String),
}

#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE]);

const PAGE_SIZE: usize = 4096;
/// The guest's pages by number: three levels of page tables, code, data.
const PML4: usize = 1;
const PDPT: usize = 2;
const PAGE_DIRECTORY: usize = 3;
const CODE: usize = 4;
const PAGES: usize = 6;

const DONE_PORT: u16 = 0x80;
/// Instructions that every x86-64 Linux kernel executes while it boots and
/// that interpreters of guest code are known to lack.
const PROBE: &[u8] = &[
    0x66, 0x0f, 0xef, 0xc0, // pxor xmm0, xmm0
    0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x00, 0x50, 0x00, 0x00, // cmpxchg16b [0x5000]
    0xb0, 0x2a, // mov al, 42
    0xe6, 0x80, // out 0x80, al
];

fn run_probe(kvm: &Kvm) -> Result<Answer, kvm_ioctls::Error> {
    let memory = guest_memory();
    let vm = kvm.create_vm()?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: (PAGES * PAGE_SIZE) as u64,
        userspace_addr: memory.as_ptr() as u64,
    };
    // SAFETY: `memory` is page-aligned, as large as the region says, not used
    // otherwise while the guest runs, and dropped after the virtual machine.
    unsafe { vm.set_user_memory_region(region)? };
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    enter_long_mode(&vcpu)?;
    Ok(match vcpu.run()? {
        VcpuExit::IoOut(DONE_PORT, [42]) => Answer::Executed,
        VcpuExit::InternalError => Answer::Stopped("instruction emulation failed".to_owned()),
        exit => Answer::Stopped(format!("{exit:?}")),
    })
}

/// Memory with the probe's code and an identity map of the first 2 MiB.
fn guest_memory() -> Vec<Page> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let mut memory = vec![Page([0; PAGE_SIZE]); PAGES];
    let table = |page: usize| (page * PAGE_SIZE) as u64 | PRESENT_WRITABLE;
    memory[PML4].0[..8].copy_from_slice(&table(PDPT).to_le_bytes());
    memory[PDPT].0[..8].copy_from_slice(&table(PAGE_DIRECTORY).to_le_bytes());
    memory[PAGE_DIRECTORY].0[..8].copy_from_slice(&(PRESENT_WRITABLE | LARGE).to_le_bytes());
    memory[CODE].0[..PROBE.len()].copy_from_slice(PROBE);
    memory
}

/// Puts the processor into 64-bit mode at the probe's code, with SSE enabled.
fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    const CR0_PE_MP_ET_NE_PG: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 31;
    const CR4_PAE_OSFXSR_OSXMMEXCPT: u64 = 1 << 5 | 1 << 9 | 1 << 10;
    const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
    const RFLAGS_RESERVED: u64 = 1 << 1;
    let code = kvm_segment {
        limit: u32::MAX,
        selector: 0x8,
        type_: 0b1011,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment {
        selector: 0x10,
        type_: 0b0011,
        l: 0,
        db: 1,
        ..code
    };
    let mut system = vcpu.get_sregs()?;
    system.cs = code;
    for segment in [
        &mut system.ds,
        &mut system.es,
        &mut system.fs,
        &mut system.gs,
        &mut system.ss,
    ] {
        *segment = data;
    }
    system.cr0 = CR0_PE_MP_ET_NE_PG;
    system.cr3 = (PML4 * PAGE_SIZE) as u64;
    system.cr4 = CR4_PAE_OSFXSR_OSXMMEXCPT;
    system.efer = EFER_LME_LMA;
    vcpu.set_sregs(&system)?;
    let mut registers = vcpu.get_regs()?;
    registers.rip = (CODE * PAGE_SIZE) as u64;
    registers.rflags = RFLAGS_RESERVED;
    vcpu.set_regs(&registers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_tells_a_kind_and_its_reason() {
        let (kind, reason) = probe();
        assert_eq!(kind == HostKind::Missing, Kvm::new().is_err(), "{kind:?}: {reason}");
        assert!(reason.contains("/dev/kvm"));
    }
}
