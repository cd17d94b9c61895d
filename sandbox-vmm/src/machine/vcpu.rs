//! A vCPU: running guest code and serving its exits.

use std::io;
use std::sync::atomic::Ordering;

use kvm_bindings::{
    CpuId, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_SYSTEM_EVENT_CRASH,
    KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use sandbox_core::{Exit, FaultReport, Registers};

use super::Machine;
use super::crew::{Crew, Errand, Held, Member};
use super::kick::{KickSignal, Kickable};
use crate::devices::hvt;
use crate::devices::legacy::{BOOT_PORT, PortEffect, PowerEvent};
use crate::devices::virtio::Progress;

/// A vCPU and its number.
pub struct Vcpu {
    /// The KVM object.
    pub fd: VcpuFd,
    /// Its number; 0 boots.
    pub id: u32,
    /// The CPUID that it was given. KVM may say another one when it is asked.
    pub cpuid: CpuId,
}

/// What a vCPU tells the sandbox that it belongs to.
pub trait VcpuEvents: Sync {
    /// Right before the first entry into guest code.
    fn first_entry(&self);
    /// Right after the first exit from it.
    fn first_exit(&self);
    /// The guest says that it is ready.
    fn guest_ready(&self);
    /// The guest says that it uses the identity of this generation.
    fn identity_confirmed(&self, generation: u32);
}

/// What one exit leads to.
enum Next {
    Enter,
    /// What the exit began is to be gone on with before the guest goes on.
    Repeat(Unfinished),
    End(Exit),
}

/// What one exit began and did not finish.
enum Unfinished {
    /// A write to a device, to be repeated.
    Write(Write),
    /// A hypercall that waits.
    Hypercall,
}

/// A write to memory that is no RAM.
#[derive(Clone, Copy)]
struct Write {
    address: u64,
    data: [u8; 8],
    len: usize,
}

impl Write {
    fn new(address: u64, data: &[u8]) -> Self {
        let mut copy = [0; 8];
        // KVM hands over 8 bytes at most.
        let len = data.len().min(copy.len());
        copy[..len].copy_from_slice(&data[..len]);
        let data = copy;
        Self { address, data, len }
    }

    fn give_to(self, machine: &Machine) -> Next {
        match machine.mmio.write(self.address, &self.data[..self.len]) {
            Progress::Waiting => Next::Enter,
            Progress::More => Next::Repeat(Unfinished::Write(self)),
        }
    }
}

impl Vcpu {
    /// Runs guest code on this thread until the guest ends, `Some`, or the crew is to leave, `None`.
    pub fn run(
        &mut self,
        machine: &Machine,
        crew: &Crew,
        events: &dyn VcpuEvents,
        signal: KickSignal,
    ) -> io::Result<Option<Exit>> {
        signal.unblock()?;
        let member = &crew.members()[self.id as usize];
        // SAFETY: dropped at the end of this function, and the vCPU, borrowed for longer, after it.
        let kickable = unsafe { member.kicker.register(&mut self.fd, signal) };
        let boots = self.id == 0;
        if boots {
            events.first_entry();
        }
        let mut first = boots;
        let mut unfinished = None;
        let end = loop {
            let mut held = HeldVcpu {
                vcpu: self,
                kickable: &kickable,
            };
            if !crew.may_run(&mut held) {
                break None;
            }
            let next = match unfinished.take() {
                Some(Unfinished::Write(write)) => write.give_to(machine),
                Some(Unfinished::Hypercall) => self.resume_hypercall(machine, &kickable),
                None => {
                    let next = self.enter(machine, events, &kickable);
                    count_exit(member);
                    next
                }
            };
            if first {
                events.first_exit();
                first = false;
            }
            match next {
                Next::Enter => {}
                Next::Repeat(call) => unfinished = Some(call),
                Next::End(exit) => break Some(exit),
            }
        };
        member.record_final_cpu();
        Ok(end)
    }

    fn enter(&mut self, machine: &Machine, events: &dyn VcpuEvents, kickable: &Kickable<'_>) -> Next {
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => match &machine.hvt {
                Some(hvt) if port != BOOT_PORT => {
                    let next = hvt.call(port, data, kickable);
                    self.after_hypercall(machine, next, kickable)
                }
                _ => after_port_write(machine.ports.write(port, data), events),
            },
            Ok(VcpuExit::IoIn(port, data)) => {
                machine.ports.read(port, data);
                Next::Enter
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                machine.mmio.read(address, data);
                Next::Enter
            }
            Ok(VcpuExit::MmioWrite(address, data)) => Write::new(address, data).give_to(machine),
            Ok(VcpuExit::Shutdown) => Next::End(self.triple_fault(machine)),
            Ok(VcpuExit::Hlt) => Next::End(self.guest_fault(machine, "halted with no interrupt that could wake it")),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => Next::End(Exit::PowerOff),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => Next::End(Exit::Reset),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => {
                Next::End(self.guest_fault(machine, "reported its own crash"))
            }
            Ok(VcpuExit::InternalError) => Next::End(self.internal_error(machine)),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                let what = format!("state that the processor refuses to run, hardware reason {reason:#x}");
                Next::End(self.guest_fault(machine, what))
            }
            Ok(VcpuExit::MemoryFault { gpa, .. }) => {
                let what = format!("memory at {gpa:#x} that the host cannot give");
                Next::End(self.guest_fault(machine, what))
            }
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Next::Enter,
            Ok(other) => {
                let what = format!("an exit that this machine does not offer ({other:?})");
                Next::End(self.guest_fault(machine, what))
            }
            Err(error) => self.run_error(machine, error, kickable),
        }
    }

    fn resume_hypercall(&self, machine: &Machine, kickable: &Kickable<'_>) -> Next {
        match machine.hvt.as_ref().and_then(|hvt| hvt.resume(kickable)) {
            Some(next) => self.after_hypercall(machine, next, kickable),
            None => Next::Enter,
        }
    }

    fn after_hypercall(&self, machine: &Machine, next: hvt::Next, kickable: &Kickable<'_>) -> Next {
        match next {
            hvt::Next::Enter => Next::Enter,
            hvt::Next::Kicked => {
                kickable.rearm();
                Next::Repeat(Unfinished::Hypercall)
            }
            hvt::Next::Halt(status) => Next::End(Exit::Code(status)),
            hvt::Next::Fault(what) => Next::End(self.guest_fault(machine, what)),
        }
    }

    fn run_error(&mut self, machine: &Machine, error: kvm_ioctls::Error, kickable: &Kickable<'_>) -> Next {
        match error.errno() {
            libc::EINTR => {
                kickable.rearm();
                Next::Enter
            }
            // A vCPU that waits for its start-up interrupt was woken for another reason.
            libc::EAGAIN => Next::Enter,
            libc::ENOMEM => Next::End(Exit::OutOfMemory),
            libc::EFAULT => Next::End(self.guest_fault(machine, "memory that the host cannot give")),
            _ => {
                let error = io::Error::from(error);
                Next::End(self.guest_fault(machine, format!("the host's KVM_RUN failed ({error})")))
            }
        }
    }

    fn internal_error(&mut self, machine: &Machine) -> Exit {
        let (suberror, instruction) = emulation_failure(self.fd.get_kvm_run());
        let what = match suberror {
            KVM_INTERNAL_ERROR_EMULATION if machine.software_kvm => {
                "an instruction that this host cannot execute: its KVM is a software KVM without VT-x or SVM \
                 underneath; use a host with hardware virtualisation"
                    .to_owned()
            }
            KVM_INTERNAL_ERROR_EMULATION => "an instruction that KVM cannot emulate".to_owned(),
            other => format!("KVM internal error {other}"),
        };
        let mut report = self.fault(machine, what);
        report.instruction = instruction;
        Exit::GuestFault(report)
    }

    fn triple_fault(&self, machine: &Machine) -> Exit {
        let mut report = self.fault(machine, "triple fault");
        if report.registers.as_ref().is_some_and(is_reset) {
            report.registers = None;
            report.what += "; its registers are lost, since KVM on AMD resets the processor before it tells";
        }
        Exit::TripleFault(report)
    }

    fn guest_fault(&self, machine: &Machine, what: impl Into<String>) -> Exit {
        Exit::GuestFault(self.fault(machine, what))
    }

    fn fault(&self, machine: &Machine, what: impl Into<String>) -> Box<FaultReport> {
        const TAIL_LINES: usize = 20;
        Box::new(FaultReport {
            what: what.into(),
            vcpu: self.id,
            registers: registers(&self.fd),
            instruction: Vec::new(),
            console_tail: machine.console.tail(TAIL_LINES),
        })
    }
}

