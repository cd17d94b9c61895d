//! A backend per runtime.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sandbox_core::readiness::Readiness;
use sandbox_core::snapshot::Verify;
use sandbox_core::spec::{ContainerGuest, GuestSpec, ProcessSpec};
use sandbox_core::timeline::Recorder;
use sandbox_core::{
    Backend, Capability, ConsoleLog, Error, ErrorKind, Phase, Probe, RestoreOptions, Restored, Result, Sandbox,
    SandboxSpec,
};
use sandbox_net::ContainerNetworks;

use crate::bundle::{self, Account, CPU_PERIOD, Plan};
use crate::cgroup::{Cgroup, Limits, Mode};
use crate::disks::{self, DiskLimits};
use crate::error::host as host_error;
use crate::exit_log::ExitLog;
use crate::files::{self, Saved};
use crate::host::Host;
use crate::image::{ImageConfig, ImageSource, Rootfs};
use crate::probe;
use crate::refuse;
use crate::runtime::{Command, Flags, Kind, OciRuntime};
use crate::sandbox::{Console, ContainerSandbox, Launch, Life, Parts, UNIQUENESS, with_last_words};
use crate::state::Record;
use crate::streams::Prepared;
use crate::sweep;

/// Makes containers with one runtime.
pub struct ContainerBackend {
    host: Arc<Host>,
    runtime: OciRuntime,
    probed: OnceLock<Probe>,
    saving: OnceLock<std::result::Result<(), String>>,
}

impl ContainerBackend {
    /// The runtime `name`, a name on `PATH` or a path, on `host`.
    ///
    /// # Errors
    /// No such program, or none that is a runtime known here.
    pub fn open(host: &Arc<Host>, name: &str) -> Result<Self> {
        let runtime = probe::identify(host, name)?;
        Ok(Self {
            host: Arc::clone(host),
            runtime,
            probed: OnceLock::new(),
            saving: OnceLock::new(),
        })
    }

    /// Whether containers can be saved, and why not.
    fn saving(&self) -> &std::result::Result<(), String> {
        self.saving.get_or_init(|| probe::saving(&self.host, &self.runtime))
    }

    /// What its containers can do here.
    fn capabilities(&self) -> BTreeSet<Capability> {
        let mut capabilities = BTreeSet::from([
            Capability::ConsoleInput,
            Capability::Exec,
            Capability::LimitConsole,
            Capability::LimitDeadline,
        ]);
        let has_cgroups = self.host.has_cgroups();
        if has_cgroups {
            capabilities.extend([Capability::LimitCpuQuota, Capability::LimitMemory]);
        }
        if has_cgroups && self.host.hierarchy.limits_disks() {
            capabilities.insert(Capability::LimitDisk);
        }
        match self.runtime.kind {
            // Its own kernel stops its processes; how many they are the host does not see.
            Kind::Runsc => drop(capabilities.insert(Capability::Pause)),
            Kind::Runc | Kind::Crun if has_cgroups => {
                capabilities.extend([Capability::Pause, Capability::LimitPids]);
            }
            Kind::Runc | Kind::Crun => {}
        }
        match self.saving() {
            Ok(()) if self.runtime.kind == Kind::Runc => {
                capabilities.extend([Capability::Snapshot, Capability::SnapshotResume]);
            }
            Ok(()) => drop(capabilities.insert(Capability::Snapshot)),
            Err(_) => {}
        }
        capabilities
    }

    /// Makes a container, or makes it go on from what its runtime saved at `image`.
    fn make(
        &self,
        spec: &SandboxSpec,
        guest: &ContainerGuest,
        recorder: Arc<Recorder>,
        image: Option<&Path>,
    ) -> Result<ContainerSandbox> {
        spec.validate()?;
        let capabilities = self.capabilities();
        refuse::check(spec, &capabilities)?;
        self.refuse_host()?;
        refuse::check_mounts(guest)?;
        self.check_disk_limits(spec, guest)?;
        let id = spec
            .id
            .clone()
            .unwrap_or_else(|| self.host.next_name(self.runtime.kind.name()));
        let (parts, process) = Making::begin(self, &id)?.parts(self, spec, guest, (&id, image.is_some()))?;
        let mut ready = spec.ready.clone();
        if let Some(ready) = &mut ready
            && let Err(error) = ready.fill_in(&parts.network_states())
        {
            parts.give_back(false);
            return Err(error);
        }
        let readiness = Readiness::new(ready.as_ref()).inspect_err(|_| parts.give_back(false))?;
        recorder.record(Phase::SpecChecked);
        let console = Arc::new(ConsoleLog::new(
            usize::try_from(spec.limits.console_bytes).unwrap_or(usize::MAX),
        ));
        let deadline = spec.limits.deadline_ms.map(Duration::from_millis);
        let life = Life::new(parts, Arc::clone(&recorder), console, deadline);
        let begun = match image {
            None => launch(&life, &process, None).inspect(|()| recorder.record(Phase::VmCreated)),
            Some(image) => launch(&life, &process, Some(image)).and_then(|()| {
                recorder.record(Phase::StateRestored);
                life.entered()
            }),
        };
        if let Err(error) = begun {
            life.parts.give_back(false);
            return Err(error);
        }
        recorder.record(Phase::Created);
        Ok(ContainerSandbox::new(spec.clone(), id, life, readiness, capabilities))
    }

