//! The QEMU machine and its command line.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::streams::Ports;
use crate::process;

/// Benchmarks compare figures between runs and with recorded ones: nothing
/// that changes what the kernel does belongs here.
///
/// The kernel would count ticks of its timer in a busy loop to see whether it works, and panic on a machine that is too
/// busy to emulate them in time.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet reboot=t panic=-1 no_timer_check";

/// An emulated processor with SVM and nested paging.
const CPU: &str = "EPYC,+svm,+npt";

/// All processors share one thread. With a thread each, QEMU 7.2 may go on
/// executing a breakpoint that the kernel has already taken out of its code,
/// for ever; and the kernel patches its code with every virtual machine.
const ACCELERATOR: &str = "tcg,thread=single";

const CONSOLE_LOG: &str = "console.log";
const QEMU_LOG: &str = "qemu.log";
/// How many of the host's last lines explain its death.
const LAST_LINES: usize = 40;

/// What a host with nothing big inside gets.
const LEAST_MEMORY_MIB: u64 = 1024;

/// What QEMU is started with.
pub(super) struct Machine {
    pub(super) kernel: PathBuf,
    pub(super) archive: PathBuf,
    pub(super) disk: Option<PathBuf>,
    pub(super) cpus: u32,
    pub(super) memory_mib: u64,
    pub(super) icount: bool,
}

/// Memory for files of so many bytes: they lie there packed and unpacked while
/// the kernel starts, and its root file system takes half of the memory at most.
pub(super) fn memory_for(payload_bytes: u64) -> u64 {
    LEAST_MEMORY_MIB.max(LEAST_MEMORY_MIB / 2 + 3 * payload_bytes.div_ceil(1 << 20))
}

impl Machine {
    /// The command that runs the machine; it writes its logs to `logs`.
    pub(super) fn command(&self, ports: &Ports, logs: &Path) -> Command {
        let mut command = process::tool("qemu-system-x86_64");
        command
            .args(["-machine", "q35", "-cpu", CPU])
            .args(["-smp", &self.cpus.to_string()])
            .args(["-m", &self.memory_mib.to_string()])
            .args(["-accel", ACCELERATOR])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.archive)
            .args(["-append", KERNEL_COMMAND_LINE])
            .arg("-serial")
            .arg(joined("file:", &logs.join(CONSOLE_LOG)));
        if self.icount {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        // Before the disk: the guest numbers virtio devices in this order, and
        // its init knows the ports by number.
        self.add_ports(&mut command, ports);
        if let Some(disk) = &self.disk {
            command
                .arg("-drive")
                .arg(joined("id=assets,if=none,format=raw,readonly=on,file=", disk))
                .args(["-device", "virtio-blk-pci,drive=assets"]);
        }
        let log = fs::File::create(logs.join(QEMU_LOG));
        command.stdout(Stdio::null());
        command.stderr(log.map_or_else(|_| Stdio::inherit(), Stdio::from));
        command
    }

    fn add_ports(&self, command: &mut Command, ports: &Ports) {
        command.args(["-device", "virtio-serial-pci"]);
        let mut descriptors = Vec::new();
        for (port, stream) in (1..).zip(ports.in_order()) {
            let descriptor = stream.as_raw_fd();
            descriptors.push(descriptor);
            // QEMU truncates what it does not append to, which a pipe refuses.
            command
                .args(["-add-fd", &format!("fd={descriptor},set={port}")])
                .args([
                    "-chardev",
                    &format!("file,id=port{port},append=on,path=/dev/fdset/{port}"),
                ])
                .args(["-device", &format!("virtserialport,nr={port},chardev=port{port}")]);
        }
        process::end_with_this_program(command);
        // SAFETY: between fork and exec the closure calls only fcntl, which is
        // async-signal-safe, and reads a vector that it owns.
        unsafe {
            command.pre_exec(move || {
                for descriptor in &descriptors {
                    if libc::fcntl(*descriptor, libc::F_SETFD, 0) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
    }
}

/// The last lines of the host's console and of QEMU itself.
pub(super) fn last_words(logs: &Path) -> String {
    let read = |name| fs::read(logs.join(name)).unwrap_or_default();
    let qemu = String::from_utf8_lossy(&read(QEMU_LOG)).into_owned();
    let console = String::from_utf8_lossy(&read(CONSOLE_LOG)).replace('\r', "");
    // Each processor feature that TCG lacks has its line at every start.
    let lines: Vec<&str> = qemu
        .lines()
        .filter(|line| !line.contains("TCG doesn't support requested feature"))
        .chain(console.lines())
        .collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

fn joined(option: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(option);
    // QEMU takes a comma for the next option, a doubled one for itself.
    argument.push(path.to_string_lossy().replace(',', ",,"));
    argument
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_grows_with_what_is_inside() {
        assert_eq!(memory_for(0), 1024);
        assert_eq!(memory_for(400 << 20), 512 + 1200);
    }

    #[test]
    fn a_comma_in_a_path_is_no_option() {
        assert_eq!(joined("file:", Path::new("/a,b")), "file:/a,,b");
    }
}
