//! Containers of an ordinary user: a program of this test, run by one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use sandbox::{Backend, Capability, ContainerOptions, ErrorKind, Exit, Runtime, Sandbox, SandboxSpec};

use crate::stats::{BUSY, await_use};
use crate::support::container::{process, script};
use crate::support::{PATIENCE, TempFolder, console_text, container_options, leftovers, skip};

/// Names the folder of the user who is to run containers.
const CHILD: &str = "SANDBOX_TEST_ROOTLESS";
/// `nobody`.
const USER: u32 = 65534;

/// What the user does: not a test of its own.
#[test]
fn child() {
    let Some(home) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let options = ContainerOptions {
        reaper: Some(home.join("worker")),
        state: home.join("state"),
        store: home.join("store"),
        call_limit: container_options().call_limit,
        ..ContainerOptions::default()
    };
    let runtime = Runtime::new().with_container_options(options);
    for name in ["runc", "crun", "runsc"] {
        match runtime.container(name).map(|backend| backend.probe()) {
            Ok(probe) if probe.usable => {
                assert!(
                    probe.facts.contains(&("rootless".to_owned(), "true".to_owned())),
                    "{probe:?}"
                );
                lives(&runtime, name);
                println!("\nran {name}");
            }
            Ok(probe) => println!("\nskipped {name}: {}", probe.reasons.join("; ")),
            Err(error) => println!("\nskipped {name}: {}", error.report()),
        }
    }
}

fn started(runtime: &Runtime, spec: &SandboxSpec) -> Box<dyn Sandbox> {
    let sandbox = match runtime.create(spec) {
        Ok(sandbox) => sandbox,
        Err(error) => panic!("{}", error.report()),
    };
    if let Err(error) = sandbox.start() {
        panic!("{}", error.report());
    }
    sandbox
}

fn lives(runtime: &Runtime, name: &str) {
    let id = format!("rootless-{name}-{}", std::process::id());
    let mut spec = script(name, "id -u; read line; echo \"heard $line\"; exit 7");
    spec.id = Some(id.clone());
    process(&mut spec).stdin = true;
    let sandbox = started(runtime, &spec);
    assert_eq!(sandbox.console_write(b"words\n").unwrap(), 6, "{name}");
    assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Code(7), "{name}");
    assert_eq!(console_text(&*sandbox), "0\nheard words\n", "{name}");
    sandbox.teardown().wait(PATIENCE).unwrap();

    let sandbox = started(runtime, &script(name, BUSY));
    await_use(&*sandbox);
    // No cgroup counts it, and runc's events tell nothing then: the kernel's files of its processes do.
    let stats = sandbox.stats().unwrap();
    let memory = &stats.memory;
    for counted in [
        memory.resident,
        memory.proportional,
        memory.private,
        memory.guest_touched,
        stats.cpu.guest,
    ] {
        assert!(counted.is_some_and(|number| number > 0), "{name}: {stats:?}");
    }
    let exec = sandbox
        .as_exec()
        .unwrap()
        .exec(&["/bin/echo".to_owned(), "further".to_owned()], &[]);
    let session = exec.unwrap();
    assert_eq!(session.wait(Some(PATIENCE)).unwrap(), Exit::Code(0), "{name}");
    assert_eq!(sandbox.stop(std::time::Duration::ZERO).unwrap(), Exit::Killed, "{name}");
    sandbox.teardown().wait(PATIENCE).unwrap();
    assert_eq!(leftovers(&id), Vec::<String>::new(), "{name}");

    // Without cgroups nothing is accepted that only they would hold.
    let capabilities = runtime.container(name).unwrap().probe().capabilities;
    assert!(
        !capabilities.contains(&Capability::LimitMemory),
        "{name}: {capabilities:?}"
    );
    let mut spec = script(name, "true");
    spec.limits.cpu_quota = Some(100);
    let error = runtime.create(&spec).unwrap_err();
    assert_eq!(
        (error.kind(), error.field()),
        (ErrorKind::Unsupported, Some("limits.cpu_quota")),
        "{name}"
    );
    // There is one user alone.
    let mut spec = script(name, "true");
    process(&mut spec).user = Some("web".to_owned());
    let error = runtime.create(&spec).unwrap_err();
    assert_eq!(error.field(), Some("guest.container.process.user"), "{name}");
}

#[test]
fn an_ordinary_user_runs_containers() {
    // SAFETY: takes no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return skip("needs root to become another user");
    }
    let folder = TempFolder::new();
    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();
    // Those that cargo built may lie where nobody else may look.
    let copies = [
        (std::env::current_exe().unwrap(), home.join("tests")),
        (container_options().reaper.unwrap(), home.join("worker")),
    ];
    for (program, copy) in &copies {
        fs::copy(program, copy).unwrap();
        fs::set_permissions(copy, fs::Permissions::from_mode(0o755)).unwrap();
    }
    chown(&home, Some(USER), Some(USER)).unwrap();
    let output = Command::new(home.join("tests"))
        .args(["--exact", "rootless::child", "--nocapture"])
        .env(CHILD, &home)
        .env("HOME", &home)
        .env("TMPDIR", &home)
        .env("XDG_RUNTIME_DIR", &home)
        .env_remove("SANDBOX_SKIP_FILE")
        .current_dir("/")
        .gid(USER)
        .uid(USER)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{complaints}");
    for line in text.lines().filter_map(|line| line.strip_prefix("skipped ")) {
        let (name, reason) = line.split_once(": ").unwrap();
        skip(&format!("{name} cannot be used: {reason}"));
    }
    assert!(text.lines().any(|line| line == "ran runc"), "{text}\n{complaints}");
}
