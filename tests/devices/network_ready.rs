//! Readiness over the network.

use std::net::SocketAddr;
use std::time::Duration;

use sandbox::spec::ReadyCheck;
use sandbox::{ErrorKind, Phase};

use super::network::server;
use super::support::network::{GUEST, in_namespace, network};
use super::support::{PATIENCE, bare, created, started};

fn address() -> SocketAddr {
    SocketAddr::from((GUEST, 80))
}

#[test]
fn a_guest_that_serves_passes_every_check() {
    in_namespace(|| {
        for check in [
            ReadyCheck::BootPort,
            ReadyCheck::Tcp { address: address() },
            ReadyCheck::Http {
                address: address(),
                path: "/health".to_owned(),
            },
        ] {
            let mut spec = server(network());
            spec.ready = Some(check.clone());
            let sandbox = created(&spec);
            assert_eq!(
                sandbox.wait_ready(Duration::ZERO).unwrap_err().kind(),
                ErrorKind::WrongState
            );
            sandbox.start().unwrap();
            sandbox.wait_ready(PATIENCE).unwrap();
            let timeline = sandbox.timeline();
            assert!(
                timeline.between(Phase::FirstEntry, Phase::Ready).is_some(),
                "{check:?}: {timeline:?}"
            );
            sandbox.teardown().wait(PATIENCE).unwrap();
        }
    });
}

#[test]
fn a_guest_that_does_not_serve_passes_none() {
    in_namespace(|| {
        for check in [
            ReadyCheck::Tcp { address: address() },
            ReadyCheck::Http {
                address: address(),
                path: "/".to_owned(),
            },
        ] {
            let mut spec = bare("endings", &["end=halt"]);
            spec.networks = vec![network()];
            spec.ready = Some(check);
            let sandbox = started(&spec);
            let error = sandbox.wait_ready(Duration::from_millis(100)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{}", error.report());
            assert_eq!(sandbox.timeline().at(Phase::Ready), None);
            sandbox.teardown().wait(PATIENCE).unwrap();
        }
    });
}
