//! How a sandbox ends: one list for all backends.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Exit {
    /// The init process, or the guest by its debug-exit port, gave an exit code.
    Code(i32),
    /// The init process was ended by a signal that we did not send.
    Signal(i32),
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset; a sandbox is not started again by itself.
    Reset,
    /// The guest's processor shut down on a fault that it could not handle, which reboots a real machine.
    TripleFault(Box<FaultReport>),
    /// The guest did what no guest may do, or the host could not execute its code.
    GuestFault(Box<FaultReport>),
    /// The guest went beyond its memory.
    OutOfMemory,
    /// The sandbox's deadline passed.
    Deadline,
    /// The embedder killed or stopped it.
    Killed,
    /// The process that held it is gone, with these last words.
    LostWorker(String),
}

impl Exit {
    /// True when the guest ended by itself and said that all is well: code 0 or power-off.
    pub fn is_success(&self) -> bool {
        matches!(self, Exit::Code(0) | Exit::PowerOff)
    }

    /// The report of a guest that was ended by a fault.
    pub fn fault(&self) -> Option<&FaultReport> {
        match self {
            Exit::TripleFault(report) | Exit::GuestFault(report) => Some(report),
            _ => None,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::PowerOff => f.write_str("power-off"),
            Exit::Reset => f.write_str("reset"),
            Exit::TripleFault(report) => write!(f, "triple fault: {report}"),
            Exit::GuestFault(report) => write!(f, "guest fault: {report}"),
            Exit::OutOfMemory => f.write_str("out of memory"),
            Exit::Deadline => f.write_str("deadline passed"),
            Exit::Killed => f.write_str("killed"),
            Exit::LostWorker(words) => write!(f, "worker lost: {words}"),
        }
    }
}

/// What is known of a guest at its fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultReport {
    /// What the guest did, or what the host could not do for it.
    pub what: String,
    /// The virtual processor that faulted.
    pub vcpu: u32,
    /// Its registers, where they could be read.
    pub registers: Option<Registers>,
    /// The bytes of the instruction, where known.
    pub instruction: Vec<u8>,
    /// The last lines on the console.
    pub console_tail: String,
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on vCPU {}", self.what, self.vcpu)?;
        if let Some(registers) = &self.registers {
            write!(f, " at rip {:#x}", registers.rip)?;
        }
        if !self.instruction.is_empty() {
            f.write_str(", instruction bytes")?;
            for byte in &self.instruction {
                write!(f, " {byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Registers of an x86-64 virtual processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are the registers' own names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub cs: u16,
    pub ss: u16,
}
