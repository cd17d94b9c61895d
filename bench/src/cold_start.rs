//! Cold starts: from the call to a guest's first instruction, its end, and everything given back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandbox::spec::{GuestSpec, HugePages, Isolation, LinuxGuest, UnikernelFamily, UnikernelGuest};
use sandbox::{Exit, KvmOptions, Phase, Runtime, SandboxSpec, Timeline, WorkerOptions};

use crate::clock::{self, Span};
use crate::report::{Report, Unit};
use crate::{Options, peers};

/// Rounds that are not counted: caches fill, and the kernel is read into the store.
pub(crate) const WARM_UP: usize = 2;
/// Longer than it takes to make an idle worker.
const SETTLE: Duration = Duration::from_millis(100);
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const INIT_MARKER: &str = "SANDBOX-INIT";
/// What the baselines of other monitors were measured with.
const LINUX_COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=1 nomodule 8250.nr_uarts=1 initcall_blacklist=i8042_init reboot=k";

/// `hello`: floor, SDK and QEMU in turn.
pub(crate) fn hello(options: &Options, report: &mut Report) -> Result<()> {
    let image = Image::write("hello", sandbox_guests::HELLO)?;
    let ways = [
        ("sdk/hello/in_process", Isolation::InProcess, runtime(0)),
        ("sdk/hello/worker/cold", Isolation::Worker, runtime(0)),
        ("sdk/hello/worker/pool", Isolation::Worker, runtime(1)),
    ];
    let mut spec = bare_spec(image.path());
    for round in 0..options.rounds + WARM_UP {
        let counted = round >= WARM_UP;
        for (case, jailed) in [("floor/hello", false), ("floor/hello/worker", true)] {
            let Some(program) = &options.floor else { continue };
            let floor = peers::floor(program, image.path(), jailed)?;
            if counted {
                report.add_span(case, "call_to_first_entry", floor.first_entry);
                report.add_span(case, "call_to_first_exit", floor.first_exit);
                report.add_span(case, "call_to_torn_down", floor.torn_down);
            }
        }
        for (case, isolation, runtime) in &ways {
            spec.isolation = *isolation;
            let sdk = cold_start(runtime, &spec)?;
            ensure!(sdk.exit == Exit::Code(0), "{case}: hello ended by {}", sdk.exit);
            if counted {
                add_timeline(report, case, &sdk);
            }
            // An idle worker is made meanwhile, so that the next round finds one and the others are not disturbed.
            std::thread::sleep(SETTLE);
        }
        if let Some(qemu) = &options.qemu {
            let mut command = peers::qemu_microvm(qemu);
            command
                .arg("-kernel")
                .arg(image.path())
                .args(["-device", "isa-debug-exit,iobase=0x501,iosize=2"]);
            let (text, span) = peers::run(command)?;
            ensure!(text.contains("hello"), "QEMU's guest said {text:?}");
            if counted {
                report.add_span("qemu-microvm/hello", "call_to_torn_down", span);
            }
        }
    }
    Ok(())
}

/// A stock Linux kernel to its init: SDK and QEMU in turn.
pub(crate) fn linux(options: &Options, report: &mut Report) -> Result<()> {
    let kernel = options.kernel.as_deref().context("--kernel is needed")?;
    let initrd = options.initrd.as_deref().context("--initrd is needed")?;
    let mut spec = SandboxSpec::new(GuestSpec::Linux(LinuxGuest {
        kernel: kernel.to_owned(),
        initrd: Some(initrd.to_owned()),
        cmdline: LINUX_COMMAND_LINE.to_owned(),
        ..Default::default()
    }));
    spec.ready = Some(sandbox::spec::ReadyCheck::Console {
        marker: INIT_MARKER.to_owned(),
    });
    let runtime = runtime(0);
    for round in 0..options.rounds + 1 {
        let counted = round > 0;
        for (case, isolation, huge_pages) in [
            ("sdk/linux/in_process", Isolation::InProcess, HugePages::Auto),
            (
                "sdk/linux-small-pages/in_process",
                Isolation::InProcess,
                HugePages::Never,
            ),
            ("sdk/linux/worker/cold", Isolation::Worker, HugePages::Auto),
        ] {
            spec.isolation = isolation;
            spec.huge_pages = huge_pages;
            let sdk = cold_start(&runtime, &spec)?;
            ensure!(sdk.exit == Exit::PowerOff, "Linux ended by {}", sdk.exit);
            if counted {
                add_timeline(report, case, &sdk);
            }
        }
        if let Some(qemu) = &options.qemu {
            let span = qemu_to_init(qemu, kernel, initrd)?;
            if counted {
                report.add_span("qemu-microvm/linux", "call_to_ready", span);
            }
        }
    }
    Ok(())
}

