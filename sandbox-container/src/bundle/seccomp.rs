//! The system calls that a container may make: those that ordinary programs need and that the kernel checks well.
//!
//! Left out are the calls that load code into the kernel, change the machine as a whole (clock, swap, modules, reboot),
//! make or enter namespaces, mount, trace across users, read the kernel's keyrings, or have a history of holes that no
//! program misses (`userfaultfd`, `bpf`, `io_uring`, `perf_event_open`, `kexec`).

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

/// What a call that is not on the list is answered with; `clone3` gets another, so that libraries fall back.
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The flags of `clone` that make namespaces.
const NAMESPACES: u64 = 0x7e02_0000;

/// The profile.
pub fn profile() -> LinuxSeccomp {
    let mut calls = vec![allow(ALLOWED.split_whitespace())];
    let mut threads = allow(["clone"].into_iter());
    let without_namespaces = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(NAMESPACES)
        .value_two(0_u64)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .build();
    threads.set_args(Some(without_namespaces.into_iter().collect()));
    calls.push(threads);
    // Its flags stand in memory, where no filter can see them.
    let mut unseen = allow(["clone3"].into_iter());
    unseen
        .set_action(LinuxSeccompAction::ScmpActErrno)
        .set_errno_ret(Some(ENOSYS));
    calls.push(unseen);
    calls.extend(PERSONALITIES.map(personality));
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]))
        .set_syscalls(Some(calls));
    profile
}

fn allow<'a>(names: impl Iterator<Item = &'a str>) -> LinuxSyscall {
    let mut calls = LinuxSyscall::default();
    calls
        .set_names(names.map(str::to_owned).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow);
    calls
}

/// Linux, with and without 32-bit addresses, and the question which it is.
const PERSONALITIES: [u64; 3] = [0, 8, 0xffff_ffff];

fn personality(persona: u64) -> LinuxSyscall {
    let argument = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(persona)
        .op(LinuxSeccompOperator::ScmpCmpEq)
        .build();
    let mut call = allow(["personality"].into_iter());
    call.set_args(Some(argument.into_iter().collect()));
    call
}

const ALLOWED: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk capget capset chdir chmod chown chown32 chroot
    clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close
    close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat
    faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl
    fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
    fstatfs64 fsync ftruncate ftruncate64 futex futex_time64 futex_waitv futimesat get_robust_list get_thread_area
    getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32
    getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid
    getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr
    llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise membarrier memfd_create memfd_secret
    mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr
    mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap
    msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect
    open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll
    ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64
    pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg
    remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
    semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area
    set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer
    setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
    setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd
    signalfd4 sigprocmask sigreturn socket socketcall socketpair splice stat stat64 statfs statfs64 statx symlink
    symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname
    unlink unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_list_has_nothing_twice_and_nothing_dangerous() {
        let names: Vec<&str> = ALLOWED.split_whitespace().collect();
        let set: HashSet<&str> = names.iter().copied().collect();
        assert_eq!(set.len(), names.len());
        for forbidden in [
            "bpf",
            "clone",
            "delete_module",
            "finit_module",
            "init_module",
            "io_uring_setup",
            "kexec_load",
            "keyctl",
            "mount",
            "open_by_handle_at",
            "perf_event_open",
            "pivot_root",
            "ptrace",
            "reboot",
            "setns",
            "settimeofday",
            "swapon",
            "umount2",
            "unshare",
            "userfaultfd",
        ] {
            assert!(!set.contains(forbidden), "{forbidden}");
        }
    }
}
