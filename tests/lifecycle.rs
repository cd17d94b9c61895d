//! A sandbox's life through the trait: verbs, states, ends.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use sandbox::{ErrorKind, Exit, Phase, Sandbox, State};
use support::{PATIENCE, assert_triple_fault_report, await_console, bare, console_text, created, started};

#[test]
fn hello_runs_from_create_to_torn_down() {
    let sandbox = created(&bare("hello", &["exit=7"]));
    assert_eq!(sandbox.state(), State::Created);
    sandbox.start().unwrap();
    assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Code(7));
    assert_eq!(sandbox.state(), State::Stopped);
    assert!(console_text(&*sandbox).contains("hello"), "{}", console_text(&*sandbox));
    let stats = sandbox.stats().unwrap();
    assert!(stats.memory.guest_touched.unwrap() > 0 && stats.cpu.exits.unwrap() > 0);
    sandbox.teardown().wait(PATIENCE).unwrap();
    assert_eq!(sandbox.state(), State::TornDown);
    assert_eq!(
        sandbox.wait(None).unwrap(),
        Exit::Code(7),
        "the exit status outlives teardown"
    );
    let timeline = sandbox.timeline();
    for (earlier, later) in [
        (Phase::Called, Phase::SpecChecked),
        (Phase::SpecChecked, Phase::VmCreated),
        (Phase::VmCreated, Phase::MemoryMapped),
        (Phase::MemoryMapped, Phase::KernelLoaded),
        (Phase::KernelLoaded, Phase::DevicesReady),
        (Phase::DevicesReady, Phase::VcpusReady),
        (Phase::VcpusReady, Phase::Created),
        (Phase::StartCalled, Phase::FirstEntry),
        (Phase::FirstEntry, Phase::FirstExit),
        (Phase::FirstExit, Phase::Ended),
        (Phase::Ended, Phase::ExitPublished),
        (Phase::TeardownCalled, Phase::TornDown),
    ] {
        assert!(
            timeline.between(earlier, later).is_some(),
            "{earlier:?} before {later:?}: {timeline:?}"
        );
    }
}

#[test]
fn every_way_to_end_is_told_apart() {
    let cases = [
        (&["end=exit", "exit=42"][..], Exit::Code(42)),
        (&["end=power-off"], Exit::PowerOff),
        (&["end=power-off-legacy"], Exit::PowerOff),
        (&["end=reset"], Exit::Reset),
    ];
    for (arguments, expected) in cases {
        let sandbox = started(&bare("endings", arguments));
        assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), expected, "{arguments:?}");
    }
}

#[test]
fn a_triple_fault_comes_with_registers_and_console() {
    let sandbox = started(&bare("endings", &["end=triple-fault"]));
    let exit = sandbox.wait(Some(PATIENCE)).unwrap();
    let Exit::TripleFault(report) = &exit else {
        panic!("ended by {exit}");
    };
    // Behind the address at which the guest was loaded.
    assert_triple_fault_report(report, 1 << 20..2 << 20);
    assert!(report.console_tail.contains("triple-fault"), "{report:?}");
}

#[test]
fn an_instruction_that_the_host_lacks_is_named() {
    let sandbox = started(&bare("endings", &["end=sse"]));
    match sandbox.wait(Some(PATIENCE)).unwrap() {
        // A complete KVM executes it, and the guest goes on to its end.
        Exit::Code(0) => {}
        Exit::GuestFault(report) => {
            assert!(report.what.contains("software KVM"), "{report:?}");
            assert!(
                !report.instruction.is_empty() && report.registers.is_some(),
                "{report:?}"
            );
        }
        other => panic!("ended by {other}"),
    }
}

#[test]
fn a_deadline_ends_a_guest_that_does_not() {
    let mut spec = bare("endings", &["end=spin"]);
    spec.limits.deadline_ms = Some(50);
    let sandbox = started(&spec);
    assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Deadline);
    let timeline = sandbox.timeline();
    assert!(timeline.between(Phase::StartCalled, Phase::Ended).unwrap() >= 50_000_000);
}

#[test]
fn stop_ends_guests_that_spin_halt_or_are_paused() {
    for end in ["end=spin", "end=halt"] {
        let sandbox = started(&bare("endings", &[end]));
        assert_eq!(sandbox.stop(Duration::ZERO).unwrap(), Exit::Killed, "{end}");
        assert_eq!(sandbox.state(), State::Stopped);
        assert_eq!(
            sandbox.stop(Duration::ZERO).unwrap(),
            Exit::Killed,
            "a second stop tells the same"
        );
    }
    let paused = started(&bare("endings", &["end=spin"]));
    paused.pause().unwrap();
    assert_eq!(paused.stop(Duration::ZERO).unwrap(), Exit::Killed);
    let never_started = created(&bare("hello", &[]));
    assert_eq!(never_started.stop(Duration::ZERO).unwrap(), Exit::Killed);
}