/// One cold start of `hello` that counts: the second, between two calls of getppid that a tracer finds.
pub(crate) fn once() -> Result<()> {
    let image = Image::write("hello", sandbox_guests::HELLO)?;
    let runtime = Runtime::new();
    let spec = bare_spec(image.path());
    cold_start(&runtime, &spec)?;
    // SAFETY: getppid has no preconditions.
    unsafe { libc::getppid() };
    let end = cold_start(&runtime, &spec)?;
    // SAFETY: as above.
    unsafe { libc::getppid() };
    println!("{}", end.exit);
    Ok(())
}

/// A cold start from call to torn down.
pub(crate) struct ColdStart {
    pub(crate) exit: Exit,
    timeline: Timeline,
    /// From the guest's last exit to its status in the caller's hands, in nanoseconds.
    exit_to_status: u64,
    /// From the call to everything given back, as the caller sees it.
    torn_down: Span,
}

pub(crate) fn cold_start(runtime: &Runtime, spec: &SandboxSpec) -> Result<ColdStart> {
    let before = clock::now();
    let sandbox = runtime.create(spec)?;
    sandbox.start()?;
    if spec.ready.is_some() {
        sandbox.wait_ready(PATIENCE)?;
    }
    let exit = sandbox.wait(Some(PATIENCE))?;
    let told = Instant::now();
    sandbox.teardown().wait(PATIENCE)?;
    let timeline = sandbox.timeline();
    let ended = Duration::from_nanos(timeline.at(Phase::Ended).context("the guest has no end")?);
    Ok(ColdStart {
        exit,
        exit_to_status: told.saturating_duration_since(timeline.origin() + ended).as_nanos() as u64,
        timeline,
        torn_down: clock::now().since(before),
    })
}

pub(crate) fn add_timeline(report: &mut Report, case: &str, start: &ColdStart) {
    let timeline = &start.timeline;
    let at = |phase| {
        Some(Span {
            real: timeline.at(phase)?,
            cpu: timeline.cpu_at(phase)?,
        })
    };
    let phases = [
        ("call_to_first_entry", Phase::FirstEntry),
        ("call_to_first_exit", Phase::FirstExit),
        ("call_to_ready", Phase::Ready),
    ];
    for (metric, phase) in phases {
        // Every guest is ready when it runs; what counts is the check of a spec that has one.
        let Some(span) = at(phase) else { continue };
        match timeline.cpu_at(Phase::FirstEntry) {
            // The embedder saw it and knows its own processor time alone, not that of the guest's worker.
            Some(entered) if span.cpu < entered => {
                report.add(case, metric, Unit::Microseconds, span.real as f64 / 1000.0, None);
            }
            _ => report.add_span(case, metric, span),
        }
    }
    report.add_span(case, "call_to_torn_down", start.torn_down);
    let told = start.exit_to_status as f64 / 1000.0;
    report.add(case, "exit_to_status", Unit::Microseconds, told, None);
    if let Some(returned) = timeline.between(Phase::TeardownCalled, Phase::TeardownReturned) {
        report.add(
            case,
            "teardown_returned",
            Unit::Microseconds,
            returned as f64 / 1000.0,
            None,
        );
    }
}

/// From the start of QEMU to the marker of its guest's init; the machine's whole processor time in between, since a
/// process's own can be had at its end alone.
fn qemu_to_init(qemu: &Path, kernel: &Path, initrd: &Path) -> Result<Span> {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let mut command = peers::qemu_microvm(qemu);
    command
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", LINUX_COMMAND_LINE]);
    let before = clock::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    let output = child.stdout.take().context("QEMU has no output")?;
    let mut real = None;
    for line in BufReader::new(output).split(b'\n') {
        if String::from_utf8_lossy(&line?).contains(INIT_MARKER) {
            real = Some(clock::now().since(before).real);
            break;
        }
    }
    child.kill()?;
    let cpu = clock::reap(child)?;
    let real = real.context("QEMU's guest did not reach its init")?;
    Ok(Span {
        real,
        cpu: cpu.min(real),
    })
}

/// A runtime that keeps so many workers ready.
pub(crate) fn runtime(idle: usize) -> Runtime {
    let worker = WorkerOptions {
        idle,
        ..WorkerOptions::default()
    };
    Runtime::with_kvm_options(KvmOptions {
        cpu_timeline: true,
        worker,
        ..KvmOptions::default()
    })
}

pub(crate) fn bare_spec(image: &Path) -> SandboxSpec {
    let mut spec = SandboxSpec::new(GuestSpec::Unikernel(UnikernelGuest {
        image: image.to_owned(),
        family: UnikernelFamily::Bare,
        ..Default::default()
    }));
    spec.isolation = Isolation::InProcess;
    spec
}

/// A guest's image in a file of its own, which goes with the value.
pub(crate) struct Image(PathBuf);

impl Image {
    pub(crate) fn write(name: &str, image: &[u8]) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("sandbox-bench-{name}-{}", std::process::id()));
        std::fs::write(&path, image)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // It lies in the temporary folder; nothing is lost if it stays.
        let _ = std::fs::remove_file(&self.0);
    }
}
