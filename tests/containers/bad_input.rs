//! What cannot be had is refused by name, and leaves nothing behind.

use sandbox::spec::{DiskSpec, ReadyCheck};
use sandbox::{ErrorKind, SandboxSpec};

use crate::support::container::{container, guest, process, program, runtimes, script};
use crate::support::{TempFolder, leftovers, runtime};

fn refused(spec: &SandboxSpec) -> sandbox::Error {
    match runtime().create(spec) {
        Ok(sandbox) => panic!("{} was made of {spec:?}", sandbox.id()),
        Err(error) => error,
    }
}

#[test]
fn a_runtime_that_is_none_is_named() {
    let folder = TempFolder::new();
    let plain = folder.file("plain", b"no program");
    let aged = program(&folder, "aged", "echo runc version 1.0.3");
    let cases = [
        ("no-such-runtime", ErrorKind::NotFound),
        ("/no/such/runtime", ErrorKind::NotFound),
        (plain.to_str().unwrap(), ErrorKind::PermissionDenied),
        ("/bin/true", ErrorKind::Unsupported),
        (aged.to_str().unwrap(), ErrorKind::Unsupported),
    ];
    for (name, kind) in cases {
        let error = refused(&script(name, "exit 0"));
        assert_eq!(
            (error.kind(), error.field()),
            (kind, Some("guest.container.runtime")),
            "{}",
            error.report()
        );
    }
}

#[test]
fn a_runtime_that_hangs_is_killed() {
    let folder = TempFolder::new();
    let hanging = program(&folder, "hanging", "sleep 1000");
    let error = refused(&script(hanging.to_str().unwrap(), "exit 0"));
    assert_eq!(error.kind(), ErrorKind::Timeout, "{}", error.report());
}

#[test]
fn wrong_specs_are_refused_with_their_field_and_leave_nothing() {
    type Change = fn(&mut SandboxSpec);
    let cases: [(&str, ErrorKind, Change); 8] = [
        ("guest.container.rootfs", ErrorKind::NotFound, |spec| {
            guest(spec).rootfs = Some("/no/such/folder".into());
        }),
        ("guest.container.process", ErrorKind::InvalidSpec, |spec| {
            guest(spec).process = None;
        }),
        ("guest.container.process.user", ErrorKind::InvalidSpec, |spec| {
            process(spec).user = Some("nobody-of-that-name".to_owned());
        }),
        ("disks", ErrorKind::Unsupported, |spec| {
            spec.disks = vec![DiskSpec {
                id: "disk".to_owned(),
                path: "/dev/null".into(),
                ..DiskSpec::default()
            }];
        }),
        ("rng", ErrorKind::Unsupported, |spec| spec.rng = true),
        ("ready", ErrorKind::Unsupported, |spec| {
            spec.ready = Some(ReadyCheck::BootPort)
        }),
        ("track_dirty", ErrorKind::Unsupported, |spec| spec.track_dirty = true),
        ("guest.container.mounts[0].source", ErrorKind::NotFound, |spec| {
            guest(spec).mounts = vec![sandbox::spec::MountSpec {
                source: "/no/such/source".into(),
                destination: "/tmp".into(),
                read_only: true,
            }];
        }),
    ];
    for name in runtimes() {
        for (field, kind, change) in cases {
            let mut spec = script(name, "exit 0");
            let id = format!("refused-{name}-{}", std::process::id());
            spec.id = Some(id.clone());
            change(&mut spec);
            let error = refused(&spec);
            assert_eq!(
                (error.kind(), error.field()),
                (kind, Some(field)),
                "{name}: {}",
                error.report()
            );
            assert_eq!(leftovers(&id), Vec::<String>::new(), "{name}: {field}");
        }
    }
}

#[test]
fn a_program_that_is_not_there_is_named() {
    for name in runtimes() {
        let mut spec = container(name, &["/no/such/program"]);
        let id = format!("programless-{name}-{}", std::process::id());
        spec.id = Some(id.clone());
        // Some runtimes look for it when the container is made, others when it is started.
        let error = match runtime().create(&spec) {
            Ok(sandbox) => sandbox.start().unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}: {}", error.report());
        assert_eq!(error.field(), Some("guest.container.process.args"), "{name}");
        assert!(
            error.report().contains("/no/such/program"),
            "{name}: {}",
            error.report()
        );
    }
}

#[test]
fn a_name_is_taken_once() {
    for name in runtimes() {
        let mut spec = container(name, &["/bin/sleep", "1000000"]);
        spec.id = Some(format!("taken-{name}-{}", std::process::id()));
        let first = runtime().create(&spec).unwrap();
        let error = refused(&spec);
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::AlreadyExists, Some("id")),
            "{name}"
        );
        drop(first);
    }
}
