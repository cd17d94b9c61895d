//! The backends, and guests that do the same on each.

use std::path::Path;
use std::time::Duration;

use sandbox::spec::{Isolation, MountSpec, ReadyCheck};
use sandbox::{Exit, Sandbox, SandboxSpec};

use crate::support::container::{self, script};
use crate::support::linux::{Assets, CLOUD, LINUX_PATIENCE};
use crate::support::{PATIENCE, bare, console_text, created};

/// A guest, and what has to happen on its console until it does what it is for.
pub struct Guest {
    pub spec: SandboxSpec,
    /// Waited for first.
    prompt: Option<&'static str>,
    /// Typed then.
    typed: &'static str,
}

impl Guest {
    fn new(spec: SandboxSpec) -> Self {
        Self {
            spec,
            prompt: None,
            typed: "",
        }
    }

    /// Made, started, and doing what it is for.
    pub fn start(&self, subject: &dyn Subject) -> Box<dyn Sandbox> {
        let sandbox = created(&self.spec);
        sandbox.start().unwrap();
        if let Some(prompt) = self.prompt {
            let found = sandbox.console().wait_for(prompt.as_bytes(), 0, subject.patience());
            assert!(found.is_some(), "no {prompt:?} in: {}", console_text(&*sandbox));
        }
        if !self.typed.is_empty() {
            assert_eq!(sandbox.console_write(self.typed.as_bytes()).unwrap(), self.typed.len());
        }
        sandbox
    }
}

/// A backend with guests for it. Those that it has no guest for are `None`.
pub trait Subject: Sync {
    /// Whether it works on this host. Where not, says that the test was skipped.
    fn is_here(&self) -> bool;

    /// Longer than anything takes.
    fn patience(&self) -> Duration {
        PATIENCE
    }

    /// How many are started at once.
    fn crowd(&self) -> usize {
        50
    }

    /// Writes [`Subject::word`] and ends well.
    fn speaker(&self) -> SandboxSpec;

    /// What the speaker says.
    fn word(&self) -> &'static str;

    /// How the speaker ends.
    fn well(&self) -> Exit;

    /// Guests, and how they end.
    fn ends(&self) -> Vec<(SandboxSpec, Exit)>;

    /// Does nothing, for ever.
    fn idler(&self) -> Guest;

    /// Writes without end.
    fn writer(&self) -> Guest;

    /// Runs without end.
    fn runner(&self) -> Guest;

    /// Answers the first line with the second.
    fn listener(&self) -> (Guest, &'static str, &'static str);

    /// Takes more memory than it has.
    fn hog(&self) -> Option<SandboxSpec>;

    /// Starts 64 processes; its code is 0 if it could.
    fn breeder(&self) -> Option<SandboxSpec>;

    /// Read from a disk of the host, more than they may in the time that they are given, and tell of each MiB.
    fn readers(&self) -> Option<Vec<SandboxSpec>> {
        None
    }

    /// Write to a disk of the host, at this folder, in every way, as much and as talkative.
    fn writers(&self, _folder: &Path) -> Option<Vec<SandboxSpec>> {
        None
    }

    /// Counts, each number on a line behind a word that no other has.
    fn counter(&self) -> Option<Guest>;

    /// The counter's word and next number.
    fn tick(&self, sandbox: &dyn Sandbox) -> (String, u64) {
        next_tick(sandbox)
    }
}

/// The next whole line `tick WORD NUMBER`.
fn next_tick(sandbox: &dyn Sandbox) -> (String, u64) {
    let console = sandbox.console();
    let begin = console.read_from(u64::MAX).end();
    // The end of the line that is being written, then a whole one.
    let first = console.wait_for(b"\n", begin, PATIENCE).expect("it does not count");
    let second = console.wait_for(b"\n", first, PATIENCE).expect("it does not count");
    let bytes = console.read_from(first).bytes;
    let line = String::from_utf8_lossy(&bytes[..(second - first) as usize]).into_owned();
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, word, number] = words[..] else {
        panic!("{line:?} is no tick")
    };
    (word.to_owned(), number.parse().unwrap())
}

/// The project's own guests in a micro-VM of this home.
pub struct Own(pub Isolation);

