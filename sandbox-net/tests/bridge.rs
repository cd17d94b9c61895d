//! Managed bridges for real: sandboxes that talk to the host, to what is beyond it and to each other, and what is left
//! of them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use sandbox_net::{
    AttachRequest, Attachment, BridgeSettings, LinkControl, LinkSettings, NetError, NetNamespace, Networks,
    OwnNamespace, Protocol, PublishedPort,
};
use support::{Records, in_namespace, in_namespace_with_nft};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long is waited for what must not come. Too short makes the test weaker, never wrong.
const IN_VAIN: Duration = Duration::from_millis(300);

fn request(id: &str, bridge: &str, subnet: &str) -> AttachRequest {
    AttachRequest {
        id: id.to_owned(),
        bridge: BridgeSettings {
            name: bridge.to_owned(),
            subnet: Some(subnet.parse().unwrap()),
            isolated: true,
        },
        address: None,
        mac: None,
        mtu: None,
        ports: Vec::new(),
    }
}

fn tcp(host_port: u16, guest_port: u16) -> PublishedPort {
    PublishedPort {
        protocol: Protocol::Tcp,
        host_address: None,
        host_port,
        guest_port,
    }
}

/// A sandbox with a network namespace of its own.
struct Container {
    attachment: Attachment,
    namespace: OwnNamespace,
}

impl Container {
    fn new(networks: &Networks, request: &AttachRequest) -> Self {
        Self::try_new(networks, request).unwrap()
    }

    fn try_new(networks: &Networks, request: &AttachRequest) -> Result<Self, NetError> {
        let namespace = networks.new_namespace(&request.id)?;
        let attachment = networks.attach_namespace(request, namespace.namespace(), "eth0")?;
        Ok(Self { attachment, namespace })
    }

    fn address(&self) -> Ipv4Addr {
        self.attachment.address().address()
    }

    /// A listener inside.
    fn listen(&self, port: u16) -> TcpListener {
        let address = SocketAddr::from((self.address(), port));
        self.inside(move || TcpListener::bind(address).unwrap())
    }

    fn connect(&self, to: (Ipv4Addr, u16), timeout: Duration) -> io::Result<TcpStream> {
        self.inside(move || TcpStream::connect_timeout(&SocketAddr::from(to), timeout))
    }

    fn inside<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        self.namespace.namespace().run(|| Ok(action())).unwrap()
    }
}

/// Passes a byte from one end of a connection to the other, and says whom the listener took it from.
fn pass(listener: &TcpListener, mut from: TcpStream) -> Ipv4Addr {
    from.write_all(b"x").unwrap();
    let (mut to, peer) = listener.accept().unwrap();
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [0];
    to.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
    match peer {
        SocketAddr::V4(peer) => *peer.ip(),
        SocketAddr::V6(peer) => panic!("{peer}"),
    }
}

fn rules() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn forwarding() -> String {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()
}

/// Nothing of any bridge is there any more.
fn assert_nothing_left(records: &Records) {
    assert_eq!(rules(), "");
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    assert!(!interfaces.contains("sb"), "{interfaces}");
    assert_eq!(records.files(), Vec::<PathBuf>::new());
    assert!(!records.has_mounts());
}

#[test]
fn a_sandbox_reaches_the_host_and_what_is_beyond_with_the_hosts_address() {
    let name = "a_sandbox_reaches_the_host_and_what_is_beyond_with_the_hosts_address";
    in_namespace_with_nft(name, || {
        let records = Records::new();
        let networks = records.networks();
        let was = forwarding();
        assert_eq!(was.trim(), "0", "a new namespace does not forward");
        let inner = Container::new(&networks, &request("inner", "sb-in", "10.80.0.0/24"));
        // What is beyond is on another bridge, and knows no way back to the first one's network but the host.
        let beyond = Container::new(&networks, &request("beyond", "sb-out", "10.81.0.0/24"));

        let on_host = TcpListener::bind((inner.attachment.gateway(), 0)).unwrap();
        let port = on_host.local_addr().unwrap().port();
        let from = inner.connect((inner.attachment.gateway(), port), PATIENCE).unwrap();
        assert_eq!(pass(&on_host, from), inner.address());

        let listener = beyond.listen(80);
        let from = inner.connect((beyond.address(), 80), PATIENCE).unwrap();
        assert_eq!(pass(&listener, from), beyond.attachment.gateway());

        // The bridge that came first switched forwarding on, and goes first: the other one still needs it.
        drop(inner);
        assert_eq!(forwarding().trim(), "1");
        drop(beyond);
        assert_nothing_left(&records);
        assert_eq!(forwarding(), was);
    });
}