/// A vCPU whose thread is to hold still.
struct HeldVcpu<'a> {
    vcpu: &'a mut Vcpu,
    kickable: &'a Kickable<'a>,
}

impl Held for HeldVcpu<'_> {
    /// Lets KVM finish what the last exit began (a port read takes its value at the next entry), so that the registers
    /// can be read; executes no further instruction.
    fn settle(&mut self) {
        let fd = &mut self.vcpu.fd;
        fd.set_kvm_immediate_exit(1);
        // EINTR is the answer that immediate_exit asks for.
        let _ = fd.run();
        self.kickable.rearm();
        // The guest's watchdogs are told that it was not running; a guest without kvmclock has nothing to be told.
        let _ = fd.kvmclock_ctrl();
    }

    fn run(&mut self, errand: &Errand) {
        errand(self.vcpu);
    }
}

/// Adds one. The counter has one writer, so a plain load and store do.
fn count_exit(member: &Member) {
    let exits = member.exits.load(Ordering::Relaxed);
    member.exits.store(exits + 1, Ordering::Relaxed);
}

fn after_port_write(effect: PortEffect, events: &dyn VcpuEvents) -> Next {
    match effect {
        PortEffect::None => Next::Enter,
        PortEffect::Ready => {
            events.guest_ready();
            Next::Enter
        }
        PortEffect::IdentityConfirmed(generation) => {
            events.identity_confirmed(generation);
            Next::Enter
        }
        PortEffect::End(event) => Next::End(power_exit(event)),
    }
}

