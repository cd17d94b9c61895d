//! The worker process itself: what becomes of a sandbox whose worker dies, hangs or is weak, and of a worker whose
//! embedder dies.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sandbox::spec::WeakJail;
use sandbox::{Backend, ErrorKind, Exit, KvmBackend, KvmOptions, Phase, Sandbox, State, Weakness, WorkerOptions};

use super::support::{PATIENCE, await_console, bare, created, skip, started};

/// Set for a copy of this program that is to be an embedder and nothing else.
const EMBEDDER: &str = "SANDBOX_TEST_EMBEDDER";
/// Its KVM device, if it is another one than everybody's.
const DEVICE: &str = "SANDBOX_TEST_KVM_DEVICE";

pub fn backend(worker: WorkerOptions) -> KvmBackend {
    KvmBackend::open(&KvmOptions {
        worker,
        ..KvmOptions::default()
    })
    .unwrap()
}

/// The only worker of the sandbox that `make` makes.
fn worker_of(id: &str) -> u32 {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let mut found = all
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"sandbox-worker\0") && holds(*pid, id)
        });
    found.next().unwrap()
}

/// Whether a process of this number has the tap `interface`.
fn holds(pid: u32, interface: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return false;
    };
    let mut infos = descriptors
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    infos.any(|info| info.lines().any(|line| line.split_whitespace().eq(["iff:", interface])))
}

fn with_tap(mut spec: sandbox::SandboxSpec, interface: &str) -> sandbox::SandboxSpec {
    spec.networks.push(sandbox::spec::NetworkSpec {
        id: "net".to_owned(),
        tap: sandbox::spec::TapSpec::Create {
            name: Some(interface.to_owned()),
            host_address: None,
        },
        ..Default::default()
    });
    spec
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: takes integers; the process is one of this test's.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

pub fn is_root() -> bool {
    // SAFETY: the call has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip("needs root to make taps and to become another user");
    }
    root
}

#[test]
fn a_worker_that_is_killed_is_a_sandbox_that_failed() {
    if !is_root() {
        return;
    }
    let sandbox = started(&with_tap(bare("endings", &["end=halt"]), "wkill0"));
    signal(worker_of("wkill0"), libc::SIGKILL);
    let exit = sandbox.wait(Some(PATIENCE)).unwrap();
    assert!(
        matches!(&exit, Exit::LostWorker(words) if words.contains("SIGKILL")),
        "{exit}"
    );
    assert_eq!(sandbox.state(), State::Failed);
    let error = sandbox.stats().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WorkerLost);
    assert_eq!(sandbox.pause().unwrap_err().kind(), ErrorKind::WrongState);
    sandbox.teardown().wait(PATIENCE).unwrap();
    assert!(!fs::exists("/sys/class/net/wkill0").unwrap(), "its tap is left");
}

#[test]
fn a_worker_that_is_killed_in_the_midst_of_a_snapshot_leaves_none() {
    if !is_root() {
        return;
    }
    let folder = super::support::TempFolder::new();
    let sandbox = started(&with_tap(bare("endings", &["end=halt"]), "wsnap0"));
    let worker = worker_of("wsnap0");
    // It does not answer any more, but the embedder's part of the folder is made.
    signal(worker, libc::SIGSTOP);
    std::thread::scope(|scope| {
        let snapshot = scope.spawn(|| sandbox.snapshot(&folder.path().join("snapshot"), &Default::default()));
        let begin = Instant::now();
        while fs::read_dir(folder.path()).unwrap().count() == 0 {
            assert!(begin.elapsed() < PATIENCE, "no snapshot is begun");
            std::thread::yield_now();
        }
        signal(worker, libc::SIGKILL);
        let error = snapshot.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WorkerLost, "{error}");
    });
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(matches!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::LostWorker(_)));
    let error = sandbox.snapshot(&folder.path().join("snapshot"), &Default::default());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::WrongState);
}

#[test]
fn a_worker_that_hangs_is_lost_within_the_time_it_has() {
    if !is_root() {
        return;
    }
    let backend = backend(WorkerOptions {
        patience: Duration::from_secs(10),
        ..WorkerOptions::default()
    });
    let sandbox = backend
        .create(&with_tap(bare("endings", &["end=halt"]), "whang0"))
        .unwrap();
    sandbox.start().unwrap();
    signal(worker_of("whang0"), libc::SIGSTOP);
    let error = sandbox.pause().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WorkerLost);
    assert!(error.context().contains("did not pause within 10"), "{error}");
    let exit = sandbox.wait(Some(PATIENCE)).unwrap();
    assert!(
        matches!(&exit, Exit::LostWorker(words) if words.contains("did not pause")),
        "{exit}"
    );
}

#[test]
fn a_program_that_is_no_worker_is_told_with_its_last_words() {
    // What `ls` says of options that it does not know begins with the name that it was started by, whoever's `ls` it is.
    for (program, words) in [
        ("/bin/false", "exit status 1"),
        ("/bin/ls", "last words: sandbox-worker: "),
    ] {
        let backend = backend(WorkerOptions {
            program: Some(program.into()),
            ..WorkerOptions::default()
        });
        let error = backend.create(&bare("hello", &[])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WorkerLost);
        assert!(error.context().contains(words), "{error}");
    }
}

#[test]
fn a_weak_jail_is_named_and_refused_where_the_spec_says_so() {
    let backend = backend(WorkerOptions {
        seccomp: false,
        ..WorkerOptions::default()
    });
    let mut spec = bare("hello", &[]);
    let sandbox = backend.create(&spec).unwrap();
    assert!(sandbox.weaknesses().contains(&Weakness::Seccomp));
    spec.weak_jail = WeakJail::Refuse;
    let error = backend.create(&spec).unwrap_err();
    assert_eq!(
        (error.kind(), error.field()),
        (ErrorKind::Unsupported, Some("weak_jail"))
    );
    assert!(error.context().contains("system calls"), "{error}");
}