#[test]
fn published_ports_lead_in_from_the_host_from_beyond_and_from_neighbours() {
    let name = "published_ports_lead_in_from_the_host_from_beyond_and_from_neighbours";
    in_namespace_with_nft(name, || {
        let up = LinkSettings {
            bring_up: true,
            ..LinkSettings::default()
        };
        LinkControl::open().unwrap().configure("lo", &up).unwrap();
        for isolated in [true, false] {
            publish_and_connect(isolated);
        }
    });
}

fn publish_and_connect(isolated: bool) {
    let records = Records::new();
    let networks = records.networks();
    let mut wanted = request("server", "sb-in", "10.80.0.0/24");
    wanted.bridge.isolated = isolated;
    let mut neighbour = wanted.clone();
    neighbour.id = "neighbour".to_owned();
    wanted.ports = vec![tcp(8080, 80), tcp(0, 80)];
    let server = Container::new(&networks, &wanted);
    let neighbour = Container::new(&networks, &neighbour);
    let beyond = Container::new(&networks, &request("beyond", "sb-out", "10.81.0.0/24"));
    let listener = server.listen(80);
    let free = server.attachment.ports()[1].host_port;
    assert_ne!(free, 0);

    for (host, port) in [
        (Ipv4Addr::LOCALHOST, 8080),
        (Ipv4Addr::LOCALHOST, free),
        (server.attachment.gateway(), 8080),
        (beyond.attachment.gateway(), 8080),
    ] {
        let from = TcpStream::connect_timeout(&(host, port).into(), PATIENCE).unwrap();
        pass(&listener, from);
    }
    let from = beyond.connect((beyond.attachment.gateway(), 8080), PATIENCE).unwrap();
    // What leaves a bridge has the host's address, also on its way to another bridge.
    assert_eq!(pass(&listener, from), server.attachment.gateway());
    let gateway = server.attachment.gateway();
    match isolated {
        true => assert!(neighbour.connect((gateway, 8080), IN_VAIN).is_err()),
        false => {
            let from = neighbour.connect((gateway, 8080), PATIENCE).unwrap();
            assert_eq!(pass(&listener, from), gateway);
        }
    }

    server.attachment.teardown().unwrap();
    assert!(!rules().contains("8080"), "{}", rules());
    drop(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap());
}

#[test]
fn isolated_neighbours_do_not_reach_each_other_and_open_ones_do() {
    let name = "isolated_neighbours_do_not_reach_each_other_and_open_ones_do";
    in_namespace_with_nft(name, || {
        let records = Records::new();
        let networks = records.networks();
        for isolated in [true, false] {
            let mut wanted = request("one", "sb-in", "10.80.0.0/24");
            wanted.bridge.isolated = isolated;
            let one = Container::new(&networks, &wanted);
            wanted.id = "two".to_owned();
            let two = Container::new(&networks, &wanted);
            let listener = two.listen(80);
            match one.connect((two.address(), 80), if isolated { IN_VAIN } else { PATIENCE }) {
                Ok(from) if !isolated => assert_eq!(pass(&listener, from), one.address()),
                Err(_) if isolated => {}
                other => panic!("isolated: {isolated}, {other:?}"),
            }
        }
    });
}

#[test]
fn a_sandbox_cannot_use_other_addresses_than_its_networks_nor_reach_the_hosts_own() {
    let name = "a_sandbox_cannot_use_other_addresses_than_its_networks_nor_reach_the_hosts_own";
    in_namespace_with_nft(name, || {
        let records = Records::new();
        let container = Container::new(&records.networks(), &request("spoofer", "sb-in", "10.80.0.0/24"));
        let gateway = container.attachment.gateway();
        let on_host = UdpSocket::bind((gateway, 0)).unwrap();
        let own = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let port = on_host.local_addr().unwrap().port();
        container.inside(|| {
            let mut links = LinkControl::open().unwrap();
            let spoofed = LinkSettings {
                address: Some("192.0.2.7/32".parse().unwrap()),
                ..LinkSettings::default()
            };
            links.configure("eth0", &spoofed).unwrap();
            let spoofed = UdpSocket::bind("192.0.2.7:0").unwrap();
            spoofed.send_to(b"spoofed", (gateway, port)).unwrap();
            UdpSocket::bind("0.0.0.0:0")
                .unwrap()
                .send_to(b"honest", (gateway, port))
                .unwrap();
        });
        on_host.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 16];
        let (length, _) = on_host.recv_from(&mut buffer).unwrap();
        // Sent first, and never arrived.
        assert_eq!(&buffer[..length], b"honest");
        drop(own);
        assert!(rules().contains("ip daddr 127.0.0.0/8 drop"), "{}", rules());
    });
}

