//! Attacks by rings, registers and configuration spaces: on every device, which must work again after its reset.

use sandbox::Exit;
use sandbox::spec::{BalloonSpec, DiskSpec, VsockSpec};

use super::neighbour::{Neighbour, attackers_network, end, with_neighbour};
use super::support::{PATIENCE, TempFolder, bare, console_text, started};

/// Runs the guest that attacks in this way on a machine with every device.
fn survive(neighbour: &Neighbour, attack: &str) {
    let folder = TempFolder::new();
    let mut spec = bare("hostile", &[&format!("attack={attack}")]);
    spec.disks = vec![DiskSpec {
        id: "disk".to_owned(),
        path: folder.file("disk", &[0x5a; 64 << 10]),
        ..DiskSpec::default()
    }];
    spec.networks = vec![attackers_network()];
    spec.vsock = Some(VsockSpec {
        cid: 77,
        path: folder.path().join("vsock"),
    });
    spec.rng = true;
    spec.balloon = Some(BalloonSpec::default());
    let sandbox = started(&spec);
    let exit = neighbour.during(|| sandbox.wait(Some(PATIENCE)).unwrap());
    let console = console_text(&*sandbox);
    assert_eq!(exit, Exit::Code(0), "{attack}: {console}");
    assert!(console.contains(&format!("hostile: survived {attack}")), "{console}");
    end(&*sandbox);
}

#[test]
fn malformed_chains_break_nothing_but_their_own_device() {
    with_neighbour(|neighbour| {
        for attack in ["loops", "wild-addresses", "lengths", "indirect-tables", "random-rings"] {
            survive(neighbour, attack);
        }
    });
}

#[test]
fn rings_that_lie_break_nothing_but_their_own_device() {
    with_neighbour(|neighbour| {
        for attack in ["heads", "index-jumps", "queue-sizes", "ring-addresses"] {
            survive(neighbour, attack);
        }
    });
}

#[test]
fn registers_written_in_any_order_and_width_break_nothing_but_their_own_device() {
    with_neighbour(|neighbour| {
        for attack in ["order", "storm", "configuration", "resets"] {
            survive(neighbour, attack);
        }
    });
}

#[test]
fn ports_and_memory_that_nobody_owns_are_harmless() {
    with_neighbour(|neighbour| {
        for attack in ["ports", "sleep-control", "holes"] {
            survive(neighbour, attack);
        }
    });
}
