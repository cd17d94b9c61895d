//! Starting, ending and reaping a worker's process.
//!
//! The embedder has threads, so nothing of ours may run in a forked copy of it. The child shares the embedder's memory
//! and its parent waits until it has executed the worker's program (`CLONE_VM | CLONE_VFORK`), as `posix_spawn` does
//! it; on its way there it makes system calls alone. `posix_spawn` itself cannot put a child into new namespaces, and
//! a process cannot enter a new process namespace later.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr;

use super::program::PROGRAM_NAME;

/// Tells a program that it was started as a worker, together with its name.
pub const WORKER_ARGUMENT: &str = "--jailed-worker";
/// The worker's end of the control socket.
pub const CONTROL_FD: RawFd = 0;
/// What a worker may leave as its last words, in bytes: a compromised one fills no more memory than this.
const MAX_WORDS: u64 = 4096;
/// The child makes a few system calls on it.
const CHILD_STACK: usize = 64 << 10;
/// Namespaces that a worker is born into.
const NAMESPACES: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// A worker's process, until it is reaped.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    pid: libc::pid_t,
    words: File,
}

/// What the child needs on its way to the program. All of it was made before: the child allocates nothing.
struct ChildPlan {
    control: RawFd,
    null: RawFd,
    words: RawFd,
    program: RawFd,
    arguments: [*const libc::c_char; 3],
    environment: [*const libc::c_char; 1],
    /// Files to be written in turn, with their content: the mapping of users, in a user namespace.
    maps: [(*const libc::c_char, *const libc::c_char, usize); 3],
    maps_count: usize,
    /// Where the child leaves why it did not get there.
    error: libc::c_int,
}

/// A started worker.
pub struct Spawned {
    /// Its process.
    pub process: Process,
    /// Whether it is in namespaces of its own already.
    pub in_namespaces: bool,
}

impl Process {
    /// Executes `program` as a worker with `control` as its end of the socket, in namespaces of its own where the host
    /// allows that.
    ///
    /// The calling thread must live as long as the worker: its end counts as the end of the worker's parent.
    pub fn spawn(program: &File, control: OwnedFd) -> io::Result<Spawned> {
        // SAFETY: the call has no preconditions.
        let user = unsafe { libc::geteuid() };
        let user_namespace = match user {
            0 => 0,
            _ => libc::CLONE_NEWUSER,
        };
        let control = above_standard(control.as_fd())?;
        match Self::spawn_with(program, &control, NAMESPACES | user_namespace) {
            Ok(process) => Ok(Spawned {
                process,
                in_namespaces: true,
            }),
            // No right to them, no such kind of namespace, or too many of them.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EPERM | libc::EINVAL | libc::ENOSPC | libc::EUSERS | libc::ENOENT | libc::EACCES)
                ) =>
            {
                tracing::debug!(%error, "no namespaces for a worker at birth");
                Ok(Spawned {
                    process: Self::spawn_with(program, &control, 0)?,
                    in_namespaces: false,
                })
            }
            Err(error) => Err(error),
        }
    }

    fn spawn_with(program: &File, control: &OwnedFd, namespaces: libc::c_int) -> io::Result<Self> {
        let null = above_standard(File::options().read(true).write(true).open("/dev/null")?.as_fd())?;
        let words = bounded_file(MAX_WORDS)?;
        let words_at = above_standard(words.as_fd())?;
        let program = above_standard(program.as_fd())?;
        let name = CString::new(PROGRAM_NAME)?;
        let argument = CString::new(WORKER_ARGUMENT)?;
        let maps = user_maps(namespaces)?;
        let mut plan = ChildPlan {
            control: control.as_raw_fd(),
            null: null.as_raw_fd(),
            words: words_at.as_raw_fd(),
            program: program.as_raw_fd(),
            arguments: [name.as_ptr(), argument.as_ptr(), ptr::null()],
            environment: [ptr::null()],
            maps: [(ptr::null(), ptr::null(), 0); 3],
            maps_count: maps.len(),
            error: 0,
        };
        for (slot, (path, content)) in plan.maps.iter_mut().zip(&maps) {
            *slot = (path.as_ptr(), content.as_ptr(), content.as_bytes().len());
        }
        let (pid, pidfd) = clone_child(&mut plan, namespaces)?;
        let process = Self { pidfd, pid, words };
        match plan.error {
            0 => Ok(process),
            error => {
                process.wait_blocking();
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }

    /// Its number.
    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// Readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Ends it, whatever it does.
    pub fn kill(&self) {
        // SAFETY: the descriptor is open for as long as this value; no information is passed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), pid = self.pid, "worker not signalled");
        }
    }

    /// How it ended, if it has; the process is gone then.
    pub fn try_reap(&self) -> Option<Status> {
        self.wait_with(libc::WNOHANG)
    }

    /// What it wrote on its standard error.
    pub fn last_words(&self) -> String {
        let mut bytes = vec![0; MAX_WORDS as usize];
        let count = self.words.read_at(&mut bytes, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..count]);
        text.trim_matches(|character: char| character == '\0' || character.is_whitespace())
            .to_owned()
    }

    fn wait_blocking(&self) {
        self.wait_with(0);
    }

    fn wait_with(&self, flags: libc::c_int) -> Option<Status> {
        loop {
            // SAFETY: the structure is plain data; zeroes say that no child was there.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            // SAFETY: the descriptor is open, and the structure outlives the call.
            let result = unsafe {
                libc::waitid(
                    libc::P_PIDFD,
                    self.pidfd.as_raw_fd() as libc::id_t,
                    &raw mut info,
                    libc::WEXITED | libc::__WALL | flags,
                )
            };
            if result == 0 {
                // SAFETY: waitid filled the structure in as for SIGCHLD, or left its process number 0.
                let (pid, value) = unsafe { (info.si_pid(), info.si_status()) };
                return match (pid, info.si_code) {
                    (0, _) => None,
                    (_, libc::CLD_EXITED) => Some(Status::Exited(value)),
                    _ => Some(Status::Signalled(value)),
                };
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                // The embedder has its children reaped by the kernel, or reaps all of them itself.
                _ => return Some(Status::Unknown),
            }
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// With an exit status.
    Exited(i32),
    /// By a signal.
    Signalled(i32),
    /// Somebody else reaped it.
    Unknown,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Status::Exited(status) => write!(f, "exit status {status}"),
            Status::Signalled(libc::SIGSYS) => f.write_str("SIGSYS, for a system call that its filter forbids"),
            Status::Signalled(libc::SIGKILL) => f.write_str("SIGKILL, by somebody or for want of memory"),
            Status::Signalled(signal) => write!(f, "signal {signal}"),
            Status::Unknown => f.write_str("a status that the embedder's process took"),
        }
    }
}

