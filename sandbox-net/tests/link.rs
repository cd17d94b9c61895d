//! Interfaces configured for real, and traffic through them.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use sandbox_net::{AddressPool, Ipv4Cidr, LinkControl, LinkSettings, MacAddress, NetError, Offloads, Tap};
use support::{
    ETHER_TYPE_ARP, ETHER_TYPE_IPV4, arp_reply, has_frame, in_namespace, is_readable, receive_frame, send_frame,
    udp_echo,
};

const ETHER_TYPE_IPV6: u16 = 0x86dd;

fn cidr(text: &str) -> Ipv4Cidr {
    text.parse().unwrap()
}

fn up_with(address: Ipv4Cidr) -> LinkSettings {
    LinkSettings {
        address: Some(address),
        bring_up: true,
        no_ipv6_link_local: true,
        ..LinkSettings::default()
    }
}

/// Whether this namespace has the address on some interface.
fn is_local(address: Ipv4Addr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[test]
fn a_host_and_a_guest_talk_through_a_configured_tap() {
    in_namespace("a_host_and_a_guest_talk_through_a_configured_tap", || {
        let lease = AddressPool::subnets(cidr("172.30.0.0/24")).unwrap().lease().unwrap();
        let guest_mac = MacAddress::from_seed(1);
        let tap = Tap::create().unwrap();
        let mut control = LinkControl::open().unwrap();
        control.configure(tap.name(), &up_with(lease.host())).unwrap();

        let socket = UdpSocket::bind((lease.host().address(), 0)).unwrap();
        let guest = SocketAddr::from((lease.guest().address(), 7));
        socket.send_to(b"are you there", guest).unwrap();
        let request = receive_frame(&tap, ETHER_TYPE_ARP);
        let host_mac = control.state(tap.name()).unwrap().mac;
        assert_eq!(request.bytes[6..12], host_mac.octets());
        assert_eq!(request.bytes[38..42], lease.guest().address().octets());
        send_frame(&tap, &arp_reply(&request.bytes, guest_mac));

        let question = receive_frame(&tap, ETHER_TYPE_IPV4);
        assert_eq!(question.bytes[0..6], guest_mac.octets());
        assert_eq!(&question.bytes[42..], b"are you there");
        send_frame(&tap, &udp_echo(&question.bytes));

        assert!(is_readable(socket.as_fd(), Duration::from_secs(10)));
        let mut answer = [0; 64];
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..length], from), (b"are you there".as_slice(), guest));
    });
}

#[test]
fn the_host_leaves_checksums_undone_only_when_they_are_offloaded() {
    in_namespace("the_host_leaves_checksums_undone_only_when_they_are_offloaded", || {
        let tap = Tap::create().unwrap();
        LinkControl::open()
            .unwrap()
            .configure(tap.name(), &up_with(cidr("172.30.0.1/30")))
            .unwrap();
        let socket = UdpSocket::bind("172.30.0.1:0").unwrap();
        let guest = SocketAddr::from(([172, 30, 0, 2], 7));
        socket.send_to(b"first", guest).unwrap();
        let request = receive_frame(&tap, ETHER_TYPE_ARP);
        send_frame(&tap, &arp_reply(&request.bytes, MacAddress::from_seed(1)));
        receive_frame(&tap, ETHER_TYPE_IPV4);

        for offloads in [Offloads::CSUM, Offloads::NONE] {
            tap.set_offloads(offloads).unwrap();
            socket.send_to(b"next", guest).unwrap();
            let frame = receive_frame(&tap, ETHER_TYPE_IPV4);
            // VIRTIO_NET_HDR_F_NEEDS_CSUM, virtio 1.3 §5.1.6.
            let needs_checksum = frame.header[0] & 1 != 0;
            assert_eq!(needs_checksum, offloads == Offloads::CSUM);
        }
    });
}

#[test]
fn state_shows_what_was_configured() {
    in_namespace("state_shows_what_was_configured", || {
        let tap = Tap::create().unwrap();
        let mut control = LinkControl::open().unwrap();
        let before = control.state(tap.name()).unwrap();
        assert_eq!(before.index, tap.index().unwrap());
        assert!(!before.is_up && !before.is_running);
        assert_eq!(before.mtu, 1500);

        control.configure(tap.name(), &LinkSettings::default()).unwrap();
        assert_eq!(control.state(tap.name()).unwrap(), before);

        let settings = LinkSettings {
            mtu: Some(9000),
            ..up_with(cidr("10.1.2.1/30"))
        };
        control.configure(tap.name(), &settings).unwrap();
        let after = control.state(tap.name()).unwrap();
        assert!(after.is_up && after.is_running);
        assert_eq!((after.mtu, after.mac), (9000, before.mac));
        assert!(is_local(Ipv4Addr::new(10, 1, 2, 1)));
    });
}

