//! A process's standard streams: pipes, or a terminal.

use std::fs::File;
use std::io::{self, ErrorKind as IoErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use sandbox_core::ConsoleLog;

use crate::reactor::{Next, Source};
use crate::reaper::STREAMS;

/// Bytes taken from an output at a time: it bounds how long one container keeps the others waiting.
const PIECE: usize = 64 << 10;
/// Pieces that may be left when a process has ended: a pipe holds 1 MiB at most, unless root says otherwise.
const LAST_PIECES: usize = 64;

/// Both ends of a process's streams, until it is started.
pub struct Prepared {
    theirs: Theirs,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
}

enum Theirs {
    Pipes {
        input: OwnedFd,
        output: OwnedFd,
    },
    Terminal {
        listener: UnixListener,
        path: PathBuf,
        null: OwnedFd,
    },
}

impl Prepared {
    /// Pipes: standard output and error are one, so that their order is kept. Without `has_input` there is nothing to
    /// read.
    pub fn pipes(has_input: bool, null: &File) -> io::Result<Self> {
        let (output, their_output) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        let (their_input, input) = match has_input {
            true => {
                let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
                rustix::io::ioctl_fionbio(&ours, true)?;
                (theirs, Some(ours))
            }
            false => (null.try_clone()?.into(), None),
        };
        let theirs = Theirs::Pipes {
            input: their_input,
            output: their_output,
        };
        Ok(Self {
            theirs,
            input,
            output: Some(output),
        })
    }

    /// A terminal, which the runtime makes and sends to the socket at `path`.
    pub fn terminal(path: PathBuf, null: &File) -> io::Result<Self> {
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            theirs: Theirs::Terminal {
                listener,
                path,
                null: null.try_clone()?.into(),
            },
            input: None,
            output: None,
        })
    }

    /// What the runtime's command gets as its standard streams.
    pub fn theirs(&self) -> [BorrowedFd<'_>; STREAMS] {
        match &self.theirs {
            Theirs::Pipes { input, output } => [input.as_fd(), output.as_fd(), output.as_fd()],
            Theirs::Terminal { null, .. } => [null.as_fd(); STREAMS],
        }
    }

    /// The socket to send a terminal to.
    pub fn socket(&self) -> Option<&Path> {
        match &self.theirs {
            Theirs::Pipes { .. } => None,
            Theirs::Terminal { path, .. } => Some(path),
        }
    }

    /// Our ends, when the runtime has done its work. Output goes to `log`.
    ///
    /// # Errors
    /// The runtime sent no terminal.
    pub fn finish(self, log: Arc<ConsoleLog>) -> io::Result<(Input, Arc<Output>)> {
        let (input, output) = match self.theirs {
            Theirs::Pipes { .. } => (self.input, self.output),
            Theirs::Terminal { listener, path, .. } => {
                let terminal = receive_terminal(&listener);
                let _ = std::fs::remove_file(path);
                let terminal = terminal?;
                rustix::io::ioctl_fionbio(&terminal, true)?;
                (Some(terminal.try_clone()?), Some(terminal))
            }
        };
        let output = output.ok_or(IoErrorKind::NotFound)?;
        let input = Input(Mutex::new(input));
        Ok((input, Arc::new(Output { output, log })))
    }
}

/// How long a runtime that has ended may have its terminal on the way.
const ON_THE_WAY: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    let mut ready = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut ready, Some(&ON_THE_WAY))?;
    let (connection, _) = listener.accept()?;
    connection.set_nonblocking(false)?;
    connection.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
    crate::reaper::receive_descriptor(&connection)
}

/// Where a process's input is written.
pub struct Input(Mutex<Option<OwnedFd>>);

impl Input {
    /// Writes as much as there is room for; nothing at all ends the input.
    ///
    /// # Errors
    /// There is no input, or it has ended.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let input = slot.as_ref().ok_or(IoErrorKind::BrokenPipe)?;
        if bytes.is_empty() {
            *slot = None;
            return Ok(0);
        }
        match rustix::io::write(input, bytes) {
            Ok(written) => Ok(written),
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is one.
    pub fn is_open(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Ends it.
    pub fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Where a process's output comes from, on its way to a log.
pub struct Output {
    output: OwnedFd,
    log: Arc<ConsoleLog>,
}

impl Output {
    /// Takes one piece; false when there is none now.
    fn take(&self, buffer: &mut [u8]) -> io::Result<bool> {
        match rustix::io::read(&self.output, &mut *buffer) {
            Ok(0) => Err(IoErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.log.append(&buffer[..count]);
                Ok(true)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            // A terminal whose other end is closed.
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what the process left.
    pub fn drain(&self) {
        let mut buffer = vec![0; PIECE];
        for _ in 0..LAST_PIECES {
            if !matches!(self.take(&mut buffer), Ok(true)) {
                return;
            }
        }
    }
}

impl Source for Output {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    fn ready(&self) -> Next {
        let mut buffer = vec![0; PIECE];
        match self.take(&mut buffer) {
            Ok(_) => Next::Keep,
            Err(_) => Next::Remove,
        }
    }
}