/// A duplicate that is none of the standard three, which the child replaces: an embedder may have closed its own.
fn above_standard(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: takes and returns integers; the descriptor is borrowed for the call.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the descriptor was just made.
        copy => Ok(unsafe { OwnedFd::from_raw_fd(copy) }),
    }
}

/// A file in memory that cannot grow.
fn bounded_file(size: u64) -> io::Result<File> {
    // SAFETY: the name is a NUL-terminated string.
    let fd = unsafe { libc::memfd_create(c"sandbox-words".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    // SAFETY: the call has no pointer arguments.
    match unsafe {
        libc::fcntl(
            fd,
            libc::F_ADD_SEALS,
            libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL,
        )
    } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

/// In a user namespace the embedder's user is its root, which alone may set the others up; nobody else exists in it.
fn user_maps(namespaces: libc::c_int) -> io::Result<Vec<(CString, CString)>> {
    if namespaces & libc::CLONE_NEWUSER == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the calls have no preconditions.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let files = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {user} 1")),
        ("/proc/self/gid_map", format!("0 {group} 1")),
    ];
    let files = files
        .into_iter()
        .map(|(path, content)| Ok((CString::new(path)?, CString::new(content)?)));
    files.collect()
}

fn clone_child(plan: &mut ChildPlan, namespaces: libc::c_int) -> io::Result<(libc::pid_t, OwnedFd)> {
    let mut stack = vec![0u128; CHILD_STACK / size_of::<u128>()];
    let mut pidfd: libc::c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | namespaces;
    let signals = block_all_signals()?;
    // SAFETY: the child runs on a stack of its own, which lives until the call returns, since the parent waits for the
    // child to execute the program or to end. It touches nothing but the plan, which outlives it likewise. No handler
    // of the embedder's runs in it: all signals are blocked, and the worker unblocks them.
    let (pid, error) = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast();
        let pid = libc::clone(enter_program, top, flags, ptr::from_mut(plan).cast(), &raw mut pidfd);
        (pid, io::Error::last_os_error())
    };
    restore_signals(&signals);
    match pid {
        -1 => Err(error),
        // SAFETY: the kernel made the descriptor for this call.
        _ => Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// The child: system calls alone.
extern "C" fn enter_program(plan: *mut libc::c_void) -> libc::c_int {
    let plan = plan.cast::<ChildPlan>();
    // SAFETY: the parent passed a plan that outlives this process's use of its memory, and waits meanwhile.
    unsafe {
        (*plan).error = try_to_enter(&*plan);
    }
    127
}

/// Returns why it did not get there.
///
/// # Safety
/// Every pointer in the plan is valid.
unsafe fn try_to_enter(plan: &ChildPlan) -> libc::c_int {
    // SAFETY: system calls on descriptors and pointers of the plan, which its maker made valid.
    unsafe {
        for (from, to) in [(plan.control, CONTROL_FD), (plan.null, 1), (plan.words, 2)] {
            if libc::dup2(from, to) < 0 {
                return *libc::__errno_location();
            }
        }
        for (path, content, length) in plan.maps.iter().take(plan.maps_count) {
            let file = libc::open(*path, libc::O_WRONLY | libc::O_CLOEXEC);
            if file < 0 || libc::write(file, (*content).cast(), *length) < 0 {
                return *libc::__errno_location();
            }
            libc::close(file);
        }
        let empty: &CStr = c"";
        libc::syscall(
            libc::SYS_execveat,
            plan.program,
            empty.as_ptr(),
            plan.arguments.as_ptr(),
            plan.environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        *libc::__errno_location()
    }
}

fn block_all_signals() -> io::Result<libc::sigset_t> {
    // SAFETY: both sets are plain data that live for the calls.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old) {
            0 => Ok(old),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn restore_signals(old: &libc::sigset_t) {
    // SAFETY: the set is one that the kernel gave.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old, ptr::null_mut()) };
}
