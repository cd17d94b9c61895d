//! One port-I/O exit to user space and back.

use std::io::Write;

use anyhow::{Result, ensure};
use sandbox::spec::{GuestSpec, Isolation, UnikernelFamily, UnikernelGuest};
use sandbox::{Exit, KvmOptions, Runtime, SandboxSpec};

use crate::clock::{self, Span};
use crate::report::Report;
use crate::{Options, elf};

const FEW: u32 = 1_000;
const MANY: u32 = 11_000;

/// Runs a guest that writes an unowned port many times, and one that does so few times; the difference is the exits'.
pub(crate) fn round_trip(options: &Options, report: &mut Report) -> Result<()> {
    let runtime = Runtime::with_kvm_options(KvmOptions::default());
    let homes = [
        ("sdk/ports/in_process", Isolation::InProcess),
        ("sdk/ports/worker", Isolation::Worker),
    ];
    for _ in 0..options.rounds {
        for (case, home) in homes {
            let few = run(&runtime, FEW, home)?;
            let many = run(&runtime, MANY, home)?;
            let exits = u64::from(MANY - FEW);
            let each = Span {
                real: many.real.saturating_sub(few.real) / exits,
                cpu: many.cpu.saturating_sub(few.cpu) / exits,
            };
            report.add_span(case, "exit_round_trip", each);
        }
    }
    Ok(())
}

/// From the start to the end of a guest that makes `exits` exits: real time, and processor time of its vCPU's thread.
fn run(runtime: &Runtime, exits: u32, home: Isolation) -> Result<Span> {
    let path = std::env::temp_dir().join(format!("sandbox-bench-{}-{exits}.elf", std::process::id()));
    std::fs::File::create(&path)?.write_all(&elf::image(&code(exits)))?;
    let mut spec = SandboxSpec::new(GuestSpec::Unikernel(UnikernelGuest {
        image: path.clone(),
        family: UnikernelFamily::Bare,
        ..Default::default()
    }));
    spec.isolation = home;
    let sandbox = runtime.create(&spec)?;
    std::fs::remove_file(&path)?;
    let before = clock::now();
    sandbox.start()?;
    let exit = sandbox.wait(None)?;
    let span = Span {
        cpu: sandbox.stats()?.cpu.guest.unwrap_or_default(),
        ..clock::now().since(before)
    };
    ensure!(exit == Exit::Code(0), "the guest ended by {exit}");
    sandbox.teardown().wait(std::time::Duration::from_secs(10))?;
    Ok(span)
}

/// `mov ecx, exits; 1: out 0x80, al; dec ecx; jnz 1b; xor eax, eax; mov dx, 0x501; out dx, al; hlt`
fn code(exits: u32) -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend_from_slice(&exits.to_le_bytes());
    code.extend_from_slice(&[0xe6, 0x80, 0xff, 0xc9, 0x75, 0xfa]);
    code.extend_from_slice(&[0x31, 0xc0, 0x66, 0xba, 0x01, 0x05, 0xee, 0xf4]);
    code
}
