//! A container from create to everything given back: by the SDK, and by the runtime's own commands on the same bundle,
//! in turn. What the SDK adds is all that it does beside those commands.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandbox::spec::{ContainerGuest, GuestSpec, ProcessSpec};
use sandbox::{Backend, ContainerOptions, Exit, Runtime, SandboxSpec};
use serde_json::{Value, json};

use crate::Options;
use crate::report::{Report, Unit};

const PATIENCE: Duration = Duration::from_secs(60);
const METRIC: &str = "create_start_delete";
const RUNTIMES: [&str; 3] = ["runc", "crun", "runsc"];

/// Measures every runtime that works here.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let folder = Folder::make()?;
    let runtime = Runtime::new().with_container_options(ContainerOptions {
        state: folder.0.join("state"),
        store: folder.0.join("store"),
        ..ContainerOptions::default()
    });
    for name in RUNTIMES {
        let backend = match runtime.container(name) {
            Ok(backend) => backend,
            Err(error) => {
                println!("{name} is left out: {}", error.report());
                continue;
            }
        };
        let probe = backend.probe();
        if !probe.usable {
            println!("{name} is left out: {}", probe.reasons.join("; "));
            continue;
        }
        become_subreaper()?;
        let hand = Hand::new(&folder.0, name, &runtime)?;
        // What is read for the first time by either costs neither.
        by_sdk(&runtime, &folder.0, name)?;
        hand.round()?;
        for _ in 0..options.rounds {
            let ours = by_sdk(&runtime, &folder.0, name)?;
            let theirs = hand.round()?;
            let micros = |time: Duration| time.as_nanos() as f64 / 1000.0;
            report.add(&format!("sdk/{name}"), METRIC, Unit::Microseconds, micros(ours), None);
            report.add(
                &format!("{name}/{name}"),
                METRIC,
                Unit::Microseconds,
                micros(theirs),
                None,
            );
            let ratio = micros(ours) / micros(theirs);
            report.add(&format!("sdk/{name}"), "overhead", Unit::Ratio, ratio, None);
        }
    }
    Ok(())
}

fn spec(folder: &Path, name: &str) -> SandboxSpec {
    SandboxSpec::new(GuestSpec::Container(ContainerGuest {
        runtime: name.to_owned(),
        rootfs: Some(folder.join("root")),
        image: None,
        image_name: None,
        process: Some(ProcessSpec {
            args: ["/bin/echo", "hello"].map(String::from).into(),
            ..ProcessSpec::default()
        }),
        hostname: None,
        mounts: Vec::new(),
        writable_root: false,
    }))
}

fn by_sdk(runtime: &Runtime, folder: &Path, name: &str) -> Result<Duration> {
    let spec = spec(folder, name);
    let begin = Instant::now();
    let sandbox = runtime.create(&spec)?;
    sandbox.start()?;
    let exit = sandbox.wait(Some(PATIENCE))?;
    sandbox.teardown().wait(PATIENCE)?;
    let took = begin.elapsed();
    ensure!(exit == Exit::Code(0), "{name} ended by {exit}");
    Ok(took)
}

/// The runtime's commands, called one after another.
struct Hand {
    program: &'static str,
    flags: Vec<String>,
    bundle: PathBuf,
    /// Its root file system is the bundle's; it is never started.
    _donor: Box<dyn sandbox::Sandbox>,
}

impl Hand {
    /// Takes the bundle of a container that the SDK made.
    fn new(folder: &Path, name: &'static str, runtime: &Runtime) -> Result<Self> {
        let donor = runtime.create(&spec(folder, name))?;
        let config = fs::read_dir(folder.join("state"))?
            .flatten()
            .map(|home| home.path().join(donor.id()).join("config.json"))
            .find(|path| path.exists())
            .context("the SDK has no bundle")?;
        let mut document: Value = serde_json::from_slice(&fs::read(config)?)?;
        if document["linux"].get("cgroupsPath").is_some() {
            document["linux"]["cgroupsPath"] = json!(format!("/sandbox-bench-{}", std::process::id()));
        }
        let bundle = folder.join(format!("bundle-{name}"));
        fs::create_dir(&bundle)?;
        fs::write(bundle.join("config.json"), document.to_string())?;
        let mut flags = vec!["--root".to_owned(), bundle.join("state").display().to_string()];
        if name == "runsc" {
            flags.extend(["--ignore-cgroups", "--network=none"].map(String::from));
        }
        Ok(Self {
            program: name,
            flags,
            bundle,
            _donor: donor,
        })
    }

    fn round(&self) -> Result<Duration> {
        let (mut output, end) = std::io::pipe()?;
        let begin = Instant::now();
        let (bundle, pid_file) = (self.bundle.display().to_string(), self.bundle.join("pid"));
        let pid_file_name = pid_file.display().to_string();
        self.call(
            &["create", "--bundle", &bundle, "--pid-file", &pid_file_name],
            Stdio::from(end),
        )?;
        let pid = fs::read_to_string(&pid_file)?.trim().parse()?;
        self.call(&["start"], Stdio::null())?;
        let mut text = String::new();
        output.read_to_string(&mut text)?;
        // A runtime takes its time to delete a container that has not ended.
        // A container counts as there until all its processes are waited for, those that serve it included.
        await_end(pid)?;
        await_adopted()?;
        self.call(&["delete", "--force"], Stdio::null())?;
        let took = begin.elapsed();
        ensure!(text == "hello\n", "{} by hand wrote {text:?}", self.program);
        Ok(took)
    }

    fn call(&self, words: &[&str], output: Stdio) -> Result<()> {
        let status = Command::new(self.program)
            .args(&self.flags)
            .args(words)
            .arg("by-hand")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::inherit())
            .status()?;
        ensure!(status.success(), "{} {} by hand: {status}", self.program, words[0]);
        Ok(())
    }
}

/// Makes this process the one that orphans are given to, as whoever calls a runtime by hand must be to learn of ends.
fn become_subreaper() -> Result<()> {
    // SAFETY: the call touches no memory of ours.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("cannot become a subreaper"),
    }
}

/// Waits for an adopted process; its status must be good.
fn await_end(pid: libc::pid_t) -> Result<()> {
    let mut status = 0;
    // SAFETY: the status is written to a variable of this function.
    let ended = unsafe { libc::waitpid(pid, &mut status, 0) };
    ensure!(ended == pid && status == 0, "the container's process ended by {status}");
    Ok(())
}

/// Waits for all children but the SDK's own.
fn await_adopted() -> Result<()> {
    for task in fs::read_dir("/proc/self/task")?.flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in children.split_whitespace() {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if !words.starts_with(b"sandbox-reaper") {
                // SAFETY: no status is asked for.
                unsafe { libc::waitpid(pid.parse()?, std::ptr::null_mut(), 0) };
            }
        }
    }
    Ok(())
}

/// The root file system and everything else, removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("sandbox-bench-{}", std::process::id()));
        let root = folder.join("root");
        for name in ["bin", "dev", "proc", "sys"] {
            fs::create_dir_all(root.join(name))?;
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).is_file());
        fs::copy(busybox.context("there is no busybox")?, root.join("bin/busybox"))?;
        symlink("busybox", root.join("bin/echo"))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
