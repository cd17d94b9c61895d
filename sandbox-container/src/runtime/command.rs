//! The words of each runtime's commands.

use std::path::{Path, PathBuf};

use super::{Kind, OciRuntime};

/// What stands before every command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The runtime's folder of states, the sandbox's own.
    pub root: PathBuf,
    /// Where it writes what went wrong.
    pub log: PathBuf,
    /// runsc: the platform, its own choice if left out.
    pub platform: Option<String>,
    /// runsc: the container's network is the network namespace that it was given, instead of none.
    pub has_network: bool,
    /// runsc: a fifo that its sandbox process tells the exit status to.
    pub exit_log: Option<PathBuf>,
}

/// A command about one container.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// Makes the container; its process waits for start.
    Create {
        /// Folder of `config.json`.
        bundle: &'a Path,
        /// File for the number of its first process.
        pid_file: &'a Path,
        /// Unix socket to send the terminal to.
        terminal: Option<&'a Path>,
    },
    /// Runs its process.
    Start,
    /// Stands it still.
    Pause,
    /// Lets it go on.
    Resume,
    /// Sends a signal to its first process.
    Kill(i32),
    /// Kills it if need be, and forgets it.
    Delete,
    /// Says what it uses.
    Stats,
    /// Runs a further process.
    Exec {
        /// A process as in `config.json`.
        process: &'a Path,
        /// File for its number. With one the command ends at once; without, it ends as the process does.
        pid_file: Option<&'a Path>,
        /// Unix socket to send the terminal to.
        terminal: Option<&'a Path>,
    },
    /// Saves it to a folder.
    Checkpoint {
        /// The folder.
        image: &'a Path,
        /// Folder for the logs of what is done.
        work: &'a Path,
        /// Whether it goes on afterwards.
        leave_running: bool,
    },
    /// Makes it from such a folder, running.
    Restore {
        /// The folder.
        image: &'a Path,
        /// Folder for the logs of what is done.
        work: &'a Path,
        /// Folder of `config.json`.
        bundle: &'a Path,
        /// File for the number of its first process.
        pid_file: &'a Path,
        /// Unix socket to send the terminal to.
        terminal: Option<&'a Path>,
    },
}

/// Words of a command line.
struct Words(Vec<PathBuf>);

impl Words {
    fn add(&mut self, word: impl Into<PathBuf>) -> &mut Self {
        self.0.push(word.into());
        self
    }

    fn pair(&mut self, name: &str, value: &Path) -> &mut Self {
        self.add(name).add(value)
    }

    fn maybe(&mut self, name: &str, value: Option<&Path>) -> &mut Self {
        match value {
            Some(value) => self.pair(name, value),
            None => self,
        }
    }
}

impl OciRuntime {
    /// The whole command line for `command` about the container `id`.
    pub fn words(&self, flags: &Flags, command: Command<'_>, id: &str) -> Vec<PathBuf> {
        let mut words = Words(vec![self.program.clone()]);
        self.add_flags(&mut words, flags);
        match command {
            Command::Create {
                bundle,
                pid_file,
                terminal,
            } => {
                words.add("create").pair("--bundle", bundle);
                words.pair("--pid-file", pid_file).maybe("--console-socket", terminal);
                words.add(id);
            }
            Command::Start => drop(words.add("start").add(id)),
            Command::Pause => drop(words.add("pause").add(id)),
            Command::Resume => drop(words.add("resume").add(id)),
            Command::Kill(signal) => drop(words.add("kill").add(id).add(signal.to_string())),
            Command::Delete => drop(words.add("delete").add("--force").add(id)),
            Command::Stats => drop(words.add("events").add("--stats").add(id)),
            Command::Exec {
                process,
                pid_file,
                terminal,
            } => {
                words.add("exec").pair("--process", process);
                if let Some(pid_file) = pid_file {
                    words.add("--detach").pair("--pid-file", pid_file);
                }
                words.maybe("--console-socket", terminal).add(id);
            }
            Command::Checkpoint {
                image,
                work,
                leave_running,
            } => {
                words.add("checkpoint").pair("--image-path", image);
                words.pair("--work-path", work);
                self.add_criu_flags(&mut words, flags);
                if leave_running {
                    words.add("--leave-running");
                }
                words.add(id);
            }
            Command::Restore {
                image,
                work,
                bundle,
                pid_file,
                terminal,
            } => {
                words.add("restore").add("--detach").pair("--image-path", image);
                words.pair("--work-path", work).pair("--bundle", bundle);
                self.add_criu_flags(&mut words, flags);
                words.pair("--pid-file", pid_file).maybe("--console-socket", terminal);
                words.add(id);
            }
        }
        words.0
    }

    /// A network namespace that the runtime made is made anew, and what is in it is not CRIU's to save.
    fn add_criu_flags(&self, words: &mut Words, flags: &Flags) {
        if self.kind != Kind::Runc {
            return;
        }
        words.add("--file-locks");
        if !flags.has_network {
            words.add("--empty-ns").add("network");
        }
    }

    fn add_flags(&self, words: &mut Words, flags: &Flags) {
        words.pair("--root", &flags.root).pair("--log", &flags.log);
        words.add("--log-format").add("json");
        if self.kind != Kind::Runsc {
            return;
        }
        // The SDK makes the cgroup and starts the runtime in it, so that the limits hold for gVisor's own processes too.
        words.add("--ignore-cgroups");
        words.add(match flags.has_network {
            true => "--network=sandbox",
            false => "--network=none",
        });
        if let Some(platform) = &flags.platform {
            words.add(format!("--platform={platform}"));
        }
        if let Some(log) = &flags.exit_log {
            words.pair("--debug-log", log);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: Kind, flags: &Flags, command: Command<'_>) -> String {
        let runtime = OciRuntime {
            kind,
            program: PathBuf::from("/r"),
            version: String::new(),
        };
        let words = runtime.words(flags, command, "box");
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn each_runtime_gets_its_own_words() {
        let mut flags = Flags {
            root: "/s".into(),
            log: "/l".into(),
            ..Flags::default()
        };
        let start = line(Kind::Runc, &flags, Command::Start);
        assert_eq!(start, "/r --root /s --log /l --log-format json start box");
        flags.platform = Some("ptrace".to_owned());
        assert_eq!(
            line(Kind::Runsc, &flags, Command::Kill(15)),
            "/r --root /s --log /l --log-format json --ignore-cgroups --network=none --platform=ptrace kill box 15"
        );
        let create = Command::Create {
            bundle: Path::new("/b"),
            pid_file: Path::new("/p"),
            terminal: Some(Path::new("/t")),
        };
        let create = line(Kind::Crun, &flags, create);
        assert!(create.ends_with("create --bundle /b --pid-file /p --console-socket /t box"));
    }
}
