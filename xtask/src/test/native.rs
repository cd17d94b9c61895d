//! Running a test program on this machine, with a limit of time.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

/// What a program left.
pub(super) struct Finished {
    /// Its exit status, or nothing if it was killed for taking too long.
    pub(super) status: Option<ExitStatus>,
    /// Standard output and errors, interleaved as they were written.
    pub(super) output: String,
}

/// Runs a command in a process group of its own, whose processes all end with
/// it: what a failed test leaves running must not disturb the next one.
pub(super) fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let (mut reader, writer) = io::pipe()?;
    process::end_with_this_program(command);
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    // The command keeps the pipe's writing ends, and while one is open the
    // reader does not see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let leader = child.id();
    let copy = thread::spawn(move || {
        let mut output = Vec::new();
        reader.read_to_end(&mut output).map(|_| output)
    });
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        // Once the time is up nobody listens any more.
        let _ = sender.send(await_end(leader));
    });
    let in_time = match ended.recv_timeout(limit) {
        Ok(result) => result.map(|()| true)?,
        Err(_) => false,
    };
    kill_group(leader)?;
    let status = child.wait()?;
    let Ok(output) = copy.join() else {
        bail!("the thread that reads the program's output failed");
    };
    Ok(Finished {
        status: in_time.then_some(status),
        output: String::from_utf8_lossy(&output?).into_owned(),
    })
}

/// Waits for a process to end, but leaves it to be waited for: until then its
/// number cannot become that of another process group.
fn await_end(process: u32) -> io::Result<()> {
    loop {
        // SAFETY: all of siginfo_t is integers and pointers nobody follows.
        let mut information: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `information` is a siginfo_t that outlives the call.
        let answer = unsafe { libc::waitid(libc::P_PID, process, &mut information, libc::WEXITED | libc::WNOWAIT) };
        if answer == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn kill_group(leader: u32) -> Result<()> {
    let group = i32::try_from(leader).context("a process number does not fit")?;
    // SAFETY: kill touches no memory; the group's leader is not yet waited for.
    if unsafe { libc::kill(-group, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot end a test's processes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = process::tool("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_those_of_the_program() {
        let finished = run(&mut shell("echo out; echo err >&2; exit 3"), LONG).unwrap();
        assert_eq!(finished.output, "out\nerr\n");
        assert_eq!(finished.status.and_then(|status| status.code()), Some(3));
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed() {
        let finished = run(&mut shell("echo begun; sleep 60"), Duration::from_millis(200)).unwrap();
        assert_eq!(finished.status, None);
    }

    #[test]
    fn what_a_program_leaves_behind_ends_with_it() {
        let begin = Instant::now();
        let finished = run(&mut shell("sleep 60 & echo left"), LONG).unwrap();
        assert_eq!(finished.output, "left\n");
        assert!(finished.status.is_some());
        assert!(begin.elapsed() < LONG / 2, "waited for a left process");
    }
}