    /// Whether the limits of disks hold for all that the container can write.
    fn check_disk_limits(&self, spec: &SandboxSpec, guest: &ContainerGuest) -> Result<()> {
        const FIELD: &str = "limits.disk_write";
        disks::check(&spec.limits)?;
        if spec.limits.disk_write.is_none() {
            return Ok(());
        }
        if self.host.hierarchy.mode != Mode::Unified {
            let context = "version 1 of cgroups does not know who wrote what the kernel writes to a disk later";
            return Err(Error::unsupported(FIELD, context));
        }
        let mounts = guest.mounts.iter().filter(|mount| !mount.read_only);
        let root = guest.writable_root.then_some(&self.host.options.store);
        let unfit = mounts
            .map(|mount| &mount.source)
            .chain(root)
            .find(|path| path.exists() && !disks::attributes_writes(path));
        match unfit {
            None => Ok(()),
            Some(path) => {
                let context = format!("the file system of {} does not say who wrote what", path.display());
                Err(Error::unsupported(FIELD, context))
            }
        }
    }

    /// What is known to fail with a riddle.
    fn refuse_host(&self) -> Result<()> {
        match probe::obstacle(&self.host, self.runtime.kind) {
            Some(obstacle) => Err(Error::unsupported(crate::runtime::FIELD, obstacle)),
            None => Ok(()),
        }
    }
}

/// Runs the runtime's `create`, or its `restore` of what it saved at `image`.
fn launch(life: &Arc<Life>, process: &ProcessSpec, image: Option<&Path>) -> Result<()> {
    let parts = &life.parts;
    let null = &parts.host.null;
    let streams = match process.terminal {
        true => Prepared::terminal(parts.folder.join("tty"), null),
        false => Prepared::pipes(process.stdin, null),
    };
    let streams = streams.map_err(host_error("cannot make the container's streams"))?;
    let pid_file = parts.folder.join("pid");
    let flags = Flags {
        exit_log: exit_log_of(&parts.folder, parts.runtime.kind),
        ..parts.flags.clone()
    };
    let work = parts.folder.join("restore");
    let (bundle, terminal) = (&*parts.folder, streams.socket());
    let (command, verb) = match image {
        None => {
            let create = Command::Create {
                bundle,
                pid_file: &pid_file,
                terminal,
            };
            (create, "create")
        }
        Some(image) => {
            fs::create_dir_all(&work).map_err(host_error("cannot make a folder for the runtime's log"))?;
            let restore = Command::Restore {
                image,
                work: &work,
                bundle,
                pid_file: &pid_file,
                terminal,
            };
            (restore, "restore")
        }
    };
    let launched = parts.launch(Launch {
        flags: &flags,
        command,
        verb,
        streams: &streams,
        pid_file: &pid_file,
    });
    let (pid, adoption) = launched.map_err(|error| with_last_words(error, &work.join("restore.log")))?;
    let (input, output) = streams
        .finish(life.console())
        .map_err(host_error("the runtime gave the container no streams"))?;
    life.attach(pid, Console { input, output })?;
    let ended = Arc::clone(life);
    adoption.adopt(pid, Box::new(move |status| ended.ended(status)));
    Ok(())
}

fn exit_log_of(folder: &Path, kind: Kind) -> Option<PathBuf> {
    (kind == Kind::Runsc).then(|| folder.join("exit"))
}

