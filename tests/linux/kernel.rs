//! Every form of a stock kernel boots by every protocol that it has.

use std::fs;

use sandbox::spec::{BootProtocol, NetworkSpec, TapSpec};

use super::support::linux::{Assets, Kernel, Shell};
use super::support::network::{GUEST, get, in_namespace, network};

/// The second network's host and guest.
const SECOND_HOST: &str = "10.0.1.1";
const SECOND_GUEST: &str = "10.0.1.2";

/// Kernel warnings that the machine is not the reason of, each with its reason.
const EXPECTED_WARNINGS: [(&str, &str); 4] = [
    (
        "Speculative Return Stack Overflow:",
        "the host's processor has old microcode, or is emulated",
    ),
    ("hrtimer: interrupt took ", "the host was busy with something else"),
    ("PCI: Fatal: No config space access function found", "there is no PCI"),
    ("PCI: System does not support PCI", "there is no PCI"),
];

/// Warnings of a guest whose host itself found its time-stamp counter unstable.
const UNSTABLE_COUNTER: [&str; 6] = [
    "clocksource: timekeeping watchdog on CPU",
    "clocksource:                       '",
    "Unstable clock detected, switching default tracing clock",
    "If you want to keep using the local clock, then add:",
    "  \"trace_clock=local\"",
    "on the kernel command line",
];

fn host_trusts_its_counter() -> bool {
    let source = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource").unwrap();
    source.trim() == "tsc"
}

/// The warnings that nothing explains.
fn unexpected(warnings: &[String]) -> Vec<&String> {
    let stable = host_trusts_its_counter();
    let explained = |warning: &str| {
        let text = warning.split_once("] ").map_or(warning, |(_, text)| text);
        EXPECTED_WARNINGS.iter().any(|(expected, _)| text.starts_with(expected))
            || (!stable && UNSTABLE_COUNTER.iter().any(|expected| text.starts_with(expected)))
    };
    warnings.iter().filter(|warning| !explained(warning)).collect()
}

fn second_network() -> NetworkSpec {
    NetworkSpec {
        id: "second".to_owned(),
        tap: TapSpec::Create {
            name: None,
            host_address: Some(format!("{SECOND_HOST}/24")),
        },
        ..NetworkSpec::default()
    }
}

/// Boots with the root on a disk and two cards, and has the guest answer the host on both.
fn serves_and_powers_off(kernel: Kernel, vcpus: u32) {
    let Some(assets) = Assets::find() else { return };
    in_namespace(move || {
        let words = format!("sandbox.net0={GUEST}/24 sandbox.net1={SECOND_GUEST}/24");
        let mut spec = assets.shell(kernel, &words);
        spec.vcpus = vcpus;
        spec.networks = vec![network(), second_network()];
        let shell = Shell::boot(&spec);
        assert_eq!(shell.run("uname -r"), assets.release(kernel));
        assert_eq!(shell.number("SANDBOX-CPUS"), u64::from(vcpus));
        let warnings = shell.warnings();
        assert!(unexpected(&warnings).is_empty(), "{}", warnings.join("\n"));
        for guest in [GUEST, SECOND_GUEST.parse().unwrap()] {
            assert!(get(guest).contains("Served by a sandbox."));
        }
        shell.power_off();
    });
}

#[test]
fn cloud_bzimage() {
    let kernel = Kernel {
        flavour: "cloud",
        file: "vmlinuz",
        protocol: BootProtocol::Linux64,
    };
    serves_and_powers_off(kernel, 1);
}

#[test]
fn cloud_vmlinux_by_linux_protocol() {
    let kernel = Kernel {
        flavour: "cloud",
        file: "vmlinux",
        protocol: BootProtocol::Linux64,
    };
    serves_and_powers_off(kernel, 2);
}

#[test]
fn cloud_vmlinux_by_pvh() {
    let kernel = Kernel {
        flavour: "cloud",
        file: "vmlinux",
        protocol: BootProtocol::Pvh,
    };
    serves_and_powers_off(kernel, 3);
}

#[test]
fn generic_bzimage() {
    let kernel = Kernel {
        flavour: "generic",
        file: "vmlinuz",
        protocol: BootProtocol::Linux64,
    };
    serves_and_powers_off(kernel, 4);
}

#[test]
fn generic_vmlinux_by_linux_protocol() {
    let kernel = Kernel {
        flavour: "generic",
        file: "vmlinux",
        protocol: BootProtocol::Linux64,
    };
    serves_and_powers_off(kernel, 1);
}

#[test]
fn generic_vmlinux_by_pvh() {
    let kernel = Kernel {
        flavour: "generic",
        file: "vmlinux",
        protocol: BootProtocol::Pvh,
    };
    serves_and_powers_off(kernel, 2);
}
