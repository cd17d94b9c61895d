//! Each family of unikernels finds the machine that it expects, is told its arguments in its own words, and its end is
//! understood: with guests of the project's own that behave as each family does at its boundary.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod clones;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use sandbox::spec::{BootProtocol, DiskSpec, GuestSpec, NetworkSpec, UnikernelFamily, UnikernelGuest};
use sandbox::{ErrorKind, Exit, Sandbox, SandboxSpec, State};
use support::network::{GUEST, in_namespace, network};
use support::{PATIENCE, TempFolder, await_console, bare, console_text, created, runtime, started};

/// One of the project's guests, as its file is recognised, in the least memory of its family.
fn auto(name: &str, memory: u64, change: impl FnOnce(&mut UnikernelGuest)) -> SandboxSpec {
    let mut guest = UnikernelGuest {
        image: support::guest(name),
        ..Default::default()
    };
    change(&mut guest);
    let mut spec = bare("hello", &[]);
    spec.guest = GuestSpec::Unikernel(guest);
    spec.memory = memory << 20;
    spec
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn disk(folder: &TempFolder, id: &str) -> DiskSpec {
    DiskSpec {
        id: id.to_owned(),
        path: folder.file(id, &[0; 64 << 10]),
        ..Default::default()
    }
}

/// How it ended, and what it said.
fn run(spec: &SandboxSpec) -> (Exit, String) {
    let sandbox = started(spec);
    let exit = sandbox.wait(Some(PATIENCE)).unwrap();
    (exit, console_text(&*sandbox))
}

fn family(spec: &SandboxSpec) -> UnikernelFamily {
    runtime().kvm().unwrap().identify(spec).unwrap().family
}

#[test]
fn unikraft_finds_its_machine_and_its_end_is_a_power_off() {
    let folder = TempFolder::new();
    let mut spec = auto("as-unikraft", 2, |guest| guest.args = words(&["-v", "a b"]));
    spec.disks.push(disk(&folder, "root"));
    assert_eq!(family(&spec), UnikernelFamily::Unikraft);
    let (exit, said) = run(&spec);
    assert!(
        said.contains("as-unikraft: ok: app virtio_mmio.device=4K@0xd0000000:5 -- -v \"a b\""),
        "{said}"
    );
    assert_eq!(exit, Exit::PowerOff);
    let silent = auto("as-unikraft", 2, |_| {});
    assert!(
        run(&silent).1.contains("as-unikraft: ok: \n"),
        "a guest that is told nothing"
    );
}

#[test]
fn nanos_finds_its_machine_by_both_protocols_and_its_exit_code_arrives() {
    let folder = TempFolder::new();
    let mut spec = auto("as-nanos", 11, |guest| guest.cmdline = Some("exit=42".to_owned()));
    spec.disks.push(disk(&folder, "root"));
    assert_eq!(family(&spec), UnikernelFamily::Nanos);
    let (exit, said) = run(&spec);
    assert!(
        said.contains("as-nanos: ok: exit=42 virtio_mmio.device=4K@0x"),
        "{said}"
    );
    assert_eq!(exit, Exit::Code(42));

    let mut by_pvh = auto("as-nanos", 11, |guest| guest.protocol = BootProtocol::Pvh);
    by_pvh.disks.push(disk(&folder, "second"));
    let (exit, said) = run(&by_pvh);
    assert!(said.contains("as-nanos: ok"), "{said}");
    assert_eq!(exit, Exit::Code(0));
}

#[test]
fn osv_finds_its_machine_and_its_power_off_is_told_from_its_reboot() {
    let spec = auto("as-osv", 14, |guest| guest.args = words(&["/hello", "a b"]));
    assert_eq!(family(&spec), UnikernelFamily::Osv);
    let (exit, said) = run(&spec);
    assert!(said.contains("as-osv: ok: --nopci /hello \"a b\""), "{said}");
    assert_eq!(exit, Exit::PowerOff);
    let reboot = auto("as-osv", 14, |guest| guest.cmdline = Some("--reboot".to_owned()));
    assert_eq!(run(&reboot).0, Exit::Reset);
}

#[test]
fn hermit_finds_its_machine_and_success_is_told_from_failure() {
    let folder = TempFolder::new();
    let application = folder.file("application", &[1; 5000]);
    let mut cases = vec![
        (None, "as-hermit: ok:  \n", 0),
        (Some("exit=1".to_owned()), "as-hermit: ok: exit=1\n", 1),
    ];
    for (cmdline, line, code) in cases.drain(..) {
        let spec = auto("as-hermit", 10, |guest| {
            guest.initrd = Some(application.clone());
            guest.cmdline = cmdline;
        });
        assert_eq!(family(&spec), UnikernelFamily::Hermit);
        let (exit, said) = run(&spec);
        assert!(said.contains(line), "{said}");
        assert_eq!(exit, Exit::Code(code));
    }
}

#[test]
fn a_solo5_guest_has_its_clock_its_wait_and_its_exit_status() {
    for (argument, status) in [("exit=0", 0), ("exit=7", 7), ("exit=255", 255)] {
        let spec = auto("hvt-plain", 4, |guest| guest.args = words(&[argument]));
        assert_eq!(family(&spec), UnikernelFamily::Solo5);
        let (exit, said) = run(&spec);
        assert_eq!(said, format!("hvt-plain: {argument}\n"));
        assert_eq!(exit, Exit::Code(status));
    }
}

#[test]
fn a_solo5_guest_that_breaks_out_of_its_rights_ends_and_nothing_else_does() {
    for end in ["null", "write-code", "execute-data", "invalid"] {
        let (exit, said) = run(&auto("hvt-plain", 4, |guest| {
            guest.args = words(&[&format!("end={end}")])
        }));
        assert!(matches!(exit, Exit::TripleFault(_)), "{end}: {exit}: {said}");
    }
    for (end, what) in [
        ("halt", "halted"),
        ("port", "no hypercall"),
        ("outside", "outside of its memory"),
        ("flood", "printed"),
    ] {
        let (exit, _) = run(&auto("hvt-plain", 4, |guest| {
            guest.args = words(&[&format!("end={end}")])
        }));
        let Exit::GuestFault(report) = &exit else {
            panic!("{end}: {exit}");
        };
        assert!(report.what.contains(what), "{end}: {exit}");
    }
}

#[test]
fn a_solo5_guest_that_waits_for_ever_can_be_paused_and_stopped() {
    let sandbox = started(&auto("hvt-plain", 4, |guest| guest.args = words(&["end=wait"])));
    await_console(&*sandbox, "end=wait\n");
    for _ in 0..20 {
        sandbox.pause().unwrap();
        assert_eq!(sandbox.state(), State::Paused);
        sandbox.resume().unwrap();
    }
    assert_eq!(sandbox.stop(Duration::ZERO).unwrap(), Exit::Killed);
}

/// The guest with a disk and a card, by the names of its manifest.
fn with_devices(folder: &TempFolder) -> SandboxSpec {
    let address = format!("ip={}", GUEST.to_bits());
    let mut spec = auto("hvt-devices", 4, |guest| guest.args = vec![address]);
    spec.disks.push(disk(folder, "storage"));
    spec.networks.push(NetworkSpec {
        id: "service".to_owned(),
        ..network()
    });
    spec
}

#[test]
fn a_solo5_guest_reads_writes_and_serves() {
    in_namespace(|| {
        let folder = TempFolder::new();
        let mut spec = with_devices(&folder);
        spec.ready = Some(sandbox::spec::ReadyCheck::BootPort);
        let sandbox = started(&spec);
        let ready = sandbox.wait_ready(PATIENCE);
        assert!(ready.is_ok(), "{}", console_text(&*sandbox));
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect((GUEST, 7)).unwrap();
        let mut answer = [0; 64];
        for text in ["hello", "again", "quit"] {
            socket.send(text.as_bytes()).unwrap();
            let length = socket.recv(&mut answer).unwrap();
            assert_eq!(&answer[..length], text.as_bytes());
        }
        let exit = sandbox.wait(Some(PATIENCE)).unwrap();
        assert_eq!(exit, Exit::Code(0), "{}", console_text(&*sandbox));
        let stats = sandbox.stats().unwrap();
        assert!(stats.networks[0].received_frames >= 4 && stats.networks[0].sent_frames >= 4);
        assert_eq!((stats.disks[0].writes, stats.disks[0].written_bytes), (1, 512));
        let written = fs::read(folder.path().join("storage")).unwrap();
        let last: Vec<u8> = (0..512u32).map(|index| (index * 7 + 1) as u8).collect();
        assert_eq!(&written[(64 << 10) - 512..], last, "the last block is the guest's");
    });
}

#[test]
fn the_devices_of_a_manifest_are_those_of_the_spec() {
    let folder = TempFolder::new();
    let mut without_card = with_devices(&folder);
    without_card.networks.clear();
    let mut with_another = with_devices(&folder);
    with_another.disks.push(disk(&folder, "other"));
    let mut surplus = auto("hvt-plain", 4, |_| {});
    surplus.disks.push(disk(&folder, "storage"));
    for (spec, field) in [
        (without_card, "networks"),
        (with_another, "disks[1].id"),
        (surplus, "disks[0].id"),
    ] {
        let error = runtime().create(&spec).err().unwrap();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidSpec, Some(field)));
    }
}

#[test]
fn families_start_side_by_side_in_one_process() {
    let specs = [
        auto("as-unikraft", 2, |_| {}),
        auto("as-osv", 14, |guest| guest.args = words(&["/x"])),
        auto("hvt-plain", 4, |_| {}),
    ];
    let sandboxes: Vec<Box<dyn Sandbox>> = specs.iter().map(created).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.start().unwrap());
    for sandbox in &sandboxes {
        assert!(sandbox.wait(Some(PATIENCE)).unwrap().is_success());
    }
}
