//! The streams between the emulated host and this program.

use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};

use crate::process;

/// What the host says on its control port.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// The command ended with this status.
    Exited(u8),
    /// Everything that the command left has been passed on.
    Done,
}

/// The ends that QEMU writes to.
pub(super) struct Ports {
    stdout: PipeWriter,
    stderr: PipeWriter,
    control: PipeWriter,
    out: PipeWriter,
}

impl Ports {
    /// The ports in the order of their numbers, the first of which is 1.
    pub(super) fn in_order(&self) -> [&PipeWriter; 4] {
        [&self.stdout, &self.stderr, &self.control, &self.out]
    }
}

/// The ends that this program reads from.
pub(super) struct Streams {
    copies: [JoinHandle<io::Result<()>>; 2],
    control: Receiver<Control>,
    control_reader: JoinHandle<()>,
    unpacking: Option<Child>,
}

impl Streams {
    /// Opens the four streams; `/out` of the host is unpacked into `out`.
    pub(super) fn open(
        stdout: impl Write + Send + 'static,
        stderr: impl Write + Send + 'static,
        out: Option<&Path>,
    ) -> Result<(Self, Ports)> {
        let (stdout_reader, stdout_port) = io::pipe()?;
        let (stderr_reader, stderr_port) = io::pipe()?;
        let (control_reader, control_port) = io::pipe()?;
        let (out_reader, out_port) = io::pipe()?;
        let (sender, control) = mpsc::channel();
        let streams = Self {
            copies: [
                thread::spawn(move || copy(stdout_reader, stdout)),
                thread::spawn(move || copy(stderr_reader, stderr)),
            ],
            control,
            control_reader: thread::spawn(move || {
                for line in BufReader::new(control_reader).lines().map_while(Result::ok) {
                    if let Some(message) = parse(&line)
                        && sender.send(message).is_err()
                    {
                        return;
                    }
                }
            }),
            unpacking: out.map(|folder| unpack(out_reader, folder)).transpose()?,
        };
        let ports = Ports {
            stdout: stdout_port,
            stderr: stderr_port,
            control: control_port,
            out: out_port,
        };
        Ok((streams, ports))
    }

    /// The host's messages; disconnected once the host is gone.
    pub(super) fn control(&self) -> &Receiver<Control> {
        &self.control
    }

    /// Waits until all that the host wrote has been passed on.
    pub(super) fn finish(self) -> Result<()> {
        let Self {
            copies,
            control_reader,
            unpacking,
            ..
        } = self;
        for copy in copies {
            match copy.join() {
                Ok(result) => result.context("cannot pass on the command's output")?,
                Err(_) => bail!("the thread that passes on the command's output failed"),
            }
        }
        if control_reader.join().is_err() {
            bail!("the thread that reads the host's messages failed");
        }
        if let Some(mut tar) = unpacking {
            let status = tar.wait()?;
            if !status.success() {
                bail!("unpacking the host's /out ended with {status}");
            }
        }
        Ok(())
    }
}

/// Copies without holding anything back, unlike `io::copy` into a buffer.
fn copy(mut from: PipeReader, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..length])?;
        to.flush()?;
    }
}

fn unpack(archive: PipeReader, folder: &Path) -> Result<Child> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    process::tool("tar")
        .args(["-x", "--no-same-owner", "-C"])
        .arg(folder)
        .stdin(Stdio::from(archive))
        .spawn()
        .context("cannot run tar")
}

fn parse(line: &str) -> Option<Control> {
    match line.split_once(' ') {
        Some(("exit", status)) => status.parse().ok().map(Control::Exited),
        None if line == "done" => Some(Control::Done),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_lines_are_understood() {
        assert_eq!(parse("exit 0"), Some(Control::Exited(0)));
        assert_eq!(parse("exit 137"), Some(Control::Exited(137)));
        assert_eq!(parse("done"), Some(Control::Done));
        assert_eq!(parse("started"), None);
        assert_eq!(parse("exit many"), None);
    }
}