#[test]
fn only_the_subnet_is_routed_to_the_guest_and_not_the_class_of_its_address() {
    in_namespace(
        "only_the_subnet_is_routed_to_the_guest_and_not_the_class_of_its_address",
        || {
            let tap = Tap::create().unwrap();
            let mut control = LinkControl::open().unwrap();
            control.configure(tap.name(), &up_with(cidr("10.1.2.1/30"))).unwrap();
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("10.1.2.2:7").unwrap();
            let outside = socket.connect("10.1.2.5:7").unwrap_err();
            assert_eq!(outside.raw_os_error(), Some(libc::ENETUNREACH));
        },
    );
}

#[test]
fn configuring_twice_is_no_error() {
    in_namespace("configuring_twice_is_no_error", || {
        let tap = Tap::create().unwrap();
        let mut control = LinkControl::open().unwrap();
        for _ in 0..2 {
            control.configure(tap.name(), &up_with(cidr("10.1.2.1/30"))).unwrap();
        }
        assert!(is_local(Ipv4Addr::new(10, 1, 2, 1)));
    });
}

#[test]
fn an_mtu_the_tap_does_not_take_is_refused_and_leaves_no_address() {
    in_namespace("an_mtu_the_tap_does_not_take_is_refused_and_leaves_no_address", || {
        let tap = Tap::create().unwrap();
        let mut control = LinkControl::open().unwrap();
        for mtu in [0, 67, 65_522, u32::MAX] {
            let settings = LinkSettings {
                mtu: Some(mtu),
                ..up_with(cidr("10.1.2.1/30"))
            };
            let error = control.configure(tap.name(), &settings).unwrap_err();
            assert!(
                matches!(error, NetError::InvalidMtu { mtu: given, .. } if given == mtu),
                "{error}"
            );
            assert!(!is_local(Ipv4Addr::new(10, 1, 2, 1)));
            assert!(!control.state(tap.name()).unwrap().is_up);
        }
        for mtu in [68, 65_521] {
            let settings = LinkSettings {
                mtu: Some(mtu),
                ..LinkSettings::default()
            };
            control.configure(tap.name(), &settings).unwrap();
            assert_eq!(control.state(tap.name()).unwrap().mtu, mtu);
        }
    });
}

#[test]
fn a_failure_keeps_an_address_that_was_there_before() {
    in_namespace("a_failure_keeps_an_address_that_was_there_before", || {
        let tap = Tap::create().unwrap();
        let mut control = LinkControl::open().unwrap();
        let good = up_with(cidr("10.1.2.1/30"));
        control.configure(tap.name(), &good).unwrap();
        let bad = LinkSettings { mtu: Some(1), ..good };
        control.configure(tap.name(), &bad).unwrap_err();
        assert!(is_local(Ipv4Addr::new(10, 1, 2, 1)));
    });
}

#[test]
fn addresses_that_no_host_can_have_are_refused() {
    in_namespace("addresses_that_no_host_can_have_are_refused", || {
        let tap = Tap::create().unwrap();
        let mut control = LinkControl::open().unwrap();
        for text in ["0.0.0.0/8", "224.0.0.1/24", "255.255.255.255/32"] {
            let error = control.configure(tap.name(), &up_with(cidr(text))).unwrap_err();
            assert!(matches!(error, NetError::InvalidAddress { .. }), "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(!control.state(tap.name()).unwrap().is_up);
    });
}

#[test]
fn a_missing_interface_is_a_typed_error_for_every_request() {
    in_namespace("a_missing_interface_is_a_typed_error_for_every_request", || {
        let mut control = LinkControl::open().unwrap();
        let address = up_with(cidr("10.1.2.1/30"));
        for error in [
            control.index("tap9").unwrap_err(),
            control.state("tap9").unwrap_err(),
            control.configure("tap9", &address).unwrap_err(),
        ] {
            assert!(matches!(error, NetError::NotFound { .. }), "{error}");
        }
    });
}

#[test]
fn without_ipv6_link_local_the_host_sends_the_guest_nothing_unasked() {
    in_namespace(
        "without_ipv6_link_local_the_host_sends_the_guest_nothing_unasked",
        || {
            let quiet = Tap::create().unwrap();
            let chatty = Tap::create().unwrap();
            let mut control = LinkControl::open().unwrap();
            control.configure(quiet.name(), &up_with(cidr("10.1.2.1/30"))).unwrap();
            let settings = LinkSettings {
                no_ipv6_link_local: false,
                ..up_with(cidr("10.1.2.5/30"))
            };
            control.configure(chatty.name(), &settings).unwrap();

            if std::path::Path::new("/proc/sys/net/ipv6").exists() {
                // The other tap, brought up later, shows that its time has come.
                receive_frame(&chatty, ETHER_TYPE_IPV6);
            }
            assert!(!has_frame(&quiet));
        },
    );
}
