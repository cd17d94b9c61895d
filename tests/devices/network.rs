//! Network cards: a web server inside answers the host.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use sandbox::spec::{NetworkSpec, ReadyCheck, TapSpec};
use sandbox::stats::NetworkStats;
use sandbox::{Sandbox, SandboxSpec};

use super::support::network::{
    GUEST, Pinger, connect, get, in_namespace, interface_exists, network, request, response, with_guest_address,
};
use super::support::{PATIENCE, bare, started};

/// A web server on this network.
pub fn server(network: NetworkSpec) -> SandboxSpec {
    let mut spec = bare("http-reply", &[]);
    spec.networks = vec![with_guest_address(network)];
    spec.ready = Some(ReadyCheck::BootPort);
    spec
}

/// Started and ready.
pub fn serving(spec: &SandboxSpec) -> Box<dyn Sandbox> {
    let sandbox = started(spec);
    sandbox.wait_ready(PATIENCE).unwrap();
    sandbox
}

fn counters(sandbox: &dyn Sandbox) -> NetworkStats {
    sandbox.stats().unwrap().networks[0].clone()
}

/// The counters while nothing is under way: a frame is counted when its sending returns, and may be answered before.
fn settled_counters(sandbox: &dyn Sandbox) -> NetworkStats {
    sandbox.pause().unwrap();
    let counters = counters(sandbox);
    sandbox.resume().unwrap();
    counters
}

#[test]
fn a_guest_answers_http_and_its_tap_goes_with_it() {
    in_namespace(|| {
        let mut network = network();
        if let TapSpec::Create { name, .. } = &mut network.tap {
            *name = Some("web0".to_owned());
        }
        let sandbox = serving(&server(network));
        assert_eq!(get(GUEST), "hello from http-reply\nrequest 1\n");
        assert_eq!(get(GUEST), "hello from http-reply\nrequest 2\n");
        assert!(interface_exists("web0"));
        sandbox.teardown().wait(PATIENCE).unwrap();
        assert!(!interface_exists("web0"));
    });
}

#[test]
fn sixty_four_connections_at_a_time_are_all_answered() {
    in_namespace(|| {
        let _sandbox = serving(&server(network()));
        let mut streams: Vec<TcpStream> = (0..64).map(|_| connect(GUEST)).collect();
        streams.iter_mut().for_each(request);
        let mut numbers: Vec<u32> = streams.iter_mut().map(|stream| number_of(&response(stream))).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=64).collect::<Vec<u32>>());
    });
}

/// Which request the guest says that this was.
fn number_of(body: &[u8]) -> u32 {
    let text = std::str::from_utf8(body).unwrap();
    text.trim().rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_guest_answers_pings_of_every_length() {
    in_namespace(|| {
        let _sandbox = serving(&server(network()));
        let mut pinger = Pinger::new(GUEST);
        for bytes in [0, 1, 56, 555, 1472] {
            pinger.ping(bytes);
        }
    });
}

#[test]
fn the_card_has_the_address_that_the_spec_gives() {
    in_namespace(|| {
        let mut network = network();
        network.mac = Some("02:00:5e:10:20:30".to_owned());
        let _sandbox = serving(&server(network));
        Pinger::new(GUEST).ping(0);
        let neighbours = std::fs::read_to_string("/proc/thread-self/net/arp").unwrap();
        let line = neighbours.lines().find(|line| line.starts_with("10.0.0.2 "));
        assert!(
            line.is_some_and(|line| line.contains("02:00:5e:10:20:30")),
            "{neighbours}"
        );
    });
}

#[test]
fn counters_tell_what_went_through_a_card() {
    in_namespace(|| {
        let sandbox = serving(&server(network()));
        let mut pinger = Pinger::new(GUEST);
        // The first ping resolves the address besides.
        pinger.ping(100);
        let before = settled_counters(&*sandbox);
        for _ in 0..10 {
            pinger.ping(100);
        }
        let after = settled_counters(&*sandbox);
        // Ethernet, IPv4 and ICMP headers, and the data.
        let bytes = 10 * (14 + 20 + 8 + 100);
        assert_eq!(
            after.received_frames - before.received_frames,
            10,
            "{before:?} {after:?}"
        );
        assert_eq!(after.sent_frames - before.sent_frames, 10, "{before:?} {after:?}");
        assert_eq!(
            after.received_bytes - before.received_bytes,
            bytes,
            "{before:?} {after:?}"
        );
        assert_eq!(after.sent_bytes - before.sent_bytes, bytes, "{before:?} {after:?}");
    });
}

#[test]
fn a_guest_that_is_paused_does_not_answer_and_loses_nothing() {
    in_namespace(|| {
        let sandbox = serving(&server(network()));
        let mut stream = connect(GUEST);
        sandbox.pause().unwrap();
        let paused = counters(&*sandbox).sent_frames;
        request(&mut stream);
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let error = stream.peek(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "answered while paused");
        assert_eq!(counters(&*sandbox).sent_frames, paused);
        sandbox.resume().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(response(&mut stream), b"hello from http-reply\nrequest 1\n");
    });
}

#[test]
fn pausing_and_resuming_under_load_loses_no_request() {
    const PAUSES: u32 = 10;
    in_namespace(|| {
        let sandbox = serving(&server(network()));
        let (done, answered) = (AtomicBool::new(false), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        assert!(get(GUEST).starts_with("hello from http-reply"));
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for _ in 0..PAUSES {
                let before = answered.load(Ordering::Relaxed);
                sandbox.pause().unwrap();
                sandbox.resume().unwrap();
                await_more(&answered, before + 4);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(answered.load(Ordering::Relaxed), number_of(get(GUEST).as_bytes()) - 1);
    });
}

fn await_more(counter: &AtomicU32, count: u32) {
    let begin = std::time::Instant::now();
    while counter.load(Ordering::Relaxed) < count {
        assert!(begin.elapsed() < PATIENCE, "no more requests are answered");
        thread::yield_now();
    }
}

#[test]
fn an_address_where_nobody_is_stays_unanswered() {
    in_namespace(|| {
        let _sandbox = serving(&server(network()));
        let nobody = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 3), 80));
        TcpStream::connect_timeout(&nobody, Duration::from_millis(200)).unwrap_err();
    });
}
