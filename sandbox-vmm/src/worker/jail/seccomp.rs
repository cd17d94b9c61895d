//! Filters of system calls, by what a thread is for.
//!
//! Each role has a list of the calls that its threads make, with their arguments where these make a difference; every
//! other call ends the process. The filters are compiled once per backend, in the embedder.

use std::collections::BTreeMap;

use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch, sock_filter};

use crate::sandbox::confinement::Role;
use crate::worker::protocol::Filters;

/// `BPF_LD | BPF_W | BPF_ABS`: a word of `struct seccomp_data`, whose first one is the call's number.
const LOAD_WORD: u16 = 0x20;
/// Where its word for the architecture is.
const ARCHITECTURE: u32 = 4;
/// Where the lower half of the second argument is.
const SECOND_ARGUMENT: u32 = 24;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGE | BPF_K`.
const JUMP_IF_AT_LEAST: u16 = 0x35;
/// `BPF_JMP | BPF_JA`.
const JUMP: u16 = 0x05;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;
/// `AUDIT_ARCH_X86_64`; calls of 32 bits have another one.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// Which arguments of a call are allowed.
enum Arguments {
    /// All.
    Any,
    /// The argument of this number has one of these values.
    OneOf(u8, &'static [(u64, &'static str)]),
    /// These bits of the argument of this number are clear.
    Without(u8, u64, &'static str),
}

/// A call that is allowed.
struct Allowed {
    number: libc::c_long,
    name: &'static str,
    roles: &'static [Role],
    arguments: Arguments,
}

const ALL: &[Role] = &[Role::Vcpu, Role::Events, Role::Control];
/// Threads that work devices off: the control thread too, which serves what came at a device while it held it still.
const DEVICES: &[Role] = ALL;
const VCPU: &[Role] = &[Role::Vcpu];
const EVENTS: &[Role] = &[Role::Events];
const CONTROL: &[Role] = &[Role::Control];

/// The first one is what a vCPU does at each exit.
const VCPU_IOCTLS: &[(u64, &str)] = &[
    (0xae80, "KVM_RUN"),
    (0x4008_ae61, "KVM_IRQ_LINE"),
    (0x8090_ae81, "KVM_GET_REGS"),
    (0x8138_ae83, "KVM_GET_SREGS"),
    (0xaead, "KVM_KVMCLOCK_CTRL"),
    (0x4004_54d0, "TUNSETOFFLOAD"),
    (0x5421, "FIONBIO"),
    // Its state, for a snapshot or a fork.
    (0xc004_ae02, "KVM_GET_MSR_INDEX_LIST"),
    (0x8400_ae8e, "KVM_GET_LAPIC"),
    (0xc008_ae88, "KVM_GET_MSRS"),
    (0x8040_ae9f, "KVM_GET_VCPU_EVENTS"),
    (0x8004_ae98, "KVM_GET_MP_STATE"),
    (0x8080_aea1, "KVM_GET_DEBUGREGS"),
    (0xaea3, "KVM_GET_TSC_KHZ"),
    (0x9000_aea4, "KVM_GET_XSAVE"),
    (0x9000_aecf, "KVM_GET_XSAVE2"),
    (0x8188_aea6, "KVM_GET_XCRS"),
];
const EVENTS_IOCTLS: &[(u64, &str)] = &[
    (0x4008_ae61, "KVM_IRQ_LINE"),
    (0x5421, "FIONBIO"),
    // Pages on demand.
    (0xc028_aa03, "UFFDIO_COPY"),
    (0xc020_aa04, "UFFDIO_ZEROPAGE"),
    (0x8010_aa01, "UFFDIO_UNREGISTER"),
    (0x8010_aa02, "UFFDIO_WAKE"),
];
const CONTROL_IOCTLS: &[(u64, &str)] = &[
    (0x4008_ae61, "KVM_IRQ_LINE"),
    (0x5421, "FIONBIO"),
    // The machine's state, for a snapshot or a fork.
    (0xc208_ae62, "KVM_GET_IRQCHIP"),
    (0x8070_ae9f, "KVM_GET_PIT2"),
    (0x8030_ae7c, "KVM_GET_CLOCK"),
    (0x4010_ae42, "KVM_GET_DIRTY_LOG"),
];

const NOT_EXECUTABLE: Arguments = Arguments::Without(2, libc::PROT_EXEC as u64, "PROT_EXEC");

macro_rules! allowed {
    ($($number:ident, $roles:expr $(, $arguments:expr)?;)*) => {
        &[$(Allowed {
            number: libc::$number,
            name: stringify!($number),
            roles: $roles,
            arguments: allowed!(@ $($arguments)?),
        }),*]
    };
    (@) => { Arguments::Any };
    (@ $arguments:expr) => { $arguments };
}

/// What the threads of a worker do, behind its beginning.
const CALLS: &[Allowed] = allowed! {
    // Guest code and its exits.
    SYS_ioctl, VCPU, Arguments::OneOf(1, VCPU_IOCTLS);
    SYS_ioctl, EVENTS, Arguments::OneOf(1, EVENTS_IOCTLS);
    SYS_ioctl, CONTROL, Arguments::OneOf(1, CONTROL_IOCTLS);
    // Disks, taps, eventfds, timers.
    SYS_read, ALL;
    SYS_write, ALL;
    SYS_readv, DEVICES;
    SYS_writev, DEVICES;
    SYS_pread64, ALL;
    SYS_pwrite64, ALL;
    SYS_preadv, DEVICES;
    SYS_pwritev, DEVICES;
    SYS_preadv2, DEVICES;
    SYS_pwritev2, DEVICES;
    SYS_fsync, DEVICES;
    SYS_fdatasync, DEVICES;
    SYS_fallocate, DEVICES;
    SYS_timerfd_settime, DEVICES;
    // Connections of the socket device, and the embedder.
    SYS_recvfrom, DEVICES;
    SYS_sendto, DEVICES;
    SYS_recvmsg, ALL;
    SYS_sendmsg, ALL;
    SYS_accept4, DEVICES;
    SYS_shutdown, DEVICES;
    SYS_socketpair, DEVICES, Arguments::OneOf(0, &[(libc::AF_UNIX as u64, "AF_UNIX")]);
    SYS_epoll_ctl, DEVICES;
    SYS_epoll_wait, DEVICES;
    SYS_epoll_pwait, DEVICES;
    SYS_poll, ALL;
    SYS_ppoll, ALL;
    SYS_close, ALL;
    // What the standard library makes sure of before it closes one, in debug builds.
    SYS_fcntl, VCPU, Arguments::OneOf(1, &[(libc::F_GETFD as u64, "F_GETFD")]);
    SYS_fcntl, EVENTS, Arguments::OneOf(1, &[(libc::F_GETFD as u64, "F_GETFD")]);
    // Frozen memory is sealed before it is anybody else's.
    SYS_fcntl, CONTROL, Arguments::OneOf(1, &[(libc::F_GETFD as u64, "F_GETFD"), (libc::F_ADD_SEALS as u64, "F_ADD_SEALS")]);
    // Memory.
    SYS_mmap, ALL, NOT_EXECUTABLE;
    SYS_mprotect, ALL, NOT_EXECUTABLE;
    SYS_munmap, ALL;
    SYS_mremap, ALL;
    SYS_madvise, ALL;
    SYS_mincore, CONTROL;
    SYS_sysinfo, CONTROL;
    SYS_lseek, CONTROL;
    SYS_fstatfs, CONTROL;
    SYS_brk, ALL;
    // Threads, locks, signals, time.
    SYS_futex, ALL;
    SYS_sched_yield, ALL;
    SYS_getpid, ALL;
    SYS_gettid, ALL;
    SYS_tgkill, ALL;
    SYS_rt_sigprocmask, ALL;
    SYS_rt_sigreturn, ALL;
    SYS_restart_syscall, ALL;
    SYS_sigaltstack, ALL;
    SYS_clock_gettime, ALL;
    SYS_clock_nanosleep, ALL;
    SYS_getrandom, ALL;
    SYS_exit, ALL;
    SYS_exit_group, ALL;
};

/// Compiles the filters.
pub fn compile() -> Result<Filters, seccompiler::Error> {
    Ok(Filters {
        vcpu: to_bytes(&program(Role::Vcpu)?),
        events: to_bytes(&program(Role::Events)?),
        control: to_bytes(&program(Role::Control)?),
    })
}

/// Installs a filter for the calling thread, for good.
pub fn install(filter: &[u8]) -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter(&from_bytes(filter))
}

/// All calls by role, as a table for people.
pub fn report() -> String {
    let mut text = String::new();
    for (role, title) in [
        (Role::Vcpu, "vCPU threads"),
        (Role::Events, "event loop and pager"),
        (Role::Control, "control thread"),
    ] {
        let calls: Vec<&Allowed> = CALLS.iter().filter(|call| call.roles.contains(&role)).collect();
        text += &format!("{title}: {} calls; any other ends the process\n", calls.len());
        for call in calls {
            let name = call.name.trim_start_matches("SYS_");
            text += &match &call.arguments {
                Arguments::Any => format!("  {name}\n"),
                Arguments::OneOf(_, values) => {
                    let names: Vec<&str> = values.iter().map(|(_, name)| *name).collect();
                    format!("  {name} ({})\n", names.join(", "))
                }
                Arguments::Without(_, _, bits) => format!("  {name} (without {bits})\n"),
            };
        }
    }
    text
}

/// The filter of a role: a search tree over the numbers of calls, at whose ends a call is allowed, or ends the process, or
/// has its arguments looked at by a program of the compiler. The compiler itself would look at one call after another; to
/// go through all of them costs at each exit of a guest, and, since the kernel tries all numbers that there are when a
/// filter is installed, at each start of a worker.
fn program(role: Role) -> Result<BpfProgram, seccompiler::Error> {
    let mut ranges: Vec<Range> = vec![(0, End::Kill)];
    let mut parts: Vec<BpfProgram> = Vec::new();
    let calls = CALLS.iter().filter(|call| call.roles.contains(&role));
    let calls: BTreeMap<_, _> = calls.map(|call| (call.number, &call.arguments)).collect();
    for (number, arguments) in calls {
        let end = match arguments {
            Arguments::Any => End::Allow,
            _ => {
                parts.push(checked(number, arguments)?);
                End::Part(parts.len() - 1)
            }
        };
        // Nothing lies between two calls whose numbers follow each other.
        ranges.pop_if(|(first, _)| i64::from(*first) == number);
        if ranges.last().is_none_or(|(_, last)| *last != end) {
            ranges.push((number as u32, end));
        }
        ranges.push((number as u32 + 1, End::Kill));
    }
    Ok(assembled(role, &ranges, parts))
}

/// The numbers from this one on, up to those of the next range.
type Range = (u32, End);

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is made.
    Allow,
    /// It ends the process.
    Kill,
    /// The compiler's program of this index decides.
    Part(usize),
}

/// The compiler's program for one call. It looks at the architecture too, and ends in every case.
fn checked(number: libc::c_long, arguments: &Arguments) -> Result<BpfProgram, seccompiler::Error> {
    let filter = SeccompFilter::new(
        BTreeMap::from([(number, arguments.rules()?)]),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(BpfProgram::try_from(filter)?)
}

/// The tree, and the programs that it leads to behind it.
fn assembled(role: Role, ranges: &[Range], parts: Vec<BpfProgram>) -> BpfProgram {
    let mut program = vec![
        instruction(LOAD_WORD, 0, 0, ARCHITECTURE),
        instruction(JUMP_IF_EQUAL, 1, 0, AUDIT_ARCH_X86_64),
        instruction(RETURN, 0, 0, u32::from(SeccompAction::KillProcess)),
        instruction(LOAD_WORD, 0, 0, 0),
    ];
    if role == Role::Vcpu {
        // What a vCPU does at each exit, before all others.
        program.extend([
            instruction(JUMP_IF_EQUAL, 0, 4, libc::SYS_ioctl as u32),
            instruction(LOAD_WORD, 0, 0, SECOND_ARGUMENT),
            instruction(JUMP_IF_EQUAL, 0, 1, VCPU_IOCTLS[0].0 as u32),
            leaf(End::Allow),
            instruction(LOAD_WORD, 0, 0, 0),
        ]);
    }
    program.extend(tree(ranges));
    // Where each part begins is known now.
    let mut start = program.len();
    let mut starts = Vec::new();
    for part in &parts {
        starts.push(start);
        start += part.len();
    }
    for (at, place) in program.iter_mut().enumerate() {
        if place.code == JUMP && place.jt == TO_A_PART {
            let target = starts.get(place.k as usize).copied().unwrap_or_default();
            *place = instruction(JUMP, 0, 0, (target - at - 1) as u32);
        }
    }
    program.extend(parts.into_iter().flatten());
    program
}

/// Marks a jump to a part whose place is not known yet; the kernel has no use for this field of a jump.
const TO_A_PART: u8 = 1;

fn leaf(end: End) -> sock_filter {
    match end {
        End::Allow => instruction(RETURN, 0, 0, u32::from(SeccompAction::Allow)),
        End::Kill => instruction(RETURN, 0, 0, u32::from(SeccompAction::KillProcess)),
        End::Part(index) => instruction(JUMP, TO_A_PART, 0, index as u32),
    }
}

/// The lower half of the ranges, behind it the upper one, and before both which of them it is.
fn tree(ranges: &[Range]) -> BpfProgram {
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let (Some(_), Some((middle, _))) = (lower.first(), upper.first()) else {
        return upper.iter().map(|(_, end)| leaf(*end)).collect();
    };
    let lower = tree(lower);
    let mut program = match u8::try_from(lower.len()) {
        Ok(length) => vec![instruction(JUMP_IF_AT_LEAST, length, 0, *middle)],
        Err(_) => vec![
            instruction(JUMP_IF_AT_LEAST, 0, 1, *middle),
            instruction(JUMP, 0, 0, lower.len() as u32),
        ],
    };
    program.extend(lower);
    program.extend(tree(upper));
    program
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

impl Arguments {
    /// One of these must match; none at all means that any arguments do.
    fn rules(&self) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        match self {
            Arguments::Any => Ok(Vec::new()),
            Arguments::OneOf(argument, values) => values
                .iter()
                .map(|(value, _)| SeccompRule::new(vec![SeccompCondition::new(*argument, Dword, Eq, *value)?]))
                .collect(),
            Arguments::Without(argument, bits, _) => {
                let clear = SeccompCondition::new(*argument, Qword, MaskedEq(*bits), 0)?;
                Ok(vec![SeccompRule::new(vec![clear])?])
            }
        }
    }
}

/// As the kernel reads them (`struct sock_filter`).
fn to_bytes(program: &[sock_filter]) -> Vec<u8> {
    let instructions = program.iter().flat_map(|instruction| {
        let [c0, c1] = instruction.code.to_le_bytes();
        let [k0, k1, k2, k3] = instruction.k.to_le_bytes();
        [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3]
    });
    instructions.collect()
}

fn from_bytes(bytes: &[u8]) -> BpfProgram {
    let instructions = bytes.as_chunks::<8>().0.iter();
    instructions
        .map(|[c0, c1, jt, jf, k0, k1, k2, k3]| sock_filter {
            code: u16::from_le_bytes([*c0, *c1]),
            jt: *jt,
            jf: *jf,
            k: u32::from_le_bytes([*k0, *k1, *k2, *k3]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_survive_the_way_to_the_worker() {
        let program = program(Role::Vcpu).unwrap();
        assert_eq!(from_bytes(&to_bytes(&program)), program);
    }

    /// What the program says to a call, run as the kernel would, as far as these programs go.
    fn verdict(program: &[sock_filter], number: i64, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend((number as u32).to_le_bytes());
        data.extend(AUDIT_ARCH_X86_64.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        arguments
            .iter()
            .for_each(|argument| data.extend(argument.to_le_bytes()));
        let (mut accumulator, mut at) = (0u32, 0);
        loop {
            let sock_filter { code, jt, jf, k } = &program[at];
            at += 1;
            let jump = |condition| usize::from(if condition { *jt } else { *jf });
            match code {
                0x20 => accumulator = u32::from_le_bytes(data[*k as usize..][..4].try_into().unwrap()),
                0x05 => at += *k as usize,
                0x15 => at += jump(accumulator == *k),
                0x25 => at += jump(accumulator > *k),
                0x35 => at += jump(accumulator >= *k),
                0x54 => accumulator &= *k,
                0x06 => return *k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn every_call_gets_the_verdict_that_the_list_says() {
        const ALLOW: u32 = 0x7fff_0000;
        for role in [Role::Vcpu, Role::Events, Role::Control] {
            let program = program(role).unwrap();
            for number in 0..500 {
                let listed = CALLS
                    .iter()
                    .find(|call| call.number == number && call.roles.contains(&role));
                let (good, bad) = match listed.map(|call| &call.arguments) {
                    None => (None, Some([0; 6])),
                    Some(Arguments::Any) => (Some([7; 6]), None),
                    Some(Arguments::OneOf(argument, values)) => {
                        let mut good = [0; 6];
                        good[usize::from(*argument)] = values[values.len() - 1].0;
                        (Some(good), Some([0xdead; 6]))
                    }
                    Some(Arguments::Without(argument, bits, _)) => {
                        let mut bad = [0; 6];
                        bad[usize::from(*argument)] = *bits;
                        (Some([0; 6]), Some(bad))
                    }
                };
                assert!(
                    good.is_none_or(|arguments| verdict(&program, number, arguments) == ALLOW),
                    "{role:?} {number}"
                );
                assert!(
                    bad.is_none_or(|arguments| verdict(&program, number, arguments) != ALLOW),
                    "{role:?} {number}"
                );
            }
        }
    }

    /// A call that the kernel tries when a filter is installed costs it some 25 instructions for each one here.
    #[test]
    fn no_number_has_a_long_way() {
        for role in [Role::Vcpu, Role::Events, Role::Control] {
            let ranges = CALLS.iter().filter(|call| call.roles.contains(&role)).count() * 2 + 1;
            let steps = ranges.next_power_of_two().trailing_zeros() as usize;
            let program = program(role).unwrap();
            for number in (0..500).filter(|number| CALLS.iter().all(|call| call.number != *number)) {
                let way = way(&program, number);
                assert!(way <= steps + 7, "{role:?} {number}: {way} of {steps}");
            }
            assert!(program.len() < 4096, "the kernel takes no more");
        }
    }

    /// How many instructions a call without arguments goes through.
    fn way(program: &[sock_filter], number: i64) -> usize {
        let (mut accumulator, mut at, mut count) = (0u32, 0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = &program[at];
            (at, count) = (at + 1, count + 1);
            let jump = |condition| usize::from(if condition { *jt } else { *jf });
            match *code {
                LOAD_WORD if *k == 0 => accumulator = number as u32,
                LOAD_WORD => accumulator = AUDIT_ARCH_X86_64,
                JUMP => at += *k as usize,
                JUMP_IF_EQUAL => at += jump(accumulator == *k),
                JUMP_IF_AT_LEAST => at += jump(accumulator >= *k),
                _ => return count,
            }
        }
    }

    #[test]
    fn each_request_that_is_listed_is_allowed_and_no_other() {
        let program = program(Role::Vcpu).unwrap();
        let verdict = |request| verdict(&program, libc::SYS_ioctl, [0, request, 0, 0, 0, 0]);
        for (request, name) in VCPU_IOCTLS {
            assert_eq!(verdict(*request), 0x7fff_0000, "{name}");
        }
        for request in [0, 0xae81, 0xae01, 0x4020_ae46] {
            assert_eq!(verdict(request), 0x8000_0000, "{request:#x}");
        }
    }

    #[test]
    fn calls_of_other_architectures_end_the_process() {
        for role in [Role::Vcpu, Role::Events, Role::Control] {
            let program = program(role).unwrap();
            assert_eq!((program[1].k, program[1].jt), (AUDIT_ARCH_X86_64, 1));
            assert_eq!(program[2].k, 0x8000_0000);
        }
    }

    #[test]
    fn no_role_may_open_execute_or_reach_out() {
        let forbidden = [
            "open",
            "openat",
            "execve",
            "execveat",
            "socket",
            "connect",
            "clone",
            "clone3",
            "fork",
            "ptrace",
            "kill",
            "mount",
            "unshare",
            "setns",
            "bpf",
            "process_vm_writev",
            "memfd_create",
        ];
        let report = report();
        for name in forbidden {
            let listed = report.lines().any(|line| line.split_whitespace().next() == Some(name));
            assert!(!listed, "{name}");
        }
    }
}
