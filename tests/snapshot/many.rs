//! Many clones at a time.

use std::net::Ipv4Addr;

use sandbox::snapshot::NetworkOverride;
use sandbox::spec::{ReadyCheck, TapSpec};
use sandbox::{RestoreOptions, Sandbox};

use crate::support::network::{get, in_namespace, network, with_guest_address};
use crate::support::{PATIENCE, bare, has_time, started};

/// Descriptors that a clone may hold.
const DESCRIPTORS: usize = 16;

fn count() -> u16 {
    match has_time() {
        true => 1000,
        false => 25,
    }
}

/// The subnet of a clone: the host's address and the guest's.
fn addresses(number: u16) -> (Ipv4Addr, Ipv4Addr) {
    let subnet = u32::from(Ipv4Addr::new(10, 64, 0, 0)) + 4 * u32::from(number);
    (Ipv4Addr::from(subnet + 1), Ipv4Addr::from(subnet + 2))
}

#[test]
fn forks_of_one_parent_are_alive_at_once_and_each_answers() {
    in_namespace(|| {
        let mut spec = bare("http-reply", &[]);
        spec.networks = vec![with_guest_address(network())];
        spec.ready = Some(ReadyCheck::BootPort);
        let parent = started(&spec);
        parent.wait_ready(PATIENCE).unwrap();
        let clones: Vec<Box<dyn Sandbox>> = (0..count())
            .map(|number| {
                let (host, guest) = addresses(number);
                let own = NetworkOverride {
                    tap: Some(TapSpec::Create {
                        name: None,
                        host_address: Some(format!("{host}/30")),
                    }),
                    address: Some(format!("{guest}/30")),
                    ..NetworkOverride::default()
                };
                let mut options = RestoreOptions {
                    start: true,
                    ..RestoreOptions::default()
                };
                options.overrides.networks.insert("net".to_owned(), own);
                let mut clones = parent.as_fork().unwrap().fork(1, &options).unwrap();
                clones.remove(0).sandbox
            })
            .collect();
        for (number, clone) in (0..).zip(&clones) {
            clone.as_renewed().unwrap().wait_confirmed(PATIENCE).unwrap();
            let (_, guest) = addresses(number);
            assert_eq!(get(guest), "hello from http-reply\nrequest 1\n");
        }
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        // The other tests of this program have theirs beside.
        if count() >= 1000 {
            assert!(open <= DESCRIPTORS * clones.len(), "{open} descriptors");
        }
        let teardowns: Vec<_> = clones.iter().map(|clone| clone.teardown()).collect();
        for teardown in teardowns {
            teardown.wait(PATIENCE).unwrap();
        }
    });
}
