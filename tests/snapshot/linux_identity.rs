//! Clones of stock Linux draw numbers of their own: told by the kernel's own driver where it has one, or by a program
//! in the guest.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use sandbox::snapshot::Given;
use sandbox::spec::{BootProtocol, VsockSpec};
use sandbox::{RestoreOptions, Uniqueness};

use crate::support::TempFolder;
use crate::support::linux::{Assets, CLOUD, Kernel, LINUX_PATIENCE, Shell};

const CLONES: usize = 10;
/// How far a clone's clock may be off, in seconds.
const CLOCK_TOLERANCE: u64 = 2;

/// It has the driver of generation identifiers, which the cloud kernel has not.
const GENERIC: Kernel = Kernel {
    flavour: "generic",
    file: "vmlinux",
    protocol: BootProtocol::Linux64,
};

/// Prints random bits, an identifier and the time.
const DRAW: &str = "head -c 16 /dev/urandom | xxd -p; cat /proc/sys/kernel/random/uuid; date +%s";
/// Returns when the kernel has re-seeded its generator. The event reaches it by a work queue of its own.
const AWAIT_RESEED: &str = "until dmesg | grep -q 'reseeded due to virtual machine fork'; do usleep 10000; done";

struct Drawn {
    random: String,
    uuid: String,
    clock: u64,
}

impl Drawn {
    fn parse(output: &str) -> Self {
        let mut lines = output.lines().map(str::to_owned);
        let mut line = || lines.next().unwrap();
        Self {
            random: line(),
            uuid: line(),
            clock: line().parse().unwrap(),
        }
    }
}

fn draw(shell: &Shell) -> Drawn {
    Drawn::parse(&shell.run(DRAW))
}

fn boot(assets: &Assets, kernel: Kernel, folder: &TempFolder) -> Shell {
    let mut spec = assets.shell(kernel, "");
    spec.memory = 192 << 20;
    spec.vsock = Some(VsockSpec {
        cid: 77,
        path: folder.path().join("parent"),
    });
    let shell = Shell::boot(&spec);
    // What a restart of the guest would lose.
    shell.run("echo kept > /tmp/nonce");
    shell
}

/// A clone that runs, and what its guest was told.
fn clone_of(parent: &Shell, folder: &TempFolder, number: usize) -> (Shell, Uniqueness) {
    let mut options = RestoreOptions {
        start: true,
        ..RestoreOptions::default()
    };
    options.overrides.vsock_path = Some(folder.path().join(format!("clone-{number}")));
    match parent.sandbox.as_fork().unwrap().fork(1, &options) {
        Ok(mut clones) => {
            let clone = clones.remove(0);
            (Shell { sandbox: clone.sandbox }, clone.uniqueness)
        }
        Err(error) => panic!("{}", error.report()),
    }
}

fn assert_all_different(drawn: &[Drawn]) {
    let random: HashSet<&str> = drawn.iter().map(|drawn| &*drawn.random).collect();
    let uuids: HashSet<&str> = drawn.iter().map(|drawn| &*drawn.uuid).collect();
    assert_eq!((random.len(), uuids.len()), (drawn.len(), drawn.len()));
}

fn host_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Draws, between two looks at the host's clock.
fn draw_in_time(clone: &Shell) -> Drawn {
    let before = host_clock();
    let drawn = draw(clone);
    let after = host_clock();
    assert!(
        (before - CLOCK_TOLERANCE..=after + CLOCK_TOLERANCE).contains(&drawn.clock),
        "the clone's clock says {}, and the host's {before} to {after}",
        drawn.clock
    );
    drawn
}

#[test]
fn the_generic_kernel_reseeds_by_its_own_driver() {
    let Some(assets) = Assets::find() else { return };
    let folder = TempFolder::new();
    let parent = boot(&assets, GENERIC, &folder);
    let drawn: Vec<Drawn> = (0..CLONES)
        .map(|number| {
            let (clone, told) = clone_of(&parent, &folder, number);
            assert_eq!((told.entropy, told.ids), (Given::Notified, Given::Notified));
            clone.run(AWAIT_RESEED);
            assert_eq!(clone.run("cat /tmp/nonce"), "kept");
            draw_in_time(&clone)
        })
        .collect();
    assert_all_different(&drawn);
}

#[test]
fn the_cloud_kernel_reseeds_by_a_program_that_confirms_it() {
    let Some(assets) = Assets::find() else { return };
    let folder = TempFolder::new();
    let parent = boot(&assets, CLOUD, &folder);
    parent.run("identity-agent > /dev/null 2> /tmp/agent-log & usleep 300000; kill -0 $!");
    let drawn: Vec<Drawn> = (0..CLONES)
        .map(|number| {
            let (clone, told) = clone_of(&parent, &folder, number);
            assert_eq!((told.entropy, told.clock), (Given::Notified, Given::Notified));
            let renewed = clone.sandbox.as_renewed().unwrap();
            let confirmed = match renewed.wait_confirmed(LINUX_PATIENCE) {
                Ok(confirmed) => confirmed,
                Err(error) => panic!("{}: {}", error.report(), clone.run("cat /tmp/agent-log")),
            };
            assert_eq!(
                (confirmed.entropy, confirmed.ids, confirmed.clock, confirmed.address),
                (
                    Given::GuestConfirmed,
                    Given::GuestConfirmed,
                    Given::GuestConfirmed,
                    Given::NotGiven
                )
            );
            assert_eq!(clone.run("cat /tmp/nonce"), "kept");
            draw_in_time(&clone)
        })
        .collect();
    assert_all_different(&drawn);
}

/// Without which the tests above would prove nothing. The kernel also re-seeds by itself when its seed is older than half
/// of its uptime, so that on a busy machine it takes a while until two clones come to draw before that.
#[test]
fn clones_that_keep_the_identity_repeat_each_other() {
    let Some(assets) = Assets::find() else { return };
    let parent = Shell::boot(&assets.shell(CLOUD, ""));
    let options = RestoreOptions {
        start: true,
        keep_identity: true,
        ..RestoreOptions::default()
    };
    let repeats = || {
        draw(&parent);
        let twins = parent.sandbox.as_fork().unwrap().fork(2, &options).unwrap();
        let twins: Vec<Shell> = twins
            .into_iter()
            .map(|twin| {
                assert_eq!(twin.uniqueness.entropy, Given::NotGiven);
                Shell { sandbox: twin.sandbox }
            })
            .collect();
        let drawing: Vec<_> = twins.iter().map(|twin| twin.begin(DRAW)).collect();
        let drawn: Vec<Drawn> = drawing
            .into_iter()
            .map(|command| Drawn::parse(&command.end().1))
            .collect();
        drawn[0].random == drawn[1].random && drawn[0].uuid == drawn[1].uuid
    };
    assert!((0..2 * CLONES).any(|_| repeats()), "no two clones are alike");
}