#[test]
fn addresses_are_unique_rest_when_given_back_and_run_out() {
    let name = "addresses_are_unique_rest_when_given_back_and_run_out";
    in_namespace_with_nft(name, || {
        let records = Records::new();
        let networks = records.networks();
        let attach = |number: u8| {
            let wanted = request(&format!("n{number}"), "sb-in", "10.80.0.0/29");
            networks.attach_tap(&wanted)
        };
        let mut attached: Vec<_> = (0..5).map(|number| attach(number).unwrap()).collect();
        let address = |(attachment, _): &(Attachment, _)| attachment.address().address();
        let mut addresses: Vec<_> = attached.iter().map(address).collect();
        addresses.dedup();
        assert_eq!(addresses.len(), 5);

        let error = attach(9).unwrap_err();
        assert!(matches!(error, NetError::AddressPoolExhausted { .. }), "{error}");
        let mut wanted = request("x", "sb-in", "10.80.0.0/29");
        wanted.address = Some(addresses[2]);
        let error = networks.attach_tap(&wanted).unwrap_err();
        assert!(
            matches!(error, NetError::AddressTaken { address } if address == addresses[2]),
            "{error}"
        );

        attached.remove(3);
        assert_eq!(address(&attach(3).unwrap()), addresses[3]);
        drop(attached);
        assert_nothing_left(&records);
    });
}

#[test]
fn conflicts_are_typed_and_leave_nothing() {
    in_namespace_with_nft("conflicts_are_typed_and_leave_nothing", || {
        let records = Records::new();
        let networks = records.networks();
        let attach = |request: &AttachRequest| networks.attach_tap(request).map(drop).unwrap_err();
        let good = request("good", "sb-in", "10.80.0.0/24");

        // The bridge's name is somebody else's interface.
        let error = attach(&request("x", "lo", "10.80.0.0/24"));
        assert!(
            matches!(&error, NetError::BridgeTaken { name } if name == "lo"),
            "{error}"
        );
        // The network is reached by another bridge.
        let (_kept, _tap) = networks.attach_tap(&good).unwrap();
        for overlapping in ["10.80.0.0/24", "10.80.0.128/25", "10.0.0.0/8"] {
            let error = attach(&request("x", "sb-two", overlapping));
            assert!(
                matches!(&error, NetError::SubnetTaken { interface, .. } if interface == "sb-in"),
                "{error}"
            );
        }
        // The bridge has another network.
        let error = attach(&request("x", "sb-in", "10.90.0.0/24"));
        assert!(
            matches!(error, NetError::BridgeDiffers { setting: "subnet", .. }),
            "{error}"
        );
        let mut open = good.clone();
        open.bridge.isolated = false;
        let error = attach(&open);
        assert!(
            matches!(
                error,
                NetError::BridgeDiffers {
                    setting: "isolated",
                    ..
                }
            ),
            "{error}"
        );
        // Networks and addresses that cannot be.
        for subnet in ["127.0.0.0/8", "10.1.2.3/24", "10.2.0.0/31"] {
            let error = attach(&request("x", "sb-three", subnet));
            assert!(matches!(error, NetError::InvalidAddress { .. }), "{error}");
        }
        for address in ["10.80.0.1", "10.80.0.255", "10.81.0.2"] {
            let mut wanted = good.clone();
            wanted.address = Some(address.parse().unwrap());
            assert!(matches!(attach(&wanted), NetError::InvalidAddress { .. }), "{address}");
        }
        // A program of the host listens at the port, or another sandbox has it.
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let mut wanted = good.clone();
        wanted.ports = vec![tcp(0, 80), tcp(listener.local_addr().unwrap().port(), 80)];
        assert!(matches!(attach(&wanted), NetError::PortTaken { index: 1, .. }));
        wanted.ports = vec![tcp(8080, 80)];
        let _other = networks.attach_tap(&wanted).unwrap();
        assert!(matches!(
            attach(&wanted),
            NetError::PortTaken {
                index: 0,
                port: 8080,
                ..
            }
        ));

        let leases = records
            .files()
            .iter()
            .filter(|path| path.to_string_lossy().contains("leases/"))
            .count();
        assert_eq!(leases, 2);
    });
}

#[test]
fn a_subnet_that_is_not_asked_for_is_a_free_one() {
    in_namespace_with_nft("a_subnet_that_is_not_asked_for_is_a_free_one", || {
        let records = Records::new();
        let networks = records.networks();
        let mut attachments = Vec::new();
        for name in ["sb-a", "sb-b"] {
            let mut wanted = request(name, name, "10.80.0.0/24");
            wanted.bridge.subnet = None;
            attachments.push(networks.attach_tap(&wanted).unwrap());
        }
        let network = |index: usize| attachments[index].0.address().network();
        assert_ne!(network(0), network(1));
        assert_eq!(network(0).prefix_len(), 22);
    });
}

