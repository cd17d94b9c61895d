//! Clones of a guest whose address cannot change, each in a network of its own.

use std::os::fd::AsRawFd;
use std::path::Path;

use sandbox::snapshot::NetworkOverride;
use sandbox::spec::{ReadyCheck, TapSpec};
use sandbox::{RestoreOptions, Sandbox, SnapshotOptions};
use sandbox_net::{AttachRequest, BridgeSettings, CloneNetwork, GuestNetwork, LinkControl, Networks};

use super::restore::{restored, snapshot};
use super::support::network::{GUEST, HOST, get, in_namespace, interface_exists, network_on, with_guest_address};
use super::support::{PATIENCE, TempFolder, bare, skip, started};

/// A web server that is told its address once.
fn original() -> Box<dyn Sandbox> {
    let tap = TapSpec::Create {
        name: Some("original".to_owned()),
        host_address: Some(format!("{HOST}/24")),
    };
    let mut spec = bare("http-reply", &[]);
    spec.networks = vec![with_guest_address(network_on(tap))];
    spec.ready = Some(ReadyCheck::BootPort);
    let sandbox = started(&spec);
    sandbox.wait_ready(PATIENCE).unwrap();
    sandbox
}

fn clone_network(number: u32, known: &GuestNetwork) -> CloneNetwork {
    let request = AttachRequest {
        id: format!("clone-{}-{number}", std::process::id()),
        bridge: BridgeSettings {
            name: "sb-clones".to_owned(),
            subnet: Some("10.89.0.0/24".parse().unwrap()),
            isolated: true,
        },
        address: None,
        mac: None,
        mtu: None,
        ports: Vec::new(),
    };
    Networks::default().clone_network(&request, known).unwrap()
}

/// What a clone is asked for that has this tap.
fn on(tap: &impl AsRawFd) -> RestoreOptions {
    let mut options = RestoreOptions {
        start: true,
        ..RestoreOptions::default()
    };
    let network = NetworkOverride {
        tap: Some(TapSpec::Fd(tap.as_raw_fd())),
        ..NetworkOverride::default()
    };
    options.overrides.networks.insert("net".to_owned(), network);
    options
}

fn has_nft() -> bool {
    let found = ["/usr/sbin/nft", "/usr/bin/nft"]
        .iter()
        .any(|path| Path::new(path).exists());
    if !found {
        skip("needs nft");
    }
    found
}

#[test]
fn restored_and_forked_clones_with_one_address_all_answer_by_their_own() {
    if !has_nft() {
        return;
    }
    in_namespace(|| {
        let folder = TempFolder::new();
        let path = folder.path().join("snapshot");
        let original = original();
        assert_eq!(get(GUEST), "hello from http-reply\nrequest 1\n");
        snapshot(&*original, &path, &SnapshotOptions::default());
        let known = GuestNetwork {
            gateway: format!("{HOST}/24").parse().unwrap(),
            gateway_mac: Some(LinkControl::open().unwrap().state("original").unwrap().mac),
            guest: GUEST,
            mtu: None,
        };

        let networks: Vec<CloneNetwork> = (0..3).map(|number| clone_network(number, &known)).collect();
        let taps: Vec<_> = networks.iter().map(|network| network.tap().unwrap()).collect();
        let mut clones = vec![
            restored(&path, &on(&taps[0])).sandbox,
            restored(&path, &on(&taps[1])).sandbox,
        ];
        let forked = original.as_fork().unwrap().fork(1, &on(&taps[2])).unwrap();
        clones.extend(forked.into_iter().map(|clone| clone.sandbox));

        // All go on from the one request that the original had had by then.
        for network in networks.iter().rev() {
            assert_eq!(get(network.address()), "hello from http-reply\nrequest 2\n");
        }
        assert_eq!(get(GUEST), "hello from http-reply\nrequest 2\n");

        for clone in clones {
            clone.teardown().wait(PATIENCE).unwrap();
        }
        for network in &networks {
            network.teardown().unwrap();
            assert!(!network.namespace().exists());
        }
        assert!(!interface_exists("sb-clones"));
    });
}