impl Backend for ContainerBackend {
    fn name(&self) -> &'static str {
        self.runtime.kind.name()
    }

    fn probe(&self) -> Probe {
        let probe = || {
            let mut probe = probe::probe(&self.host, &self.runtime, self.capabilities());
            probe.reasons.extend(self.saving().clone().err());
            probe
        };
        self.probed.get_or_init(probe).clone()
    }

    fn create(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>> {
        let recorder = Arc::new(Recorder::start(None));
        Ok(Box::new(self.make(spec, container_of(spec)?, recorder, None)?))
    }

    /// A runtime lets a restored container run at once: the options must say start.
    fn restore(&self, snapshot: &Path, options: &RestoreOptions) -> Result<Restored> {
        let recorder = Arc::new(Recorder::start(None));
        refuse::check_restore(options)?;
        let Saved {
            manifest,
            mut spec,
            image,
        } = Saved::open(snapshot, options.verify)?;
        if manifest.backend != self.name() {
            let context = format!("the snapshot is one of {}", manifest.backend);
            return Err(Error::new(ErrorKind::Incompatible, context));
        }
        if !self.capabilities().contains(&Capability::Snapshot) {
            let context = "this runtime cannot restore containers here; its probe says why";
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        recorder.record(Phase::SnapshotChecked);
        // The original may live, and there may be many that go on from it.
        spec.id.clone_from(&options.overrides.id);
        if let Some(limits) = &options.overrides.limits {
            spec.limits = limits.clone();
        }
        let sandbox = self.make(&spec, container_of(&spec)?, recorder, Some(&image))?;
        Ok(Restored {
            sandbox: Box::new(sandbox),
            uniqueness: UNIQUENESS,
        })
    }
}

fn container_of(spec: &SandboxSpec) -> Result<&ContainerGuest> {
    match &spec.guest {
        GuestSpec::Container(guest) => Ok(guest),
        _ => Err(Error::unsupported("guest", "an OCI runtime runs containers alone")),
    }
}

/// The runtime that a snapshot's spec names, if the snapshot is one of a container.
///
/// # Errors
/// No snapshot, or a damaged one.
pub fn runtime_of_snapshot(folder: &Path) -> Result<Option<String>> {
    let manifest = files::manifest(folder)?;
    if !Kind::ALL.iter().any(|kind| kind.name() == manifest.backend) {
        return Ok(None);
    }
    let saved = Saved::open(folder, Verify::Size)?;
    container_of(&saved.spec).map(|guest| Some(guest.runtime.clone()))
}

/// A container's folder while it is being filled: removed, with what its record names, unless all goes well.
struct Making {
    folder: PathBuf,
    name: String,
    is_done: bool,
}

impl Making {
    fn begin(backend: &ContainerBackend, id: &str) -> Result<Self> {
        let home = &backend.host.home;
        let name = format!("{}-{id}", home.name());
        let folder = home.container(id).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                let context = format!("{id:?} is the name of another sandbox");
                Error::new(ErrorKind::AlreadyExists, context).with_field("id")
            }
            _ => host_error("cannot make the sandbox's folder")(error),
        })?;
        Ok(Self {
            folder,
            name,
            is_done: false,
        })
    }

    /// Everything up to the runtime's first command.
    fn parts(
        mut self,
        backend: &ContainerBackend,
        spec: &SandboxSpec,
        guest: &ContainerGuest,
        (id, is_restored): (&str, bool),
    ) -> Result<(Parts, ProcessSpec)> {
        let (host, runtime) = (&backend.host, &backend.runtime);
        let reaper = host.reaper()?;
        let cgroup = host
            .has_cgroups()
            .then(|| Cgroup::new(&host.hierarchy, &format!("sandbox.{}", self.name)));
        let flags = Flags {
            root: self.folder.join("state"),
            log: self.folder.join("runtime.log"),
            platform: host.options.runsc_platform.clone(),
            ..Flags::default()
        };
        let record = Record {
            id: self.name.clone(),
            runtime: runtime.kind.name().to_owned(),
            program: runtime.program.clone(),
            root: flags.root.clone(),
            cgroup: cgroup.is_some().then(|| format!("sandbox.{}", self.name)),
            store: host.options.store.clone(),
            networks: (!spec.networks.is_empty()).then(|| host.options.networks.clone()),
        };
        record
            .write(&self.folder)
            .map_err(host_error("cannot write the sandbox's record"))?;
        let networks = host.networks_of(&self.name, spec, runtime)?;
        let flags = Flags {
            has_network: networks.is_some(),
            ..flags
        };
        let rootfs = rootfs(host, guest, &self.name)?;
        let process = process(guest, &rootfs)?;
        let stop_signal = rootfs
            .config()
            .map_or(Ok(libc::SIGTERM), ImageConfig::stop_signal_number);
        let stop_signal = stop_signal.map_err(|error| error.about("guest.container.image"))?;
        let account = account(&process, &rootfs, host.is_rootless)?;
        let hostname = guest.hostname.as_deref().unwrap_or(id);
        let name_files = match &networks {
            Some(networks) => bundle::write_name_files(&self.folder, hostname, &networks.states())
                .map_err(host_error("cannot write the container's hosts and name servers"))?,
            None => Vec::new(),
        };
        let criu_config = match &cgroup {
            Some(cgroup) if is_restored && runtime.kind == Kind::Runc && host.hierarchy.mode == Mode::Unified => {
                let config = bundle::write_criu_config(&self.folder, cgroup.name());
                Some(config.map_err(host_error("cannot write CRIU's configuration"))?)
            }
            _ => None,
        };
        let disk_limits = DiskLimits::of(&spec.limits).map_err(host_error("cannot list the host's disks"))?;
        let document = bundle::document(&Plan {
            kind: runtime.kind,
            spec,
            guest,
            process: &process,
            account: &account,
            root: rootfs.path(),
            hostname,
            cgroup: cgroup.as_ref().filter(|_| !runtime.makes_no_cgroup()).map(Cgroup::name),
            network: networks.as_ref().map(ContainerNetworks::namespace),
            is_rootless: host.is_rootless,
            is_unified: host.hierarchy.mode == Mode::Unified,
            name_files: &name_files,
            criu_config: criu_config.as_deref(),
            disk_limits: &disk_limits,
        })?;
        let text = serde_json::to_vec(&document).map_err(std::io::Error::from);
        let written = text.and_then(|text| fs::write(bundle::file(&self.folder), text));
        written.map_err(host_error("cannot write the container's description"))?;
        let exit_log = match exit_log_of(&self.folder, runtime.kind) {
            Some(path) => {
                let log = ExitLog::create(&path).map_err(host_error("cannot make a fifo"))?;
                Some(Arc::new(log))
            }
            None => None,
        };
        if let Some(cgroup) = cgroup.as_ref().filter(|_| runtime.makes_no_cgroup()) {
            make_cgroup(host, cgroup, spec, disk_limits)?;
        }
        self.is_done = true;
        let parts = Parts {
            host: Arc::clone(host),
            reaper,
            runtime: runtime.clone(),
            flags,
            id: self.name.clone(),
            folder: self.folder.clone(),
            cgroup,
            rootfs,
            networks,
            process: document.process().clone().unwrap_or_default(),
            stop_signal,
            exit_log,
        };
        Ok((parts, process))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.is_done
            && let Err(error) = sweep::remove_folder(&self.folder)
        {
            tracing::warn!("left behind for the next sweep: {error}");
        }
    }
}

