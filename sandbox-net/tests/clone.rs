//! Clones that all have the address of the original, each reached by another one.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use sandbox_net::{AttachRequest, BridgeSettings, GuestNetwork, MacAddress, NetError, Protocol, PublishedPort, Tap};
use support::{
    ETHER_TYPE_ARP, ETHER_TYPE_IPV4, Records, arp_reply, in_namespace_with_nft, is_readable, receive_frame, send_frame,
    udp_echo,
};

const GATEWAY_MAC: MacAddress = MacAddress::new([0x02, 0, 0, 0, 0, 0x77]);
const GUEST: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);

fn request(id: &str, subnet: &str) -> AttachRequest {
    AttachRequest {
        id: id.to_owned(),
        bridge: BridgeSettings {
            name: "sb-clones".to_owned(),
            subnet: Some(subnet.parse().unwrap()),
            isolated: true,
        },
        address: None,
        mac: None,
        mtu: None,
        ports: Vec::new(),
    }
}

fn known() -> GuestNetwork {
    GuestNetwork {
        gateway: "172.30.0.1/30".parse().unwrap(),
        gateway_mac: Some(GATEWAY_MAC),
        guest: GUEST,
        mtu: None,
    }
}

/// Sends a question to `to`, has the guest behind `tap` echo it, and returns whom the answer is from.
fn ask(tap: &Tap, to: SocketAddr) -> SocketAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.send_to(b"which one", to).unwrap();
    let guest_mac = MacAddress::from_seed(1);
    let request = receive_frame(tap, ETHER_TYPE_ARP);
    assert_eq!(request.bytes[38..42], GUEST.octets());
    assert_eq!(request.bytes[6..12], GATEWAY_MAC.octets());
    send_frame(tap, &arp_reply(&request.bytes, guest_mac));
    let question = receive_frame(tap, ETHER_TYPE_IPV4);
    assert_eq!(question.bytes[30..34], GUEST.octets());
    send_frame(tap, &udp_echo(&question.bytes));
    assert!(is_readable(socket.as_fd(), Duration::from_secs(20)));
    let mut answer = [0; 64];
    let (length, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"which one");
    from
}

#[test]
fn clones_with_one_address_are_told_apart_by_another() {
    in_namespace_with_nft("clones_with_one_address_are_told_apart_by_another", || {
        let records = Records::new();
        let networks = records.networks();
        let mut first = request("first", "10.82.0.0/24");
        first.ports.push(PublishedPort {
            protocol: Protocol::Udp,
            host_address: None,
            host_port: 0,
            guest_port: 7,
        });
        let first = networks.clone_network(&first, &known()).unwrap();
        let second = networks
            .clone_network(&request("second", "10.82.0.0/24"), &known())
            .unwrap();
        assert_ne!(first.address(), second.address());

        for clone in [&second, &first] {
            let tap = Tap::from_fd(clone.tap().unwrap()).unwrap();
            let to = SocketAddr::from((clone.address(), 7));
            assert_eq!(ask(&tap, to), to);
        }

        first.teardown().unwrap();
        assert!(!first.namespace().exists() && second.namespace().exists());
        drop((first, second));
        assert_eq!(records.files(), Vec::<std::path::PathBuf>::new());
        assert!(!records.has_mounts());
    });
}

#[test]
fn networks_that_cannot_be_are_refused_and_leave_nothing() {
    in_namespace_with_nft("networks_that_cannot_be_are_refused_and_leave_nothing", || {
        let records = Records::new();
        let networks = records.networks();
        let mut elsewhere = known();
        elsewhere.guest = Ipv4Addr::new(172, 31, 0, 2);
        for (request, known) in [
            (request("x", "10.82.0.0/24"), elsewhere),
            (request("x", "172.30.0.0/24"), known()),
        ] {
            let error = networks.clone_network(&request, &known).unwrap_err();
            assert!(matches!(error, NetError::InvalidAddress { .. }), "{error}");
            assert_eq!(records.files(), Vec::<std::path::PathBuf>::new());
        }
    });
}
