//! The reaper's process.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, set_child_subreaper, setsid, wait, waitid};

use super::protocol::{self, Reply, Request, STREAMS, Status, VERSION};
use crate::sweep;

/// The name by which a program knows that it was started as a reaper.
pub const NAME: &str = "sandbox-reaper";

/// Whether this process was started as a reaper.
pub fn is_reaper() -> bool {
    std::env::args_os().next().as_deref() == Some(OsStr::new(NAME))
}

/// Serves until the embedder is gone, then removes what it left.
pub fn serve() -> io::Result<()> {
    // What the embedder forgot to mark as its own: held open here it would outlive its owner.
    // SAFETY: nothing in this process uses descriptors above the standard ones, for it has opened none yet.
    unsafe { libc::close_range(3, u32::MAX, 0) };
    let socket = rustix::io::dup(std::io::stdin())?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    // A second descriptor of the socket would keep the end of the embedder from being seen by those that it serves.
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    // A terminal's interrupt is for the embedder, who says what becomes of its sandboxes.
    let _ = setsid();
    std::env::set_current_dir("/")?;
    set_child_subreaper(Some(rustix::process::getpid()))?;
    let children = child_signals()?;
    let mut folder = None;
    let served = Server {
        socket: &socket,
        buffer: Vec::new(),
    }
    .run(&children, &mut folder);
    drop(socket);
    if let Some(folder) = folder {
        sweep::abandoned(&folder);
    }
    served
}

/// A descriptor that is readable when a child has ended.
fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the signal set is initialised by sigemptyset before it is read, and lives through the calls.
    let descriptor = unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        libc::signalfd(-1, &signals, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    match descriptor {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel just gave it to us alone.
        descriptor => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
    }
}

struct Server<'a> {
    socket: &'a OwnedFd,
    buffer: Vec<u8>,
}

impl Server<'_> {
    fn run(&mut self, children: &OwnedFd, folder: &mut Option<PathBuf>) -> io::Result<()> {
        loop {
            let mut ready = [
                PollFd::new(self.socket, PollFlags::IN),
                PollFd::new(children, PollFlags::IN),
            ];
            poll(&mut ready, None)?;
            let (asked, ended) = (!ready[0].revents().is_empty(), !ready[1].revents().is_empty());
            if ended {
                // One reading takes all that is pending; which children it was, `wait` says.
                let _ = rustix::io::read(children, &mut [0_u8; 128]);
                self.reap()?;
            }
            if asked {
                match protocol::receive(self.socket, &mut self.buffer)? {
                    Some((request, streams)) => self.answer(request, streams, folder)?,
                    None => return Ok(()),
                }
            }
        }
    }

    fn reap(&self) -> io::Result<()> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Status::Code(code),
                (None, Some(signal)) => Status::Signal(signal),
                (None, None) => continue,
            };
            let pid = pid.as_raw_nonzero().get().unsigned_abs();
            self.reply(&Reply::Exited { pid, status })?;
        }
        Ok(())
    }

    fn answer(&self, request: Request, streams: Vec<OwnedFd>, folder: &mut Option<PathBuf>) -> io::Result<()> {
        match request {
            Request::Hello { folder: theirs, .. } => {
                *folder = Some(theirs);
                self.reply(&Reply::Hello { version: VERSION })
            }
            Request::Goodbye => {
                *folder = None;
                Ok(())
            }
            Request::Spawn {
                number,
                command,
                directory,
                cgroups,
            } => {
                let reply = match spawn(&command, &directory, cgroups, streams) {
                    Ok(pid) => Reply::Spawned { number, pid },
                    Err(error) => Reply::NotSpawned {
                        number,
                        errno: error.raw_os_error().unwrap_or(0),
                    },
                };
                self.reply(&reply)
            }
            Request::Signal { pid, signal, group } => {
                send_signal(pid, signal, group);
                Ok(())
            }
        }
    }

    fn reply(&self, reply: &Reply) -> io::Result<()> {
        protocol::send(self.socket, reply, &[])
    }
}

fn spawn(words: &[PathBuf], directory: &PathBuf, cgroups: Vec<PathBuf>, streams: Vec<OwnedFd>) -> io::Result<u32> {
    let streams: [OwnedFd; STREAMS] = streams
        .try_into()
        .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    let [input, output, errors] = streams.map(Stdio::from);
    let (program, arguments) = words
        .split_first()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(directory)
        .process_group(0)
        .stdin(input)
        .stdout(output)
        .stderr(errors);
    if !cgroups.is_empty() {
        let join = move || {
            for file in &cgroups {
                OpenOptions::new().write(true).open(file)?.write_all(b"0")?;
            }
            Ok(())
        };
        // SAFETY: this process has one thread, so that the child may do whatever the parent could.
        unsafe { command.pre_exec(join) };
    }
    // The child is waited for with all the others.
    command.spawn().map(|child| child.id())
}

/// Signals a child that has not been waited for, whose number is therefore nobody else's.
fn send_signal(pid: u32, signal: i32, group: bool) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if waitid(WaitId::Pid(pid), options).is_err() {
        return;
    }
    let number = pid.as_raw_nonzero().get();
    // A child that has ended meanwhile needs no signal.
    // SAFETY: sends a signal, real-time ones included; no memory is touched.
    unsafe { libc::kill(if group { -number } else { number }, signal) };
}
