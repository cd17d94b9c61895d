//! Finding out whether the host's KVM is complete, by running the instructions that software KVMs were seen to lack.

use kvm_ioctls::VcpuExit;
use vm_memory::{Bytes, GuestAddress};

use super::host::{KvmError, KvmHost};
use super::vm::{Chipset, Vm};
use crate::memory::{GuestMemory, HugePages};

const MEMORY: u64 = 64 << 10;
const CODE: u64 = 0x1000;
/// `out 0x80, al`: an exit that says that all before it was executed.
const DONE: [u8; 2] = [0xe6, 0x80];
const DONE_PORT: u16 = 0x80;
/// CR4.OSFXSR, without which SSE instructions are undefined.
const CR4_OSFXSR: u64 = 1 << 9;
/// CR0.MP without CR0.EM.
const CR0_EM: u64 = 1 << 2;
const RFLAGS_RESERVED: u64 = 2;

/// Instructions of 16-bit real mode, one of each kind that was seen missing.
const INSTRUCTIONS: [(&str, &[u8]); 3] = [
    ("pxor", &[0x66, 0x0f, 0xef, 0xc0]),
    ("xorps", &[0x0f, 0x57, 0xc0]),
    // To DS:0, which is mapped.
    ("fxsave", &[0x0f, 0xae, 0x06, 0x00, 0x00]),
];

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Names of the instructions that the host cannot execute.
    pub missing: Vec<&'static str>,
}

/// Runs each instruction in a throw-away VM; takes a few milliseconds.
///
/// # Errors
/// A host on which not even an empty VM runs.
pub fn try_instructions(host: &KvmHost) -> Result<Findings, KvmError> {
    let mut missing = Vec::new();
    for (name, code) in INSTRUCTIONS {
        if !runs(host, code)? {
            missing.push(name);
        }
    }
    Ok(Findings { missing })
}

fn runs(host: &KvmHost, code: &[u8]) -> Result<bool, KvmError> {
    let memory = GuestMemory::new(MEMORY, HugePages::Never, false).map_err(|error| KvmError::Call {
        call: "mapping memory for a probe",
        source: std::io::Error::other(error),
    })?;
    let program = [code, DONE.as_slice()].concat();
    let written = memory.write_slice(&program, GuestAddress(CODE));
    written.map_err(|error| KvmError::Call {
        call: "writing a probe's code",
        source: std::io::Error::other(error),
    })?;
    let chipset = Chipset {
        irqchip: true,
        pit: false,
    };
    let vm = Vm::new(host.create_vm()?, memory, chipset, false)?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(host.supported_cpuid())
        .map_err(KvmError::call("KVM_SET_CPUID2"))?;
    let mut sregs = host.reset_sregs(&vcpu)?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    sregs.cr4 |= CR4_OSFXSR;
    sregs.cr0 &= !CR0_EM;
    vcpu.set_sregs(&sregs).map_err(KvmError::call("KVM_SET_SREGS"))?;
    let regs = kvm_bindings::kvm_regs {
        rip: CODE,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(KvmError::call("KVM_SET_REGS"))?;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(DONE_PORT, _)) => return Ok(true),
            Ok(VcpuExit::Intr) => {}
            Ok(_) => return Ok(false),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(error) => return Err(KvmError::call("KVM_RUN")(error)),
        }
    }
}
