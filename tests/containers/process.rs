//! What a container's process finds.

use sandbox::spec::MountSpec;
use sandbox::{Exit, SandboxSpec};

use crate::support::container::{guest, process, runtimes, script};
use crate::support::{PATIENCE, TempFolder, console_text, created};

/// Runs it to its end, which must be good, and gives what it wrote.
fn output(spec: &SandboxSpec) -> String {
    let sandbox = created(spec);
    sandbox.start().unwrap();
    let exit = sandbox.wait(Some(PATIENCE)).unwrap();
    let text = console_text(&*sandbox);
    assert_eq!(exit, Exit::Code(0), "{:?}: {text}", spec.guest);
    text
}

#[test]
fn environment_folder_user_and_name_are_those_of_the_spec() {
    for name in runtimes() {
        let mut spec = script(name, "echo $WORD $PWD $(id -u):$(id -g) $(id -G) $(hostname)");
        guest(&mut spec).hostname = Some("boxed".to_owned());
        let process = process(&mut spec);
        process.env = vec!["WORD=heard".to_owned()];
        process.cwd = Some("/tmp".into());
        process.user = Some("web".to_owned());
        assert_eq!(output(&spec), "heard /tmp 33:33 33 44 boxed\n", "{name}");
    }
}

#[test]
fn rights_are_few() {
    for name in runtimes().into_iter().filter(|name| *name != "runsc") {
        let text = "cat /proc/self/status";
        let status = output(&script(name, text));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().to_owned()
        };
        assert_eq!(field("NoNewPrivs:"), "1", "{name}");
        assert_eq!(field("Seccomp:"), "2", "{name}");
        let held = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
        const SYS_ADMIN: u64 = 1 << 21;
        const NET_RAW: u64 = 1 << 13;
        assert_eq!(held & (SYS_ADMIN | NET_RAW), 0, "{name}: {held:x}");
    }
}

#[test]
fn the_network_is_a_loopback_unless_asked_for() {
    for name in runtimes() {
        let interfaces = output(&script(name, "ls /sys/class/net 2>/dev/null || echo lo"));
        assert_eq!(interfaces, "lo\n", "{name}");
    }
}

#[test]
fn a_mount_shows_the_host_folder_and_keeps_to_its_access() {
    for name in runtimes() {
        let folder = TempFolder::new();
        folder.file("there", b"from the host\n");
        let mount = |destination: &str, read_only| MountSpec {
            source: folder.path().to_owned(),
            destination: destination.into(),
            read_only,
        };
        let text = "cat /tmp/ro/there; touch /tmp/rw/new; touch /tmp/ro/denied 2>/dev/null || echo denied";
        let mut spec = script(name, text);
        guest(&mut spec).mounts = vec![mount("/tmp/ro", true), mount("/tmp/rw", false)];
        // Mount points in the root file system are made in the sandbox's own layer.
        assert_eq!(output(&spec), "from the host\ndenied\n", "{name}");
        assert!(folder.path().join("new").exists() && !folder.path().join("denied").exists());
    }
}

#[test]
fn a_terminal_is_one() {
    for name in runtimes() {
        let mut spec = script(
            name,
            "[ -t 0 ] && [ -t 1 ] && echo terminal; read line; echo \"heard $line\"",
        );
        process(&mut spec).terminal = true;
        let sandbox = created(&spec);
        sandbox.start().unwrap();
        assert!(sandbox.console().wait_for(b"terminal", 0, PATIENCE).is_some(), "{name}");
        assert_eq!(sandbox.console_write(b"it\n").unwrap(), 3, "{name}");
        assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Code(0), "{name}");
        let text = console_text(&*sandbox);
        assert!(text.contains("heard it\r\n"), "{name}: {text:?}");
    }
}

#[test]
fn input_that_is_ended_is_at_its_end() {
    for name in runtimes() {
        let mut spec = script(name, "cat; echo end");
        process(&mut spec).stdin = true;
        let sandbox = created(&spec);
        sandbox.start().unwrap();
        assert_eq!(sandbox.console_write(b"words\n").unwrap(), 6);
        assert_eq!(sandbox.console_write(b"").unwrap(), 0);
        assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Code(0), "{name}");
        assert_eq!(console_text(&*sandbox), "words\nend\n", "{name}");
        // Without an input there is nothing to read at once.
        assert_eq!(output(&script(name, "cat; echo end")), "end\n", "{name}");
    }
}

#[test]
fn output_of_both_kinds_is_in_order_and_none_is_lost() {
    for name in runtimes() {
        let mut spec = script(
            name,
            "i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i + 1)); echo e >&2; done",
        );
        spec.limits.console_bytes = 1 << 20;
        let expected: String = (0..5000).map(|number| format!("{number}\ne\n")).collect();
        assert!(output(&spec) == expected, "{name}");
    }
}
