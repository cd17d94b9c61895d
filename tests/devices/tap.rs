//! Where a card's tap comes from, and whose it stays.

use std::os::fd::AsRawFd;

use sandbox::ErrorKind;
use sandbox::spec::TapSpec;
use sandbox_net::Tap;

use super::network::{server, serving};
use super::support::network::{
    GUEST, add_persistent_tap, configure, get, in_namespace, interface_exists, network, network_on,
};
use super::support::{PATIENCE, created, runtime};

#[test]
fn a_tap_by_name_serves_one_sandbox_after_another() {
    in_namespace(|| {
        add_persistent_tap("mine0");
        configure("mine0");
        let spec = server(network_on(TapSpec::Name("mine0".to_owned())));
        for _ in 0..2 {
            let sandbox = serving(&spec);
            assert!(get(GUEST).starts_with("hello"));
            sandbox.teardown().wait(PATIENCE).unwrap();
            assert!(interface_exists("mine0"), "the embedder's tap is gone");
        }
    });
}

#[test]
fn a_tap_by_descriptor_stays_the_embedders() {
    in_namespace(|| {
        let tap = Tap::create().unwrap();
        configure(tap.name());
        let spec = server(network_on(TapSpec::Fd(tap.as_raw_fd())));
        for _ in 0..2 {
            let sandbox = serving(&spec);
            assert!(get(GUEST).starts_with("hello"));
            sandbox.teardown().wait(PATIENCE).unwrap();
        }
        assert!(interface_exists(tap.name()));
    });
}

#[test]
fn a_tap_that_cannot_be_had_is_a_typed_error() {
    in_namespace(|| {
        add_persistent_tap("mine0");
        let by_name = |name: &str| server(network_on(TapSpec::Name(name.to_owned())));
        let made = |name: &str| {
            server(network_on(TapSpec::Create {
                name: Some(name.to_owned()),
                host_address: None,
            }))
        };
        let _holder = created(&by_name("mine0"));
        for (spec, kind, field) in [
            (by_name("mine0"), ErrorKind::InUse, "networks[0].tap.name"),
            (by_name("none0"), ErrorKind::NotFound, "networks[0].tap.name"),
            (by_name("lo"), ErrorKind::InvalidSpec, "networks[0].tap.name"),
            (made("mine0"), ErrorKind::AlreadyExists, "networks[0].tap.create"),
            (
                made("a-name-far-too-long"),
                ErrorKind::InvalidSpec,
                "networks[0].tap.create",
            ),
        ] {
            let error = runtime().create(&spec).unwrap_err();
            assert_eq!((error.kind(), error.field()), (kind, Some(field)), "{}", error.report());
        }
    });
}

#[test]
fn a_refused_sandbox_leaves_no_tap_behind() {
    in_namespace(|| {
        let mut spec = server(network());
        if let TapSpec::Create { name, .. } = &mut spec.networks[0].tap {
            *name = Some("left0".to_owned());
        }
        spec.memory = 64 << 10;
        let error = runtime().create(&spec).unwrap_err();
        assert_eq!(error.field(), Some("memory"), "{}", error.report());
        assert!(!interface_exists("left0"));
    });
}