impl Own {
    fn bare(&self, name: &str, arguments: &[&str]) -> SandboxSpec {
        SandboxSpec {
            isolation: self.0,
            ..bare(name, arguments)
        }
    }
}

impl Subject for Own {
    fn is_here(&self) -> bool {
        true
    }

    fn speaker(&self) -> SandboxSpec {
        self.bare("hello", &[])
    }

    fn word(&self) -> &'static str {
        "hello"
    }

    fn well(&self) -> Exit {
        Exit::Code(0)
    }

    fn ends(&self) -> Vec<(SandboxSpec, Exit)> {
        let ends = |words: &[&str], exit| (self.bare("endings", words), exit);
        vec![
            ends(&["end=exit"], Exit::Code(0)),
            ends(&["end=exit", "exit=42"], Exit::Code(42)),
            ends(&["end=exit", "exit=137"], Exit::Code(137)),
            ends(&["end=power-off"], Exit::PowerOff),
            ends(&["end=reset"], Exit::Reset),
        ]
    }

    fn idler(&self) -> Guest {
        Guest::new(self.bare("endings", &["end=halt"]))
    }

    fn writer(&self) -> Guest {
        Guest::new(self.bare("endings", &["end=flood"]))
    }

    fn runner(&self) -> Guest {
        Guest::new(self.bare("endings", &["end=spin"]))
    }

    fn listener(&self) -> (Guest, &'static str, &'static str) {
        (
            Guest::new(self.bare("endings", &["end=echo"])),
            "good morning\n",
            "GOOD MORNING",
        )
    }

    fn hog(&self) -> Option<SandboxSpec> {
        None
    }

    fn breeder(&self) -> Option<SandboxSpec> {
        None
    }

    fn counter(&self) -> Option<Guest> {
        let mut spec = self.bare("clone-check", &[]);
        spec.ready = Some(ReadyCheck::BootPort);
        Some(Guest::new(spec))
    }

    fn tick(&self, sandbox: &dyn Sandbox) -> (String, u64) {
        sandbox.wait_ready(PATIENCE).unwrap();
        let console = sandbox.console();
        let from = console.read_from(u64::MAX).end();
        sandbox.console_write(b"\n").unwrap();
        let end = console.wait_for(b"\n", from, PATIENCE);
        let line = String::from_utf8(console.read_from(from).bytes).unwrap();
        assert!(end.is_some(), "no answer: {line}");
        let field = |name: &str| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            value.unwrap().to_owned()
        };
        (field("nonce="), field("line=").parse().unwrap())
    }
}

/// Stock Debian Linux in a micro-VM.
pub struct Linux;

impl Linux {
    fn assets() -> Assets {
        Assets::find().expect("its guests are asked for where it is not")
    }

    fn shell(command: &'static str) -> Guest {
        Guest {
            spec: Self::assets().shell(CLOUD, ""),
            prompt: Some("SANDBOX-SHELL-READY"),
            typed: command,
        }
    }
}

impl Subject for Linux {
    fn is_here(&self) -> bool {
        Assets::find().is_some()
    }

    fn patience(&self) -> Duration {
        LINUX_PATIENCE
    }

    fn crowd(&self) -> usize {
        4
    }

    fn speaker(&self) -> SandboxSpec {
        Self::assets().marker("sandbox.end=power-off")
    }

    fn word(&self) -> &'static str {
        "SANDBOX-INIT"
    }

    fn well(&self) -> Exit {
        Exit::PowerOff
    }

    fn ends(&self) -> Vec<(SandboxSpec, Exit)> {
        let ends = |words: &str, exit| (Self::assets().marker(words), exit);
        vec![
            ends("sandbox.end=power-off", Exit::PowerOff),
            ends("sandbox.end=reset", Exit::Reset),
        ]
    }

    fn idler(&self) -> Guest {
        Self::shell("")
    }

    fn writer(&self) -> Guest {
        Self::shell("while true; do echo on and on; done\n")
    }

    fn runner(&self) -> Guest {
        Self::shell("while true; do :; done\n")
    }

    fn listener(&self) -> (Guest, &'static str, &'static str) {
        (Self::shell(""), "echo GOOD-$((3 * 14))\n", "GOOD-42")
    }

    fn hog(&self) -> Option<SandboxSpec> {
        None
    }

    fn breeder(&self) -> Option<SandboxSpec> {
        None
    }

    fn counter(&self) -> Option<Guest> {
        let counting = "word=$(cat /proc/sys/kernel/random/uuid); i=0; \
                        while true; do i=$((i + 1)); echo tick $word $i; sleep 0.1; done\n";
        Some(Self::shell(counting))
    }
}

