//! runsc's exit statuses, exactly.
//!
//! runsc's processes end with code 128 + n when the container's process was ended by signal n, which is what a process
//! that itself gives that code looks like too. Its log tells the two apart, so the sandbox process gets a fifo to log
//! to, of which the end is kept: what the container makes it log costs no memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::reactor::{Next, Source};
use crate::reaper::Status;

/// Bytes of the log's end that are kept.
const KEPT: usize = 8 << 10;
const PIECE: usize = 16 << 10;
/// Pieces taken when the process has ended; a fifo holds fewer.
const LAST_PIECES: usize = 64;

/// The reading end of the log.
pub struct ExitLog {
    fifo: File,
    end: Mutex<VecDeque<u8>>,
}

impl ExitLog {
    /// Makes the fifo.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)?;
        // Open for both, so that neither side waits for the other.
        let fifo = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        Ok(Self {
            fifo,
            end: Mutex::default(),
        })
    }

    /// How the container's first process ended, as far as the log says. `status` is how runsc itself did.
    pub fn status(&self, status: Status) -> Status {
        for _ in 0..LAST_PIECES {
            if !self.take() {
                break;
            }
        }
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = end.iter().copied().collect();
        first_process(&String::from_utf8_lossy(&bytes)).unwrap_or(status)
    }

    fn take(&self) -> bool {
        let mut piece = [0; PIECE];
        match (&self.fifo).read(&mut piece) {
            Ok(count) if count > 0 => {
                let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
                end.extend(&piece[..count]);
                let excess = end.len().saturating_sub(KEPT);
                end.drain(..excess);
                true
            }
            _ => false,
        }
    }
}

impl Source for ExitLog {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }

    fn ready(&self) -> Next {
        self.take();
        Next::Keep
    }
}

/// What the sandbox process says of the container's first process.
fn first_process(log: &str) -> Option<Status> {
    let (_, words) = log
        .lines()
        .rev()
        .find_map(|line| line.split_once("application exiting with "))?;
    if let Some(code) = words.strip_prefix("exit status ") {
        return code.trim().parse().ok().map(Status::Code);
    }
    let signal = words.strip_prefix("killed by signal ")?;
    signal.split_whitespace().next()?.parse().ok().map(Status::Signal)
}

/// What `runsc exec` with process number `pid` says in its log of the process that it waited for: its wait status.
pub fn further_process(log: &str, pid: u32) -> Option<Status> {
    let pid = pid.to_string();
    let own = |line: &&str| line.split_whitespace().nth(2) == Some(&pid);
    let (_, number) = log
        .lines()
        .filter(own)
        .find_map(|line| line.split_once("Exiting with status: "))?;
    let raw: i32 = number.trim().parse().ok()?;
    Some(match libc::WIFSIGNALED(raw) {
        true => Status::Signal(libc::WTERMSIG(raw)),
        false => Status::Code(libc::WEXITSTATUS(raw)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_signals_are_told_apart() {
        let log = |words: &str| format!("I1 boot.go:1] x\nI1 boot.go:389] application exiting with {words}\nlast\n");
        assert_eq!(first_process(&log("exit status 137")), Some(Status::Code(137)));
        assert_eq!(first_process(&log("killed by signal 9")), Some(Status::Signal(9)));
        assert_eq!(
            first_process(&log("killed by signal 6 (core dumped)")),
            Some(Status::Signal(6))
        );
        assert_eq!(first_process("nothing of the kind"), None);
        let log = "I1121 12:56:34.2   21120 main.go:266] Exiting with status: 0\n\
                   I1121 12:56:34.3   21127 main.go:266] Exiting with status: 2304\n";
        assert_eq!(further_process(log, 21127), Some(Status::Code(9)));
        assert_eq!(
            further_process(&log.replace("2304", "9"), 21127),
            Some(Status::Signal(9))
        );
        assert_eq!(further_process(log, 1), None);
    }
}
