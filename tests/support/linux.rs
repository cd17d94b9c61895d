//! Stock Linux guests for tests: their specs, and a shell on their console.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandbox::spec::{BootProtocol, DiskSpec, GuestSpec, LinuxGuest};
use sandbox::{ConsoleLog, Exit, Sandbox, SandboxSpec};

use super::{assets, console_text, has_complete_kvm, mask_extended_state, started};

/// Longer than a stock kernel boots on a machine that emulates another one and is busy besides.
pub const LINUX_PATIENCE: Duration = Duration::from_secs(240);

/// A stock kernel, and how it is entered.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Debian's name of it.
    pub flavour: &'static str,
    /// Its form.
    pub file: &'static str,
    pub protocol: BootProtocol,
}

/// The kernel that has everything, most of it in modules.
pub const GENERIC: Kernel = Kernel {
    flavour: "generic",
    file: "vmlinuz",
    protocol: BootProtocol::Linux64,
};

/// The kernel of tests that are not about kernels.
pub const CLOUD: Kernel = Kernel {
    flavour: "cloud",
    file: "vmlinux",
    protocol: BootProtocol::Linux64,
};

/// What there is to boot, or `None` where Linux does not run: then the test is skipped.
#[derive(Clone)]
pub struct Assets(PathBuf);

impl Assets {
    pub fn find() -> Option<Self> {
        match has_complete_kvm() {
            true => assets().map(Self),
            false => None,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        assert!(path.is_file(), "there is no {}", path.display());
        path
    }

    /// What `uname -r` says of a kernel.
    pub fn release(&self, kernel: Kernel) -> String {
        let release = fs::read_to_string(self.path(&format!("{}/release", kernel.flavour))).unwrap();
        release.trim().to_owned()
    }

    /// A guest that runs a shell from the read-only root disk; `words` are added to its command line.
    pub fn shell(&self, kernel: Kernel, words: &str) -> SandboxSpec {
        let initrd = format!("boot-{}.cpio.gz", kernel.flavour);
        let mut spec = self.linux(kernel, &initrd, &format!("root=/dev/vda {words}"));
        spec.disks = vec![DiskSpec {
            id: "root".to_owned(),
            path: self.path("root.ext4"),
            read_only: true,
            ..DiskSpec::default()
        }];
        spec
    }

    /// A guest whose init prints a line and ends the machine as `words` say.
    pub fn marker(&self, words: &str) -> SandboxSpec {
        self.linux(CLOUD, "marker.cpio", words)
    }

    fn linux(&self, kernel: Kernel, initrd: &str, words: &str) -> SandboxSpec {
        let mut spec = SandboxSpec::new(GuestSpec::Linux(LinuxGuest {
            kernel: self.path(&format!("{}/{}", kernel.flavour, kernel.file)),
            initrd: Some(self.path(initrd)),
            cmdline: format!("console=ttyS0 quiet reboot=k panic=-1 {words}"),
            protocol: kernel.protocol,
        }));
        spec.isolation = super::HOME;
        spec.memory = 256 << 20;
        mask_extended_state(&mut spec);
        spec
    }
}

/// A Linux guest whose console is a shell.
pub struct Shell {
    pub sandbox: Box<dyn Sandbox>,
}

/// What the guest prints behind the output of each command.
const STATUS: &str = "SANDBOX-STATUS ";

impl Shell {
    /// Boots `spec` until the shell takes commands.
    pub fn boot(spec: &SandboxSpec) -> Self {
        let sandbox = started(spec);
        let ready = sandbox.console().wait_for(b"SANDBOX-SHELL-READY", 0, LINUX_PATIENCE);
        let exit = sandbox.wait(Some(Duration::ZERO)).ok();
        assert!(
            ready.is_some() && exit.is_none(),
            "{exit:?}, console: {}",
            console_text(&*sandbox)
        );
        Self { sandbox }
    }

    /// Runs a command, which must succeed, and gives its output.
    pub fn run(&self, command: &str) -> String {
        let (status, output) = self.try_run(command);
        assert_eq!(status, 0, "{command}: {output}");
        output
    }

    /// Runs a command and gives its exit status and output.
    pub fn try_run(&self, command: &str) -> (i32, String) {
        self.begin(command).end()
    }

    /// Begins a command, whose end must be awaited before the next one.
    pub fn begin(&self, command: &str) -> Command<'_> {
        let console = self.sandbox.console();
        let from = console.read_from(u64::MAX).end();
        self.type_line(command);
        Command {
            console,
            from,
            shell: self,
        }
    }

    fn type_line(&self, line: &str) {
        let line = format!("{line}\n");
        assert_eq!(self.sandbox.console_write(line.as_bytes()).unwrap(), line.len());
    }

    /// What the kernel warned of up to the start of the shell.
    pub fn warnings(&self) -> Vec<String> {
        let text = console_text(&*self.sandbox).replace('\r', "");
        let (_, rest) = text.split_once("SANDBOX-WARNINGS-BEGIN\n").unwrap();
        let (warnings, _) = rest.split_once("SANDBOX-WARNINGS-END").unwrap();
        warnings.lines().map(str::to_owned).collect()
    }

    /// The number that the guest's init says behind `name`.
    pub fn number(&self, name: &str) -> u64 {
        let text = console_text(&*self.sandbox);
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    }

    /// Powers off, which the machine must see.
    pub fn power_off(self) {
        self.type_line("poweroff -f");
        let exit = self.sandbox.wait(Some(LINUX_PATIENCE)).unwrap();
        assert_eq!(exit, Exit::PowerOff, "{}", self.sandbox.console().tail(20));
    }
}

/// A command that runs.
pub struct Command<'a> {
    console: Arc<ConsoleLog>,
    /// Where its output begins.
    from: u64,
    shell: &'a Shell,
}

impl Command<'_> {
    /// Waits for this text in its output.
    pub fn await_output(&self, text: &str) {
        let found = self.console.wait_for(text.as_bytes(), self.from, LINUX_PATIENCE);
        assert!(
            found.is_some(),
            "no {text:?} in: {}",
            console_text(&*self.shell.sandbox)
        );
    }

    /// Waits for its end and gives its exit status and output.
    pub fn end(self) -> (i32, String) {
        self.await_output(STATUS);
        let status = self
            .console
            .wait_for(STATUS.as_bytes(), self.from, Duration::ZERO)
            .unwrap();
        self.console.wait_for(b"\n", status, LINUX_PATIENCE).expect("no status");
        let text = String::from_utf8(self.console.read_from(self.from).bytes).unwrap();
        let text = text.replace('\r', "");
        let (output, status) = text.rsplit_once(STATUS).unwrap();
        (status.trim().parse().unwrap(), output.trim().to_owned())
    }
}

/// A private, writable copy of a disk image.
pub fn copy_of(image: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join(image.file_name().unwrap());
    fs::copy(image, &copy).unwrap();
    copy
}