fn rootfs(host: &Host, guest: &ContainerGuest, name: &str) -> Result<Rootfs> {
    let (source, field) = ImageSource::of(guest)
        .ok_or_else(|| Error::invalid("guest.container.rootfs", "give exactly one of rootfs and image"))?;
    host.store()?.prepare(&source, name).map_err(|error| error.about(field))
}

/// What runs: what the spec says, and the image where it is silent.
fn process(guest: &ContainerGuest, rootfs: &Rootfs) -> Result<ProcessSpec> {
    let process = match rootfs.config() {
        Some(config) => config.process(guest.process.as_ref()),
        None => guest.process.clone(),
    };
    process.ok_or_else(|| {
        let context = "is left out, and there is no image that names a program";
        Error::invalid("guest.container.process", context)
    })
}

fn account(process: &ProcessSpec, rootfs: &Rootfs, is_rootless: bool) -> Result<Account> {
    const FIELD: &str = "guest.container.process.user";
    let user = rootfs
        .user(process.user.as_deref().unwrap_or("0"))
        .map_err(|error| error.about(FIELD))?;
    if is_rootless && (user.uid, user.gid) != (0, 0) {
        let context = "without root's rights the only user inside is root, who is the caller outside";
        return Err(Error::unsupported(FIELD, context));
    }
    Ok(Account {
        uid: user.uid,
        gid: user.gid,
        groups: if is_rootless { Vec::new() } else { user.additional_gids },
        home: user.home,
    })
}

fn make_cgroup(host: &Host, cgroup: &Cgroup, spec: &SandboxSpec, disks: DiskLimits) -> Result<()> {
    let limits = Limits {
        memory: spec.memory,
        cpu_quota: bundle::cpu_quota(spec),
        cpu_period: CPU_PERIOD,
        disks,
    };
    let mut controllers = vec!["cpu", "memory", "pids"];
    if host.hierarchy.limits_disks() {
        // Also where nothing is limited: what was read and written is counted by it.
        controllers.push("io");
    }
    host.hierarchy
        .enable(&controllers)
        .and_then(|()| cgroup.create(&limits))
        .map_err(host_error("cannot make the container's cgroup"))
}