fn power_exit(event: PowerEvent) -> Exit {
    match event {
        PowerEvent::PowerOff => Exit::PowerOff,
        PowerEvent::Reset => Exit::Reset,
        PowerEvent::ExitCode(code) => Exit::Code(code.into()),
    }
}

/// Suberror and instruction bytes of `KVM_EXIT_INTERNAL_ERROR`.
fn emulation_failure(run: &kvm_run) -> (u32, Vec<u8>) {
    // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR; this view of it is plain integers throughout.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    let has_bytes = failure.suberror == KVM_INTERNAL_ERROR_EMULATION
        && failure.ndata >= 3
        && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if !has_bytes {
        return (failure.suberror, Vec::new());
    }
    // SAFETY: the flag says that this view of the union is the one that KVM filled; it is plain bytes.
    let bytes = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    let size = usize::from(bytes.insn_size).min(bytes.insn_bytes.len());
    (failure.suberror, bytes.insn_bytes[..size].to_vec())
}

/// Whether a processor stands where INIT leaves it (AMD64 APM volume 2, §14.1.3): at the reset vector, in real mode.
fn is_reset(registers: &Registers) -> bool {
    const PROTECTION_ENABLE: u64 = 1;
    registers.rip == 0xfff0 && registers.cs == 0xf000 && registers.cr0 & PROTECTION_ENABLE == 0
}

fn registers(fd: &VcpuFd) -> Option<Registers> {
    let regs = fd.get_regs().ok()?;
    let sregs = fd.get_sregs().ok()?;
    Some(Registers {
        rax: regs.rax,
        rbx: regs.rbx,
        rcx: regs.rcx,
        rdx: regs.rdx,
        rsi: regs.rsi,
        rdi: regs.rdi,
        rsp: regs.rsp,
        rbp: regs.rbp,
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        rip: regs.rip,
        rflags: regs.rflags,
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        efer: sregs.efer,
        cs: sregs.cs.selector,
        ss: sregs.ss.selector,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_after_init_is_told_from_one_that_faulted() {
        let after_init = Registers {
            rip: 0xfff0,
            cs: 0xf000,
            cr0: 0x6000_0010,
            rdx: 0x80_0f12,
            rflags: 2,
            ..Registers::default()
        };
        assert!(is_reset(&after_init));
        let in_long_mode = Registers {
            cr0: 0x8000_0011,
            ..after_init
        };
        assert!(!is_reset(&in_long_mode));
        let elsewhere = Registers {
            rip: 0x10_0000,
            ..after_init
        };
        assert!(!is_reset(&elsewhere));
    }
}
