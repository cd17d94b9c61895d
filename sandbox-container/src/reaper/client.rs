//! The embedder's side of its reaper.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sandbox_core::gate::Gate;
use thiserror::Error;

use super::protocol::{self, Reply, Request, STREAMS, Status, VERSION};
use super::{IS_OFFERED, server};
use crate::reactor::{Next, Reactor, Source};

/// Longer than a killed process takes to be gone.
const DYING: Duration = Duration::from_secs(30);

/// What is done when a process has ended, on the thread that serves all containers: it must not wait.
pub type OnExit = Box<dyn FnOnce(Status) + Send>;

/// Why a program could not be run to its end.
#[derive(Debug, Error)]
pub enum CallError {
    /// No program at that path, or none that can be executed.
    #[error("cannot start {program}")]
    Start {
        /// Its path.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// It took too long, and was killed.
    #[error("{program} was killed because it had not ended after {} s", limit.as_secs())]
    TooLong {
        /// Its path.
        program: String,
        /// The time it had.
        limit: Duration,
    },
    /// The reaper is gone or cannot be reached.
    #[error("the reaper process is gone")]
    Reaper(#[source] io::Error),
}

/// A program to run.
#[derive(Debug)]
pub struct Call {
    /// Program and arguments.
    pub command: Vec<PathBuf>,
    /// Working directory.
    pub directory: PathBuf,
    /// `cgroup.procs` files that it joins first.
    pub cgroups: Vec<PathBuf>,
}

impl Call {
    fn program(&self) -> String {
        let program = self.command.first();
        program.map_or_else(String::new, |program| program.display().to_string())
    }
}

/// The reaper as the embedder sees it.
pub struct Reaper {
    socket: OwnedFd,
    patience: Duration,
    state: Mutex<State>,
    process: Mutex<Child>,
}

#[derive(Default)]
struct State {
    next: u64,
    hello: Arc<Gate<()>>,
    starting: HashMap<u64, Starting>,
    children: HashMap<u32, OnExit>,
    /// Ends of processes that nobody has claimed yet, while adoptions are under way.
    unclaimed: Vec<(u32, Status)>,
    adoptions: usize,
    is_gone: bool,
}

struct Starting {
    on_exit: OnExit,
    started: Arc<Gate<Result<u32, i32>>>,
}

impl Reaper {
    /// Starts `program` as a reaper that sweeps `folder` when this process is gone.
    /// It may take `patience` for an answer, on a host that is busy with what it starts.
    pub fn start(program: &Path, folder: &Path, reactor: &Reactor, patience: Duration) -> io::Result<Arc<Self>> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let process = Command::new(program)
            .arg0(server::NAME)
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let reaper = Arc::new(Self {
            socket: ours,
            patience,
            state: Mutex::default(),
            process: Mutex::new(process),
        });
        reactor.add(Arc::new(Link(Arc::clone(&reaper))))?;
        let hello = Arc::clone(&reaper.state().hello);
        reaper.send(
            &Request::Hello {
                version: VERSION,
                folder: folder.to_owned(),
            },
            &[],
        )?;
        match hello.wait(Some(patience)) {
            Some(()) if !reaper.is_gone() => Ok(reaper),
            _ => {
                reaper.end();
                let context = format!("{} does not behave as a reaper of this version", program.display());
                Err(io::Error::other(context))
            }
        }
    }

    /// Whether this program can be started as a reaper by its own path.
    pub fn is_offered_by_this_program() -> bool {
        IS_OFFERED.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether its process has ended.
    pub fn is_gone(&self) -> bool {
        self.state().is_gone
    }

    /// Runs a program to its end, which it must reach within `limit`.
    ///
    /// # Errors
    /// It cannot be started, took too long, or the reaper is gone.
    pub fn run(&self, call: &Call, streams: &[BorrowedFd<'_>; STREAMS], limit: Duration) -> Result<Status, CallError> {
        let ended = Arc::new(Gate::default());
        let gate = Arc::clone(&ended);
        let pid = self.spawn(
            call,
            streams,
            Box::new(move |status| {
                let _ = gate.open(status);
            }),
        )?;
        match ended.wait(Some(limit)) {
            Some(Status::Lost) => Err(CallError::Reaper(io::ErrorKind::BrokenPipe.into())),
            Some(status) => Ok(status),
            None => {
                self.signal(pid, libc::SIGKILL, true);
                // A killed process ends, unless the kernel itself hangs; then nobody is helped by waiting.
                ended.wait(Some(DYING));
                let program = call.program();
                Err(CallError::TooLong { program, limit })
            }
        }
    }

    /// Starts a program.
    ///
    /// # Errors
    /// It cannot be started, or the reaper is gone.
    pub fn spawn(&self, call: &Call, streams: &[BorrowedFd<'_>; STREAMS], on_exit: OnExit) -> Result<u32, CallError> {
        let started = Arc::new(Gate::default());
        let number = {
            let mut state = self.state();
            if state.is_gone {
                return Err(CallError::Reaper(io::ErrorKind::BrokenPipe.into()));
            }
            state.next += 1;
            let number = state.next;
            let gate = Arc::clone(&started);
            state.starting.insert(number, Starting { on_exit, started: gate });
            number
        };
        let request = Request::Spawn {
            number,
            command: call.command.clone(),
            directory: call.directory.clone(),
            cgroups: call.cgroups.clone(),
        };
        let answer = self.send(&request, streams).map(|()| started.wait(Some(self.patience)));
        match answer {
            Ok(Some(Ok(pid))) => Ok(pid),
            Ok(Some(Err(errno))) => Err(CallError::Start {
                program: call.program(),
                source: io::Error::from_raw_os_error(errno),
            }),
            Ok(None) => Err(CallError::Reaper(io::ErrorKind::TimedOut.into())),
            Err(error) => {
                self.state().starting.remove(&number);
                Err(CallError::Reaper(error))
            }
        }
    }

    /// Sends a signal to a child, or to its process group, if it has not ended.
    pub fn signal(&self, pid: u32, signal: i32, group: bool) {
        // A reaper that is gone has been reported to all its children already.
        let _ = self.send(&Request::Signal { pid, signal, group }, &[]);
    }

    /// From now on the ends of processes that nobody knows yet are kept, until the adoption is over. Begin it before
    /// the runtime that leaves the process behind is started.
    pub fn begin_adoption(self: &Arc<Self>) -> Adoption {
        let mut state = self.state();
        state.adoptions += 1;
        Adoption {
            reaper: Arc::clone(self),
            from: state.unclaimed.len(),
        }
    }

    /// Ends the reaper.
    pub fn end(&self) {
        // Without a word it would take a closed socket for the end of this process, and wait for that.
        let _ = self.send(&Request::Goodbye, &[]);
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = process.wait();
    }

    fn send(&self, request: &Request, streams: &[BorrowedFd<'_>]) -> io::Result<()> {
        protocol::send(&self.socket, request, streams)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles one message; false when there will be no more.
    fn receive(&self) -> bool {
        let reply = protocol::receive::<Reply>(&self.socket, &mut Vec::new());
        match reply {
            Ok(Some((reply, _))) => {
                self.take(reply);
                true
            }
            // One that talks nonsense is of no more use than one that has ended.
            _ => {
                self.lose();
                false
            }
        }
    }

    fn take(&self, reply: Reply) {
        let mut state = self.state();
        match reply {
            Reply::Hello { version } => {
                if version != VERSION {
                    state.is_gone = true;
                }
                state.hello.open(());
            }
            Reply::Spawned { number, pid } => {
                if let Some(Starting { on_exit, started }) = state.starting.remove(&number) {
                    state.children.insert(pid, on_exit);
                    started.open(Ok(pid));
                }
            }
            Reply::NotSpawned { number, errno } => {
                if let Some(starting) = state.starting.remove(&number) {
                    starting.started.open(Err(errno));
                }
            }
            Reply::Exited { pid, status } => {
                let on_exit = state.children.remove(&pid);
                match on_exit {
                    Some(on_exit) => {
                        drop(state);
                        on_exit(status);
                    }
                    None if state.adoptions > 0 => state.unclaimed.push((pid, status)),
                    None => {}
                }
            }
        }
    }

    fn lose(&self) {
        let (starting, children) = {
            let mut state = self.state();
            state.is_gone = true;
            state.hello.open(());
            (std::mem::take(&mut state.starting), std::mem::take(&mut state.children))
        };
        for starting in starting.into_values() {
            starting.started.open(Err(libc::EPIPE));
        }
        for on_exit in children.into_values() {
            on_exit(Status::Lost);
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.end();
    }
}

/// The time in which a process may be claimed that a runtime left behind.
pub struct Adoption {
    reaper: Arc<Reaper>,
    /// Ends before this one belong to earlier processes, of which one may have had the same number.
    from: usize,
}

impl Adoption {
    /// Claims the process: `on_exit` is called when it ends, at once if it has.
    pub fn adopt(self, pid: u32, on_exit: OnExit) {
        let mut state = self.reaper.state();
        let ended = state
            .unclaimed
            .iter()
            .skip(self.from)
            .position(|(ended, _)| *ended == pid);
        let status = match (ended, state.is_gone) {
            (Some(index), _) => Some(state.unclaimed[self.from + index].1),
            (None, true) => Some(Status::Lost),
            (None, false) => None,
        };
        match status {
            Some(status) => {
                drop(state);
                on_exit(status);
            }
            None => drop(state.children.insert(pid, on_exit)),
        }
    }
}

impl Drop for Adoption {
    fn drop(&mut self) {
        let mut state = self.reaper.state();
        state.adoptions -= 1;
        if state.adoptions == 0 {
            state.unclaimed.clear();
        }
    }
}

/// The reaper's socket in the reactor.
struct Link(Arc<Reaper>);

impl Source for Link {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }

    fn ready(&self) -> Next {
        match self.0.receive() {
            true => Next::Keep,
            false => Next::Remove,
        }
    }
}