#[test]
fn root_has_the_whole_jail() {
    if !is_root() {
        return;
    }
    let mut spec = bare("hello", &[]);
    spec.weak_jail = WeakJail::Refuse;
    let sandbox = created(&spec);
    assert_eq!(sandbox.weaknesses(), []);
}

#[test]
fn idle_workers_serve_sandboxes_and_are_replaced() {
    let backend = backend(WorkerOptions {
        idle: 2,
        ..WorkerOptions::default()
    });
    backend.prepare_workers().unwrap();
    for _ in 0..6 {
        let sandbox = backend.create(&bare("hello", &["exit=5"])).unwrap();
        sandbox.start().unwrap();
        assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Code(5));
        sandbox.teardown().wait(PATIENCE).unwrap();
    }
}

#[test]
fn a_quota_of_processor_time_holds() {
    let mut spec = bare("endings", &["end=spin"]);
    spec.limits.cpu_quota = Some(200);
    let sandbox = match super::support::runtime().create(&spec) {
        Ok(sandbox) => sandbox,
        Err(error) => {
            assert_eq!(error.field(), Some("limits.cpu_quota"), "{}", error.report());
            return skip("needs root or a delegated control group");
        }
    };
    sandbox.start().unwrap();
    await_console(&*sandbox, "endings");
    let used = |sandbox: &dyn Sandbox| sandbox.stats().unwrap().cpu.guest.unwrap();
    let (before, began) = (used(&*sandbox), Instant::now());
    // No event tells that time has passed.
    std::thread::sleep(Duration::from_secs(2));
    let share = (used(&*sandbox) - before) as f64 / began.elapsed().as_nanos() as f64;
    assert!(
        share > 0.0 && share < 0.3,
        "a guest held to a fifth of a processor had {share:.3} of one"
    );
    sandbox.stop(Duration::ZERO).unwrap();
}

#[test]
fn the_timeline_has_the_workers_phases() {
    let sandbox = started(&bare("hello", &[]));
    sandbox.wait(Some(PATIENCE)).unwrap();
    let timeline = sandbox.timeline();
    for (earlier, later) in [
        (Phase::SpecChecked, Phase::VmCreated),
        (Phase::VcpusReady, Phase::Created),
        (Phase::FirstEntry, Phase::FirstExit),
        (Phase::Ended, Phase::ExitPublished),
    ] {
        assert!(
            timeline.between(earlier, later).is_some(),
            "{earlier:?} before {later:?}: {timeline:?}"
        );
    }
}

/// Not a test of its own: what the copies of this program do.
#[test]
fn embedder() {
    let Some(interface) = std::env::var_os(EMBEDDER) else {
        return;
    };
    let mut spec = bare("endings", &["end=halt"]);
    if let Some(interface) = interface.to_str().filter(|name| !name.is_empty()) {
        spec = with_tap(spec, interface);
    }
    let mut options = KvmOptions::default();
    if let Some(device) = std::env::var_os(DEVICE) {
        options.device = device.into();
    }
    let backend = KvmBackend::open(&options).unwrap();
    let sandbox = backend.create(&spec).unwrap();
    sandbox.start().unwrap();
    println!("weaknesses: {:?}", sandbox.weaknesses());
    println!("started");
    // Ended from outside, or by the end of its input.
    let _ = io::stdin().read(&mut [0]);
    sandbox.teardown().wait(PATIENCE).unwrap();
}

fn embedder_program(interface: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "home::embedder", "--nocapture"])
        .env(EMBEDDER, interface)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Reads until the embedder says that its sandbox runs.
fn await_started(output: impl Read) -> String {
    let mut said = String::new();
    for line in BufReader::new(output).lines() {
        let line = line.unwrap();
        said += &line;
        said.push('\n');
        if line.contains("started") {
            return said;
        }
    }
    panic!("the embedder ended: {said}");
}

#[test]
fn the_end_of_the_embedder_ends_its_workers() {
    if !is_root() {
        return;
    }
    let mut embedder = embedder_program("worphan0").spawn().unwrap();
    await_started(embedder.stdout.as_mut().unwrap());
    let worker = worker_of("worphan0");
    embedder.kill().unwrap();
    embedder.wait().unwrap();
    let begin = Instant::now();
    while fs::exists(format!("/proc/{worker}/fdinfo")).unwrap() && holds(worker, "worphan0")
        || fs::exists("/sys/class/net/worphan0").unwrap()
    {
        assert!(begin.elapsed() < PATIENCE, "worker {worker} lives on");
        std::thread::yield_now();
    }
}

#[test]
fn an_ordinary_user_has_workers_too() {
    if !is_root() {
        return;
    }
    const ORDINARY: u32 = 4321;
    // One that everybody may use: who may use the host's own is its administrator's choice.
    let folder = super::support::TempFolder::new();
    let node = folder.path().join("kvm");
    let made = Command::new("mknod")
        .args(["-m", "666"])
        .arg(&node)
        .args(["c", "10", "232"])
        .status();
    assert!(made.unwrap().success());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let spawned = embedder_program("")
        .env(DEVICE, &node)
        .uid(ORDINARY)
        .gid(ORDINARY)
        .spawn();
    let mut embedder = match spawned {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return skip("needs root and a build folder that others may read");
        }
        other => other.unwrap(),
    };
    let said = await_started(embedder.stdout.as_mut().unwrap());
    assert!(said.contains("weaknesses: []"), "{said}");
    drop(embedder.stdin.take());
    assert!(embedder.wait().unwrap().success());
}