/// A container of an OCI runtime.
pub struct Oci(pub &'static str);

impl Oci {
    fn script(&self, text: &str) -> SandboxSpec {
        script(self.0, text)
    }

    /// Copies 40 times a MiB from or to a disk, and tells of each.
    fn copier(&self, disk: &Path, read_only: bool, words: &str) -> SandboxSpec {
        let mut spec = self.script(&format!(
            "i=0; while [ $i -lt 40 ]; do dd bs=1M count=1 {words} status=none || exit; i=$((i + 1)); echo MiB; done; \
             sleep 1000000"
        ));
        container::guest(&mut spec).mounts = vec![MountSpec {
            source: disk.to_owned(),
            destination: "/tmp/disk".into(),
            read_only,
        }];
        spec
    }
}

impl Subject for Oci {
    fn is_here(&self) -> bool {
        container::is_usable(self.0)
    }

    fn speaker(&self) -> SandboxSpec {
        self.script("echo hello")
    }

    fn word(&self) -> &'static str {
        "hello"
    }

    fn well(&self) -> Exit {
        Exit::Code(0)
    }

    fn ends(&self) -> Vec<(SandboxSpec, Exit)> {
        let ends = |text: &str, exit| (self.script(text), exit);
        vec![
            ends("exit 0", Exit::Code(0)),
            ends("exit 42", Exit::Code(42)),
            ends("exit 137", Exit::Code(137)),
            ends("exit 255", Exit::Code(255)),
            // A code above 128 is what a shell makes of a child's signal.
            ends("sh -c 'kill -9 $$'; exit $?", Exit::Code(137)),
        ]
    }

    fn idler(&self) -> Guest {
        Guest::new(container::container(self.0, &["/bin/sleep", "1000000"]))
    }

    fn writer(&self) -> Guest {
        Guest::new(self.script("while true; do echo on and on and on; done"))
    }

    fn runner(&self) -> Guest {
        Guest::new(self.script("while true; do :; done"))
    }

    fn listener(&self) -> (Guest, &'static str, &'static str) {
        let mut spec = self.script("while read line; do echo \"heard $line\"; done");
        container::process(&mut spec).stdin = true;
        (Guest::new(spec), "good morning\n", "heard good morning")
    }

    fn hog(&self) -> Option<SandboxSpec> {
        Some(container::container(
            self.0,
            &["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=512M", "count=1"],
        ))
    }

    fn breeder(&self) -> Option<SandboxSpec> {
        let text = "i=0; while [ $i -lt 64 ]; do sleep 1000 & i=$((i + 1)); done; exit 0";
        Some(self.script(text))
    }

    fn readers(&self) -> Option<Vec<SandboxSpec>> {
        let file = container::file_on_a_disk(self.0);
        Some(vec![self.copier(&file, true, "if=/tmp/disk of=/dev/null skip=$i")])
    }

    fn writers(&self, folder: &Path) -> Option<Vec<SandboxSpec>> {
        // What the kernel writes later, and what is written past its memory. gVisor takes the latter for the former.
        let ways = ["conv=notrunc,fsync", "oflag=direct conv=notrunc"];
        let known = if self.0 == "runsc" { &ways[..1] } else { &ways };
        let words = |way: &str| format!("if=/dev/zero of=/tmp/disk/{} seek=$i {way}", self.0);
        let copiers = known.iter().map(|way| self.copier(folder, false, &words(way)));
        Some(copiers.collect())
    }

    fn counter(&self) -> Option<Guest> {
        let text = "word=$(head -c 9 /dev/urandom | base64); i=0; \
                    while true; do i=$((i + 1)); echo tick $word $i; sleep 0.05; done";
        Some(Guest::new(self.script(text)))
    }
}
