//! Other ways to run the same guest: the bare KVM calls, and QEMU.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::clock::{self, Span};

/// What the floor program says of one round, each from its first call.
pub(crate) struct FloorRound {
    /// To the first entry into the guest.
    pub(crate) first_entry: Span,
    /// To the guest's first exit.
    pub(crate) first_exit: Span,
    /// To all closed.
    pub(crate) torn_down: Span,
}

/// One round of the floor program on `image`: in one process, or in a jailed one of its own.
pub(crate) fn floor(program: &Path, image: &Path, jailed: bool) -> Result<FloorRound> {
    let output = Command::new(program)
        .args(jailed.then_some("--jailed"))
        .arg(image)
        .arg("1")
        .stderr(Stdio::inherit())
        .output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(output.status.success(), "the floor program failed: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let words: Vec<&str> = text.split_whitespace().collect();
    let span = |name: &str| -> Result<Span> {
        let index = words.iter().position(|word| *word == name);
        let values = index.and_then(|index| words.get(index + 1..index + 3));
        let [real, cpu] = values.context("the floor program's line is cut short")? else {
            bail!("the floor program's line is cut short");
        };
        Ok(Span {
            real: real.parse()?,
            cpu: cpu.parse()?,
        })
    };
    Ok(FloorRound {
        first_entry: span("entry")?,
        first_exit: span("exit")?,
        torn_down: span("closed")?,
    })
}

/// A QEMU microvm on KVM, without anything that the guest does not use.
pub(crate) fn qemu_microvm(qemu: &Path) -> Command {
    let mut command = Command::new(qemu);
    command
        .args([
            "-M",
            "microvm,pic=on,pit=on,rtc=on,x-option-roms=off,isa-serial=on,acpi=off",
        ])
        .args(["-accel", "kvm", "-cpu", "host", "-m", "128", "-smp", "1"])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
        ])
        .stdin(Stdio::null());
    command
}

/// Runs `command` to its end; its exit code, what it printed, and its time from before the start until it was reaped.
pub(crate) fn run(mut command: Command) -> Result<(String, Span)> {
    let before = clock::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    let mut text = String::new();
    if let Some(mut output) = child.stdout.take() {
        std::io::Read::read_to_string(&mut output, &mut text)?;
    }
    let cpu = clock::reap(child)?;
    let real = clock::now().since(before).real;
    Ok((text, Span { real, cpu }))
}
