//! Running another program: what it gets, what it says, and how long it may take.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::NetError;

/// Most bytes that are kept of what a program writes. It bounds the memory that a program gone mad can take.
const MAX_OUTPUT: u64 = 1 << 20;

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Output {
    /// What to tell of a failure: the end, and the first lines that it wrote on standard error.
    pub(crate) fn complaint(&self) -> String {
        let said = String::from_utf8_lossy(&self.stderr);
        let said: Vec<&str> = said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .take(4)
            .collect();
        let end = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("ended with status {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        match said.is_empty() {
            true => end,
            false => format!("{end}: {}", said.join(" ")),
        }
    }
}

/// Runs `command` with `input`, and kills it with its whole process group when `deadline` is over.
pub(crate) fn run(mut command: Command, input: &[u8], deadline: Duration) -> Result<Output, NetError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |reason: String| NetError::CommandFailed {
        program: program.clone(),
        reason,
    };
    let no_memory = |error: io::Error| failed(format!("cannot be given a place for its input and output: {error}"));
    let mut given = memory("input", input.len() as u64).map_err(no_memory)?;
    given
        .write_all(input)
        .and_then(|()| given.rewind())
        .map_err(no_memory)?;
    let (stdout, stderr) = (memory("output", MAX_OUTPUT), memory("errors", MAX_OUTPUT));
    let (mut stdout, mut stderr) = (stdout.map_err(no_memory)?, stderr.map_err(no_memory)?);
    command
        .stdin(given)
        .stdout(stdout.try_clone().map_err(no_memory)?)
        .stderr(stderr.try_clone().map_err(no_memory)?)
        .process_group(0);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NetError::CommandMissing {
            program: program.clone(),
            remedy: "install it, or name the folder it is in",
        },
        _ => failed(format!("cannot be run: {error}")),
    })?;
    let in_time = ends_within(&child, deadline);
    // Before the child is waited for, as nobody else can have its number until then: what it left running must not
    // live on.
    kill_group(&child);
    let status = child.wait();
    match (in_time, status) {
        (Ok(true), Ok(status)) => Ok(Output {
            status,
            stdout: written(&mut stdout).map_err(no_memory)?,
            stderr: written(&mut stderr).map_err(no_memory)?,
        }),
        (Ok(false), Ok(_)) => Err(failed(format!("did not end within {} s", deadline.as_secs()))),
        (Err(error), _) | (_, Err(error)) => Err(failed(format!("cannot be waited for: {error}"))),
    }
}

/// A file in memory of this size, which cannot grow. Nobody has to read it while the program runs, as a pipe, and no
/// process that keeps it open can hold up anybody.
fn memory(name: &str, size: u64) -> io::Result<File> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, size)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(File::from(file))
}

/// What was written so far: as far as the position that all who write share.
fn written(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.stream_position()?.min(MAX_OUTPUT);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn ends_within(child: &Child, deadline: Duration) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    let process: OwnedFd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let end = Instant::now() + deadline;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut poll = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut poll, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn kill_group(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// The program `name` in one of `folders`.
pub(crate) fn find<'a>(name: &OsStr, folders: impl Iterator<Item = &'a Path>) -> Option<PathBuf> {
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn input_goes_in_and_both_outputs_and_the_status_come_out() {
        let output = run(shell("cat; echo complaint >&2; exit 3"), b"input", PATIENCE).unwrap();
        assert_eq!(output.stdout, b"input");
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.complaint(), "ended with status 3: complaint");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_with_what_it_started() {
        let error = run(shell("sleep 1000 & sleep 1000"), b"", Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }

    #[test]
    fn a_child_that_keeps_the_output_open_holds_up_nobody() {
        let output = run(shell("sleep 1000 & echo done"), b"", PATIENCE).unwrap();
        assert_eq!(output.stdout, b"done\n");
    }

    #[test]
    fn output_without_end_is_cut_off() {
        let output = run(
            shell("while echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx 2>&-; do :; done"),
            b"",
            PATIENCE,
        )
        .unwrap();
        assert!(output.stdout.len() as u64 <= MAX_OUTPUT);
        assert!(output.stdout.len() as u64 > MAX_OUTPUT / 2);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(Command::new("/no/such/program"), b"", PATIENCE).unwrap_err();
        assert!(
            matches!(&error, NetError::CommandMissing { program, .. } if program == "/no/such/program"),
            "{error}"
        );
    }
}
