//! Ends that come from outside.

use std::fs;
use std::path::Path;
use std::time::Duration;

use sandbox::{ContainerOptions, ErrorKind, Exit, Runtime, SandboxSpec, State};

use crate::support::container::{container, program, runtimes, script};
use crate::support::{PATIENCE, TempFolder, container_options, created, leftovers, runtime};

/// A runtime of its own, whose folder and reaper are nobody else's.
fn own_runtime(folder: &Path) -> Runtime {
    Runtime::new().with_container_options(ContainerOptions {
        state: folder.to_owned(),
        ..container_options()
    })
}

/// The first process of the only container below `folder`.
fn process_of(folder: &Path, id: &str) -> i32 {
    let pid = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .find_map(|home| fs::read_to_string(home.path().join(id).join("pid")).ok());
    pid.unwrap().trim().parse().unwrap()
}

fn kill(pid: i32) {
    // SAFETY: sends a signal; no memory is touched.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

fn idler(name: &str, id: &str) -> SandboxSpec {
    let mut spec = container(name, &["/bin/sleep", "1000000"]);
    spec.id = Some(id.to_owned());
    spec
}

#[test]
fn a_process_that_somebody_else_kills_ended_by_that_signal() {
    for name in runtimes() {
        let folder = TempFolder::new();
        let runtime = own_runtime(folder.path());
        let sandbox = runtime.create(&idler(name, "victim")).unwrap();
        sandbox.start().unwrap();
        kill(process_of(folder.path(), "victim"));
        assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Signal(9), "{name}");
        sandbox.teardown().wait(PATIENCE).unwrap();
    }
}

#[test]
fn a_process_that_dies_before_start_is_known_to_have() {
    for name in runtimes() {
        let folder = TempFolder::new();
        let runtime = own_runtime(folder.path());
        let sandbox = runtime.create(&idler(name, "stillborn")).unwrap();
        kill(process_of(folder.path(), "stillborn"));
        assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Signal(9), "{name}");
        assert_eq!(sandbox.state(), State::Stopped, "{name}");
        assert_eq!(sandbox.start().unwrap_err().kind(), ErrorKind::WrongState, "{name}");
        sandbox.teardown().wait(PATIENCE).unwrap();
    }
}

#[test]
fn with_its_reaper_a_container_is_lost_and_the_next_one_is_not() {
    for name in runtimes() {
        let folder = TempFolder::new();
        let runtime = own_runtime(folder.path());
        let sandbox = runtime.create(&idler(name, "orphan")).unwrap();
        sandbox.start().unwrap();
        let pid = process_of(folder.path(), "orphan");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        kill(parent.trim().parse().unwrap());
        let exit = sandbox.wait(Some(PATIENCE)).unwrap();
        assert!(matches!(exit, Exit::LostWorker(_)), "{name}: {exit}");
        sandbox.teardown().wait(PATIENCE).unwrap();
        assert_eq!(leftovers("-orphan"), Vec::<String>::new(), "{name}");
        let next = runtime.create(&script(name, "exit 3")).unwrap();
        next.start().unwrap();
        assert_eq!(next.wait(Some(PATIENCE)).unwrap(), Exit::Code(3), "{name}");
    }
}

#[test]
fn a_process_that_is_asked_may_end_as_it_likes() {
    for name in runtimes() {
        let text = "trap 'echo asked; exit 5' TERM; echo ready; while true; do sleep 0.05; done";
        let sandbox = created(&script(name, text));
        sandbox.start().unwrap();
        assert!(sandbox.console().wait_for(b"ready", 0, PATIENCE).is_some(), "{name}");
        assert_eq!(sandbox.stop(PATIENCE).unwrap(), Exit::Code(5), "{name}");
        assert_eq!(sandbox.console().tail(1), "asked", "{name}");
    }
}

#[test]
fn one_that_ends_at_once_can_be_paused_by_nobody() {
    for name in runtimes() {
        let sandbox = created(&script(name, "exit 0"));
        sandbox.start().unwrap();
        sandbox.wait(Some(PATIENCE)).unwrap();
        assert_eq!(sandbox.pause().unwrap_err().kind(), ErrorKind::WrongState, "{name}");
        assert_eq!(sandbox.stop(Duration::ZERO).unwrap(), Exit::Code(0), "{name}");
    }
}

#[test]
fn with_a_runtime_that_is_killed_half_way_nothing_is_left() {
    for name in runtimes() {
        for verb in ["create", "start"] {
            let folder = TempFolder::new();
            let text = format!("case \" $* \" in *' {verb} '*) {name} \"$@\"; kill -9 $$;; esac\nexec {name} \"$@\"");
            let program = program(&folder, "runtime", &text);
            let id = format!("half-{verb}-{name}-{}", std::process::id());
            let made = runtime().create(&idler(program.to_str().unwrap(), &id));
            let error = match made {
                Err(error) if verb == "create" => error,
                Ok(sandbox) if verb == "start" => {
                    let error = sandbox.start().unwrap_err();
                    assert_eq!(sandbox.state(), State::Failed, "{name}");
                    assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Killed, "{name}");
                    sandbox.teardown().wait(PATIENCE).unwrap();
                    error
                }
                other => panic!("{name}, {verb}: {other:?}"),
            };
            assert_eq!(error.kind(), ErrorKind::HostFailure, "{name}: {}", error.report());
            assert!(error.report().contains("signal 9"), "{name}: {}", error.report());
            assert_eq!(leftovers(&id), Vec::<String>::new(), "{name}, {verb}");
        }
    }
}
