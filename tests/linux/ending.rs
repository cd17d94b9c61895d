//! Every way in which Linux ends its machine, or does not.

use std::time::Duration;

use sandbox::{ErrorKind, Exit, Phase, State};

use super::support::linux::{Assets, CLOUD, GENERIC, LINUX_PATIENCE, Shell};
use super::support::{assert_triple_fault_report, console_text, started};

/// Runs the tiny init with these words on the command line.
fn exit_with(assets: &Assets, words: &str) -> Exit {
    let sandbox = started(&assets.marker(words));
    let exit = sandbox.wait(Some(LINUX_PATIENCE)).unwrap();
    let console = console_text(&*sandbox);
    assert!(console.contains("SANDBOX-INIT"), "{words}: {exit}, console: {console}");
    exit
}

#[test]
fn power_off_is_seen() {
    let Some(assets) = Assets::find() else { return };
    assert_eq!(exit_with(&assets, "sandbox.end=power-off"), Exit::PowerOff);
}

#[test]
fn reset_is_seen_by_keyboard_controller_and_by_acpi() {
    let Some(assets) = Assets::find() else { return };
    for words in ["sandbox.end=reset", "sandbox.end=reset reboot=acpi"] {
        assert_eq!(exit_with(&assets, words), Exit::Reset, "{words}");
    }
}

#[test]
fn reset_by_triple_fault_is_a_triple_fault() {
    let Some(assets) = Assets::find() else { return };
    let exit = exit_with(&assets, "sandbox.end=reset reboot=triple");
    let Exit::TripleFault(report) = &exit else {
        panic!("ended by {exit}");
    };
    // The kernel's half of the address space.
    assert_triple_fault_report(report, 1 << 63..u64::MAX);
    assert!(report.console_tail.contains("SANDBOX-INIT"), "{report:?}");
}

#[test]
fn a_kernel_that_panics_resets_and_says_why() {
    let Some(assets) = Assets::find() else { return };
    let sandbox = started(&assets.marker("rdinit=/no-such-init"));
    let exit = sandbox.wait(Some(LINUX_PATIENCE)).unwrap();
    let console = console_text(&*sandbox);
    assert_eq!(exit, Exit::Reset, "{console}");
    assert!(console.contains("Kernel panic - not syncing"), "{console}");
}

#[test]
fn a_halted_machine_stays_until_it_is_stopped() {
    let Some(assets) = Assets::find() else { return };
    let sandbox = started(&assets.marker("sandbox.end=halt loglevel=7"));
    let halted = sandbox.console().wait_for(b"System halted", 0, LINUX_PATIENCE);
    assert!(halted.is_some(), "{}", console_text(&*sandbox));
    let error = sandbox.wait(Some(Duration::from_millis(100))).unwrap_err();
    assert_eq!((error.kind(), sandbox.state()), (ErrorKind::Timeout, State::Running));
    assert_eq!(sandbox.stop(Duration::ZERO).unwrap(), Exit::Killed);
}

#[test]
fn a_guest_that_listens_ends_by_its_power_button() {
    let Some(assets) = Assets::find() else { return };
    for kernel in [CLOUD, GENERIC] {
        let shell = Shell::boot(&assets.shell(kernel, ""));
        let command = shell.begin("exercise await-power-button && poweroff -f");
        command.await_output("exercise: listening");
        assert_eq!(shell.sandbox.stop(LINUX_PATIENCE).unwrap(), Exit::PowerOff);
    }
}

#[test]
fn a_guest_that_cannot_be_asked_or_does_not_listen_is_killed() {
    let Some(assets) = Assets::find() else { return };
    let shell = Shell::boot(&assets.shell(CLOUD, ""));
    // Nobody is there to take the press.
    assert_eq!(shell.sandbox.stop(Duration::from_millis(200)).unwrap(), Exit::Killed);
    let shell = Shell::boot(&assets.shell(CLOUD, ""));
    shell.sandbox.pause().unwrap();
    // For ever, if it were waited for.
    assert_eq!(shell.sandbox.stop(Duration::MAX).unwrap(), Exit::Killed);
}

#[test]
fn a_deadline_ends_a_boot() {
    let Some(assets) = Assets::find() else { return };
    let mut spec = assets.marker("sandbox.end=halt");
    spec.vcpus = 2;
    spec.limits.deadline_ms = Some(300);
    let sandbox = started(&spec);
    assert_eq!(sandbox.wait(Some(LINUX_PATIENCE)).unwrap(), Exit::Deadline);
    let timeline = sandbox.timeline();
    assert!(timeline.between(Phase::StartCalled, Phase::Ended).unwrap() >= 300_000_000);
}
