//! What a container is made of on the host, and giving it back.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Process;
use sandbox_core::{Error, ErrorKind, NetworkState, Result};
use sandbox_net::ContainerNetworks;

use crate::cgroup::Cgroup;
use crate::error::host;
use crate::exit_log::ExitLog;
use crate::host::Host;
use crate::image::Rootfs;
use crate::reaper::{Adoption, Call, Reaper, STREAMS, Status};
use crate::runtime::{Command, Flags, OciRuntime, complaint};
use crate::streams::Prepared;
use crate::sweep;

/// The parts of one container.
pub struct Parts {
    /// What all containers share.
    pub host: Arc<Host>,
    /// The parent of its processes.
    pub reaper: Arc<Reaper>,
    /// The runtime.
    pub runtime: OciRuntime,
    /// The runtime's flags for it.
    pub flags: Flags,
    /// Its name for the runtime, which no other container of the host has.
    pub id: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its cgroup, where there is one.
    pub cgroup: Option<Cgroup>,
    /// Its root file system.
    pub rootfs: Rootfs,
    /// Its networks, where it has others than a loopback of its own.
    pub networks: Option<ContainerNetworks>,
    /// Its first process.
    pub process: Process,
    /// The signal that asks it to end.
    pub stop_signal: i32,
    /// Where its runtime says how it ended.
    pub exit_log: Option<Arc<ExitLog>>,
}

impl Parts {
    /// Runs a command of the runtime that says nothing when all is well.
    ///
    /// # Errors
    /// The runtime's complaint about `verb`.
    pub fn command(&self, command: Command<'_>, verb: &str) -> Result<()> {
        let null = &self.host.null;
        let streams = [null, null, null].map(AsFd::as_fd);
        self.call(&self.flags, command, verb, &streams)
    }

    fn call(&self, flags: &Flags, command: Command<'_>, verb: &str, streams: &[BorrowedFd<'_>; STREAMS]) -> Result<()> {
        let makes_processes = matches!(command, Command::Create { .. } | Command::Restore { .. });
        // What the runtime does not put into a cgroup itself is born in it.
        let cgroups = match (makes_processes && self.runtime.makes_no_cgroup(), &self.cgroup) {
            (true, Some(cgroup)) => cgroup.process_files(),
            _ => Vec::new(),
        };
        let call = Call {
            command: self.runtime.words(flags, command, &self.id),
            directory: self.folder.clone(),
            cgroups,
        };
        // One log per command: what an earlier one complained of is not this one's.
        let _ = std::fs::remove_file(&flags.log);
        // Whose reaper is gone is still to be taken apart.
        let reaper = match self.reaper.is_gone() {
            true => self.host.reaper()?,
            false => Arc::clone(&self.reaper),
        };
        match reaper.run(&call, streams, self.host.options.call_limit)? {
            Status::Code(0) => Ok(()),
            status => Err(self.failure(flags, verb, status)),
        }
    }

    fn failure(&self, flags: &Flags, verb: &str, status: Status) -> Error {
        let words = complaint(&flags.log);
        if words.0.is_empty()
            && let Status::Signal(signal) = status
        {
            let context = format!("{} was ended by signal {signal}", self.runtime.kind.name());
            return Error::new(ErrorKind::HostFailure, context);
        }
        let program = self.process.args().iter().flatten().next().map_or("", String::as_str);
        words.into_error(verb, self.runtime.kind.name(), program)
    }

    /// Runs a command that leaves a process behind. Its end is kept until it is adopted.
    ///
    /// # Errors
    /// The runtime's complaint, or a number that it did not write down.
    pub fn launch(&self, launch: Launch<'_>) -> Result<(u32, Adoption)> {
        let adoption = self.reaper.begin_adoption();
        self.call(launch.flags, launch.command, launch.verb, &launch.streams.theirs())?;
        let text = std::fs::read_to_string(launch.pid_file).map_err(host("the runtime wrote no process number"))?;
        let pid = text.trim().parse().map_err(|_| {
            let context = format!("the runtime wrote {text:?} as a process number");
            Error::new(ErrorKind::HostFailure, context)
        })?;
        Ok((pid, adoption))
    }

    /// What there is to tell of its networks.
    pub fn network_states(&self) -> Vec<NetworkState> {
        self.networks
            .as_ref()
            .map(ContainerNetworks::states)
            .unwrap_or_default()
    }

    /// Gives everything back. What cannot be given back stays on record for a sweep.
    ///
    /// Of a container whose first process `has_ended` the runtime's own `delete` would remove two things: its state,
    /// which lies in the sandbox's folder, and its cgroup with whatever else is in it. Both go here anyway, without
    /// starting one more program; where there is no cgroup the runtime has to find the processes.
    pub fn give_back(&self, has_ended: bool) {
        let is_left_to_the_runtime = !has_ended || self.cgroup.is_none();
        if is_left_to_the_runtime && let Err(error) = self.command(Command::Delete, "delete") {
            // What the runtime does not know any more needs no deletion; the rest is removed all the same.
            tracing::debug!(id = %self.id, "{}", error.report());
        }
        // With its processes first: what they use can then be taken away.
        let emptied = match &self.cgroup {
            Some(cgroup) => cgroup.remove(),
            None => Ok(()),
        };
        let disconnected = self.networks.as_ref().map_or(Ok(()), ContainerNetworks::teardown);
        if let Err(error) = disconnected {
            tracing::warn!(id = %self.id, %error, "a network is left behind for the next sweep");
        }
        let removed = emptied
            .map_err(|error| error.to_string())
            .and_then(|()| self.rootfs.teardown().map_err(|error| error.to_string()))
            .and_then(|()| sweep::remove_folder(&self.folder).map_err(|error| error.to_string()));
        if let Err(error) = removed {
            tracing::warn!(id = %self.id, "left behind for the next sweep: {error}");
        }
    }
}

/// A command that leaves a process behind.
pub struct Launch<'a> {
    /// The runtime's flags.
    pub flags: &'a Flags,
    /// The command.
    pub command: Command<'a>,
    /// What it does, for errors.
    pub verb: &'a str,
    /// The process's streams.
    pub streams: &'a Prepared,
    /// Where the runtime writes the process's number.
    pub pid_file: &'a Path,
}