#[test]
fn a_paused_guest_stands_still_and_a_resumed_one_goes_on() {
    let sandbox = started(&bare("endings", &["end=flood"]));
    let console = sandbox.console();
    for _ in 0..5 {
        let before = console.read_from(0).end();
        assert!(
            !console.wait_from(before, PATIENCE).bytes.is_empty(),
            "no output while running"
        );
        sandbox.pause().unwrap();
        let paused_at = console.read_from(0).end();
        let later = console.wait_from(paused_at, Duration::from_millis(20));
        assert_eq!(later.bytes, b"", "output while paused");
        sandbox.resume().unwrap();
    }
    sandbox.stop(Duration::ZERO).unwrap();
}

#[test]
fn verbs_in_the_wrong_state_change_nothing() {
    let wrong = |result: sandbox::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::WrongState);
    let sandbox = created(&bare("endings", &["end=spin"]));
    wrong(sandbox.pause());
    wrong(sandbox.resume());
    wrong(sandbox.wait_ready(Duration::ZERO));
    wrong(sandbox.console_write(b"x").map(drop));
    assert_eq!(sandbox.state(), State::Created);
    sandbox.start().unwrap();
    wrong(sandbox.start());
    wrong(sandbox.resume());
    sandbox.pause().unwrap();
    wrong(sandbox.pause());
    wrong(sandbox.start());
    assert_eq!(sandbox.state(), State::Paused);
    sandbox.stop(Duration::ZERO).unwrap();
    wrong(sandbox.resume());
    sandbox.teardown().wait(PATIENCE).unwrap();
    wrong(sandbox.start());
    wrong(sandbox.stop(Duration::ZERO).map(drop));
    wrong(sandbox.stats().map(drop));
}

#[test]
fn the_exit_status_reaches_everybody_who_asks() {
    let sandbox: Arc<dyn Sandbox> = started(&bare("hello", &["exit=3"])).into();
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let sandbox = Arc::clone(&sandbox);
            std::thread::spawn(move || sandbox.wait(Some(PATIENCE)).unwrap())
        })
        .collect();
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), Exit::Code(3));
    }
    assert_eq!(sandbox.wait(Some(Duration::ZERO)).unwrap(), Exit::Code(3));
}

#[test]
fn waiting_for_a_running_guest_times_out_and_leaves_it_running() {
    let sandbox = started(&bare("endings", &["end=halt"]));
    let error = sandbox.wait(Some(Duration::from_millis(5))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(sandbox.state(), State::Running);
}

#[test]
fn teardown_works_from_every_state_and_twice() {
    let in_state: [fn() -> Box<dyn Sandbox>; 4] = [
        || created(&bare("hello", &[])),
        || started(&bare("endings", &["end=spin"])),
        || {
            let sandbox = started(&bare("endings", &["end=spin"]));
            sandbox.pause().unwrap();
            sandbox
        },
        || {
            let sandbox = started(&bare("hello", &[]));
            sandbox.wait(Some(PATIENCE)).unwrap();
            sandbox
        },
    ];
    for make in in_state {
        let sandbox = make();
        let before = sandbox.state();
        let teardown = sandbox.teardown();
        teardown.wait(PATIENCE).unwrap();
        sandbox.teardown().wait(PATIENCE).unwrap();
        assert_eq!(sandbox.state(), State::TornDown, "from {before}");
        let exit = sandbox.wait(Some(PATIENCE)).unwrap();
        assert_eq!(exit == Exit::Killed, before != State::Stopped, "from {before}: {exit}");
    }
}

#[test]
fn a_guest_that_dies_before_it_is_ready_is_told_so() {
    use sandbox::spec::ReadyCheck;
    let marker = ReadyCheck::Console {
        marker: "never said".to_owned(),
    };
    for check in [marker, ReadyCheck::BootPort] {
        let mut spec = bare("hello", &[]);
        spec.ready = Some(check);
        let sandbox = started(&spec);
        assert_eq!(sandbox.wait_ready(PATIENCE).unwrap_err().kind(), ErrorKind::GuestEnded);
    }
}

#[test]
fn readiness_by_console_passes_and_is_stamped() {
    let mut spec = bare("hello", &[]);
    spec.ready = Some(sandbox::spec::ReadyCheck::Console {
        marker: "hello".to_owned(),
    });
    let sandbox = started(&spec);
    sandbox.wait_ready(PATIENCE).unwrap();
    sandbox.wait_ready(Duration::ZERO).unwrap();
    assert!(sandbox.timeline().at(Phase::Ready).is_some());
}

#[test]
fn console_input_reaches_the_guest() {
    let sandbox = started(&bare("endings", &["end=echo"]));
    assert_eq!(sandbox.console_write(b"good morning\n").unwrap(), 13);
    await_console(&*sandbox, "GOOD MORNING");
    sandbox.console_write(b"quit\n").unwrap();
    assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Code(0));
}

#[test]
fn console_output_is_bounded() {
    let mut spec = bare("endings", &["end=flood"]);
    spec.limits.console_bytes = 1000;
    let sandbox = started(&spec);
    let console = sandbox.console();
    let mut chunk = console.read_from(0);
    while chunk.end() < 5000 {
        chunk = console.wait_from(chunk.end(), PATIENCE);
        assert!(!chunk.bytes.is_empty(), "the flood dried up");
    }
    let held = console.read_from(0);
    assert!(
        held.bytes.len() <= 1000 && held.start >= 4000,
        "{} bytes from {}",
        held.bytes.len(),
        held.start
    );
}
