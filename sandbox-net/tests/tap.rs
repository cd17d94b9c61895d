//! Taps as the kernel really makes, lends and refuses them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;

use sandbox_net::{LinkControl, LinkSettings, NetError, Offloads, Tap, VNET_HEADER_SIZE};
use support::{add_persistent, attach, become_nobody, in_namespace, tun_device};

const VNET_TAP: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

fn exists(name: &str) -> bool {
    match LinkControl::open().unwrap().index(name) {
        Ok(_) => true,
        Err(NetError::NotFound { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

fn receive(tap: &Tap) -> Result<Option<usize>, NetError> {
    let mut buffer = [0; 2048];
    tap.receive(&mut [IoSliceMut::new(&mut buffer)])
}

#[test]
fn a_created_tap_gets_a_name_of_the_pattern_and_vanishes_when_dropped() {
    in_namespace(
        "a_created_tap_gets_a_name_of_the_pattern_and_vanishes_when_dropped",
        || {
            let (first, second) = (Tap::create().unwrap(), Tap::create().unwrap());
            assert_eq!((first.name(), second.name()), ("sbx0", "sbx1"));
            assert_ne!(first.index().unwrap(), second.index().unwrap());

            drop(first);
            assert!(!exists("sbx0"));
            assert!(exists("sbx1"));
        },
    );
}

#[test]
fn taps_created_at_the_same_time_get_different_names() {
    in_namespace("taps_created_at_the_same_time_get_different_names", || {
        // Threads inherit the namespace of the one that starts them.
        let threads: Vec<_> = (0..8)
            .map(|_| thread::spawn(|| [Tap::create().unwrap(), Tap::create().unwrap()]))
            .collect();
        let taps: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let mut names: Vec<_> = taps.iter().map(Tap::name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 16);
    });
}

#[test]
fn a_tap_is_created_under_the_name_given_unless_it_is_taken() {
    in_namespace("a_tap_is_created_under_the_name_given_unless_it_is_taken", || {
        let tap = Tap::create_named("fifteen-bytes-x").unwrap();
        assert_eq!(tap.name(), "fifteen-bytes-x");
        for taken in ["fifteen-bytes-x", "lo"] {
            let error = Tap::create_named(taken).unwrap_err();
            assert!(matches!(error, NetError::AlreadyExists { .. }), "{error}");
            assert!(error.to_string().contains(taken), "{error}");
        }
    });
}

#[test]
fn a_persistent_tap_is_opened_by_name_and_survives() {
    in_namespace("a_persistent_tap_is_opened_by_name_and_survives", || {
        // As `ip tuntap add` leaves it: without a virtio-net header.
        add_persistent("tap7", libc::IFF_TAP, None);
        for _ in 0..2 {
            let tap = Tap::open("tap7").unwrap();
            assert_eq!(tap.name(), "tap7");
            drop(tap);
            assert!(exists("tap7"));
        }
    });
}

#[test]
fn opening_a_missing_tap_says_how_to_make_one_and_makes_none() {
    in_namespace("opening_a_missing_tap_says_how_to_make_one_and_makes_none", || {
        let error = Tap::open("tap9").unwrap_err();
        assert!(matches!(error, NetError::NotFound { .. }), "{error}");
        assert!(error.to_string().contains("ip tuntap add dev tap9"), "{error}");
        assert!(!exists("tap9"));
    });
}

#[test]
fn a_tap_in_use_cannot_be_opened_again() {
    in_namespace("a_tap_in_use_cannot_be_opened_again", || {
        add_persistent("tap7", libc::IFF_TAP, None);
        let first = Tap::open("tap7").unwrap();
        let error = Tap::open("tap7").unwrap_err();
        assert!(matches!(error, NetError::InUse { .. }), "{error}");
        assert!(error.to_string().contains("in use"), "{error}");

        drop(first);
        Tap::open("tap7").unwrap();
    });
}

#[test]
fn interfaces_that_are_not_single_queue_taps_are_not_opened() {
    in_namespace("interfaces_that_are_not_single_queue_taps_are_not_opened", || {
        add_persistent("tun0", libc::IFF_TUN, None);
        add_persistent("queues", libc::IFF_TAP | libc::IFF_MULTI_QUEUE, None);
        for name in ["lo", "tun0", "queues"] {
            let error = Tap::open(name).unwrap_err();
            assert!(matches!(error, NetError::NotATap { .. }), "{name}: {error}");
        }
    });
}

#[test]
fn names_that_no_interface_can_have_are_refused() {
    in_namespace("names_that_no_interface_can_have_are_refused", || {
        for name in ["sixteen-bytes-xx", "", "a/b", "sbx%d"] {
            for result in [Tap::open(name), Tap::create_named(name)] {
                let error = result.unwrap_err();
                assert!(matches!(error, NetError::InvalidName { .. }), "{error}");
            }
        }
        // Cut short, this would have been another interface's name.
        let error = Tap::create_named("sixteen-bytes-xx").unwrap_err();
        assert!(error.to_string().contains("at most 15 bytes"), "{error}");
        assert!(!exists("sixteen-bytes-x"));
    });
}

#[test]
fn without_privileges_only_an_owned_tap_can_be_opened() {
    in_namespace("without_privileges_only_an_owned_tap_can_be_opened", || {
        add_persistent("roots", libc::IFF_TAP, Some(0));
        add_persistent("nobodys", libc::IFF_TAP, Some(support::NOBODY));
        become_nobody();

        for result in [Tap::open("roots"), Tap::create(), Tap::create_named("tap1")] {
            match result.unwrap_err() {
                error @ NetError::PermissionDenied { .. } => {
                    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
                }
                // Hosts that keep the device itself from other users.
                NetError::TunDeviceForbidden => return,
                error => panic!("{error}"),
            }
        }
        assert_eq!(Tap::open("nobodys").unwrap().name(), "nobodys");

        let mut control = LinkControl::open().unwrap();
        let up = LinkSettings {
            bring_up: true,
            ..LinkSettings::default()
        };
        let error = control.configure("nobodys", &up).unwrap_err();
        assert!(matches!(error, NetError::PermissionDenied { .. }), "{error}");
        assert!(!control.state("nobodys").unwrap().is_up);
    });
}

#[test]
fn an_attached_descriptor_is_wrapped_and_given_away_again() {
    in_namespace("an_attached_descriptor_is_wrapped_and_given_away_again", || {
        let device = tun_device();
        attach(&device, "given", VNET_TAP);
        // The standard library opens files to close on exec; others may not.
        // SAFETY: takes and returns integers.
        assert_eq!(unsafe { libc::fcntl(device.as_raw_fd(), libc::F_SETFD, 0) }, 0);

        let tap = Tap::from_fd(device.into()).unwrap();
        assert_eq!(tap.name(), "given");
        // SAFETY: takes and returns integers.
        let (status, descriptor) = unsafe {
            let fd = tap.as_raw_fd();
            (libc::fcntl(fd, libc::F_GETFL), libc::fcntl(fd, libc::F_GETFD))
        };
        assert_ne!(status & libc::O_NONBLOCK, 0);
        assert_ne!(descriptor & libc::FD_CLOEXEC, 0);
        assert_eq!(receive(&tap).unwrap(), None);

        let again = Tap::from_fd(OwnedFd::from(tap)).unwrap();
        assert!(exists("given"));
        drop(again);
        assert!(!exists("given"));
    });
}

#[test]
fn descriptors_that_are_not_taps_are_refused_and_closed() {
    in_namespace("descriptors_that_are_not_taps_are_refused_and_closed", || {
        let tun = tun_device();
        attach(&tun, "tun0", libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR);
        let (reader, _writer) = std::io::pipe().unwrap();
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let cases: [(OwnedFd, &str); 5] = [
            (File::open("/dev/null").unwrap().into(), "not a tun device"),
            (reader.into(), "not a tun device"),
            (socket.into(), "not a tun device"),
            (tun_device().into(), "no interface"),
            (tun.into(), "not a tap of Ethernet frames"),
        ];
        for (fd, reason) in cases {
            let number = fd.as_raw_fd();
            let error = Tap::from_fd(fd).unwrap_err();
            assert!(
                matches!(error, NetError::DescriptorNotATap { descriptor, .. } if descriptor == number),
                "{error}"
            );
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert!(!exists("tun0"), "the descriptor of tun0 is still open");
    });
}

#[test]
fn a_descriptor_attached_without_a_needed_flag_is_refused_by_the_flags_name() {
    in_namespace(
        "a_descriptor_attached_without_a_needed_flag_is_refused_by_the_flags_name",
        || {
            for (flag, missing) in [(libc::IFF_NO_PI, "IFF_NO_PI"), (libc::IFF_VNET_HDR, "IFF_VNET_HDR")] {
                let device = tun_device();
                attach(&device, "given", VNET_TAP & !flag);
                match Tap::from_fd(device.into()).unwrap_err() {
                    NetError::MissingFlag { name, flag } => {
                        assert_eq!((name.as_str(), flag), ("given", missing));
                    }
                    error => panic!("{error}"),
                }
            }
        },
    );
}

#[test]
fn offloads_that_the_kernel_cannot_combine_are_refused_by_name() {
    in_namespace("offloads_that_the_kernel_cannot_combine_are_refused_by_name", || {
        let tap = Tap::create().unwrap();
        let usual = Offloads::CSUM | Offloads::TSO4 | Offloads::TSO6 | Offloads::UFO;
        tap.set_offloads(usual | Offloads::TSO_ECN).unwrap();
        tap.set_offloads(Offloads::NONE).unwrap();

        let error = tap.set_offloads(Offloads::TSO4).unwrap_err();
        assert!(matches!(error, NetError::UnsupportedOffloads { .. }), "{error}");
        assert!(error.to_string().contains("TSO4"), "{error}");
    });
}

#[test]
fn frames_that_the_kernel_refuses_are_told_apart_from_a_link_that_is_down() {
    in_namespace(
        "frames_that_the_kernel_refuses_are_told_apart_from_a_link_that_is_down",
        || {
            let tap = Tap::create().unwrap();
            let header = [0; VNET_HEADER_SIZE];
            let frame = [0xff; 64];
            let whole = [IoSlice::new(&header), IoSlice::new(&frame)];
            let error = tap.send(&whole).unwrap_err();
            assert!(matches!(error, NetError::LinkDown { .. }), "{error}");

            let up = LinkSettings {
                bring_up: true,
                ..LinkSettings::default()
            };
            LinkControl::open().unwrap().configure(tap.name(), &up).unwrap();
            assert_eq!(tap.send(&whole).unwrap(), Some(VNET_HEADER_SIZE + 64));

            let unknown_segmentation = {
                let mut header = header;
                header[1] = 0x7f;
                header
            };
            let pieces = [IoSlice::new(&frame[..1]); 1025];
            let cases: [&[IoSlice<'_>]; 5] = [
                &[],
                &[IoSlice::new(&header[..11])],
                &[IoSlice::new(&header), IoSlice::new(&frame[..13])],
                &[IoSlice::new(&unknown_segmentation), IoSlice::new(&frame)],
                &pieces,
            ];
            for case in cases {
                let error = tap.send(case).unwrap_err();
                assert!(matches!(error, NetError::FrameRejected { .. }), "{error}");
            }
        },
    );
}

#[test]
fn a_tap_whose_interface_was_deleted_says_so() {
    in_namespace("a_tap_whose_interface_was_deleted_says_so", || {
        add_persistent("tap7", libc::IFF_TAP, None);
        let tap = Tap::open("tap7").unwrap();
        support::delete_link(tap.index().unwrap());

        for error in [
            receive(&tap).unwrap_err(),
            tap.send(&[IoSlice::new(&[0; 76])]).unwrap_err(),
            tap.index().unwrap_err(),
            tap.set_offloads(Offloads::NONE).unwrap_err(),
        ] {
            assert!(matches!(error, NetError::NotFound { .. }), "{error}");
        }
    });
}

#[test]
fn a_duplicate_of_its_descriptor_keeps_the_tap_alive() {
    in_namespace("a_duplicate_of_its_descriptor_keeps_the_tap_alive", || {
        let tap = Tap::create().unwrap();
        let duplicate = tap.as_fd().try_clone_to_owned().unwrap();
        drop(tap);
        assert!(exists("sbx0"));
        drop(duplicate);
        assert!(!exists("sbx0"));
    });
}