#[test]
fn namespaces_may_have_bridges_of_the_same_name_and_network() {
    let name = "namespaces_may_have_bridges_of_the_same_name_and_network";
    in_namespace_with_nft(name, || {
        let records = Records::new();
        let networks = records.networks();
        let mut wanted = request("here", "sb-in", "10.80.0.0/24");
        wanted.ports = vec![tcp(8080, 80)];
        let here = Container::new(&networks, &wanted);
        let elsewhere = networks.new_namespace("elsewhere").unwrap();
        wanted.id = "there".to_owned();
        // Also what differs from the other one is its own.
        wanted.bridge.isolated = false;
        let there = elsewhere
            .namespace()
            .run(|| Container::try_new(&networks, &wanted))
            .unwrap();
        assert_eq!(here.address(), there.address());

        // What is swept here is nothing of there, and each goes with its own last sandbox.
        assert_eq!(networks.sweep().unwrap(), Vec::<String>::new());
        drop(here);
        assert!(!rules().contains("8080"), "{}", rules());
        let listener = there.listen(80);
        let address = SocketAddr::from((there.attachment.gateway(), 8080));
        let connect = || Ok(TcpStream::connect_timeout(&address, PATIENCE).unwrap());
        pass(&listener, elsewhere.namespace().run(connect).unwrap());
        drop(there);
        let interfaces = || Ok(fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        let left = elsewhere.namespace().run(interfaces).unwrap();
        assert!(!left.contains("sb"), "{left}");
        drop(elsewhere);
        assert_nothing_left(&records);
    });
}

#[test]
fn many_that_come_and_go_at_once_share_one_bridge_and_leave_nothing() {
    let name = "many_that_come_and_go_at_once_share_one_bridge_and_leave_nothing";
    in_namespace_with_nft(name, || {
        let records = Records::new();
        let networks = records.networks();
        let home = NetNamespace::current().unwrap();
        thread::scope(|scope| {
            for number in 0..8 {
                let (networks, home) = (&networks, &home);
                scope.spawn(move || {
                    for round in 0..4 {
                        let mut wanted = request(&format!("n{number}-{round}"), "sb-in", "10.80.0.0/24");
                        wanted.ports = vec![tcp(0, 80)];
                        let container = home.run(|| Container::try_new(networks, &wanted)).unwrap();
                        // Given back from a thread that is in another namespace.
                        container.attachment.teardown().unwrap();
                    }
                });
            }
        });
        assert_nothing_left(&records);
    });
}

/// The variable that has a test become the process that dies, in the namespace it was started in.
const VICTIM: &str = "SANDBOX_TEST_VICTIM";

#[test]
fn what_a_killed_process_left_is_swept_or_taken_over() {
    let name = "what_a_killed_process_left_is_swept_or_taken_over";
    if let Some(folder) = std::env::var_os(VICTIM) {
        let networks = Networks::new(&PathBuf::from(folder));
        let mut wanted = request("victim", "sb-in", "10.80.0.0/30");
        wanted.ports = vec![tcp(8080, 80)];
        let _container = Container::new(&networks, &wanted);
        std::process::abort();
    }
    in_namespace_with_nft(name, move || {
        let records = Records::new();
        let networks = records.networks();
        let die = || {
            let mut victim = Command::new(std::env::current_exe().unwrap());
            victim
                .args(["--exact", name])
                .env(VICTIM, records.path())
                .stderr(Stdio::null());
            assert!(!victim.stdout(Stdio::null()).status().unwrap().success());
            assert!(rules().contains("8080"));
        };
        die();
        assert_eq!(networks.sweep().unwrap(), ["victim"]);
        assert_nothing_left(&records);

        // Without a sweep: the only address and the port are the dead one's, and are had all the same.
        die();
        let mut wanted = request("victim", "sb-in", "10.80.0.0/30");
        wanted.ports = vec![tcp(8080, 80)];
        let next = Container::new(&networks, &wanted);
        assert_eq!(networks.sweep().unwrap(), Vec::<String>::new());
        assert_eq!(next.listen(80).local_addr().unwrap().ip(), next.address());
        drop(next);
        assert_nothing_left(&records);
    });
}

#[test]
fn a_file_that_is_no_network_namespace_is_refused() {
    in_namespace("a_file_that_is_no_network_namespace_is_refused", || {
        for path in ["/proc/self/ns/mnt", "/etc/passwd", "/"] {
            let error = NetNamespace::open(path.as_ref()).unwrap_err();
            assert!(matches!(error, NetError::NotANamespace { .. }), "{error}");
        }
        let error = NetNamespace::open("/no/such/file".as_ref()).unwrap_err();
        assert!(matches!(error, NetError::State { .. }), "{error}");
        assert!(NetNamespace::open("/proc/self/ns/net".as_ref()).is_ok());
    });
}
