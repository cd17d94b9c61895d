//! Networks that the SDK makes for micro-VMs: managed bridges, other namespaces, CNI.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;

use sandbox::spec::{BridgeSpec, CniSpec, NetworkSpec, PortSpec, ReadyCheck};
use sandbox::{ErrorKind, NetworkState, Sandbox, SandboxSpec};
use sandbox_net::Networks;

use super::network::serving;
use super::support::network::{
    GUEST, get, in_namespace, interface_exists, network, request, response, with_guest_address,
};
use super::support::{PATIENCE, bare, created, runtime, skip};

/// A web server on a network of this kind.
fn server(network: NetworkSpec) -> SandboxSpec {
    let mut spec = bare("http-reply", &[]);
    spec.networks = vec![NetworkSpec {
        id: "net".to_owned(),
        ..network
    }];
    spec.ready = Some(ReadyCheck::BootPort);
    spec
}

fn on_bridge(bridge: BridgeSpec) -> SandboxSpec {
    server(NetworkSpec {
        bridge: Some(bridge),
        ..NetworkSpec::default()
    })
}

/// The bridge of these tests, on which ports lead to the guest's port 80.
fn bridge(ports: &[u16]) -> BridgeSpec {
    BridgeSpec {
        name: "sb-test".to_owned(),
        subnet: Some("10.83.0.0/24".to_owned()),
        ports: ports
            .iter()
            .map(|host| PortSpec {
                host: *host,
                guest: 80,
                ..PortSpec::default()
            })
            .collect(),
        ..BridgeSpec::default()
    }
}

fn the_network(sandbox: &dyn Sandbox) -> NetworkState {
    let mut networks = sandbox.networks();
    assert_eq!(networks.len(), 1);
    networks.remove(0)
}

fn address(state: &NetworkState) -> Ipv4Addr {
    let address = state.address.as_deref().unwrap();
    address.split_once('/').unwrap().0.parse().unwrap()
}

fn get_at(host: Ipv4Addr, port: u16) -> String {
    let mut stream = TcpStream::connect_timeout(&(host, port).into(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    request(&mut stream);
    String::from_utf8(response(&mut stream)).unwrap()
}

/// Runs `test` where these programs are.
fn in_namespace_with(programs: &[&'static str], test: impl FnOnce() + Send + 'static) {
    let missing = programs.iter().find(|program| {
        let folders = ["/usr/sbin", "/usr/bin", "/usr/lib/cni"];
        folders.iter().all(|folder| !Path::new(folder).join(program).exists())
    });
    match missing {
        None => in_namespace(test),
        Some(missing) => skip(&format!("needs {missing}")),
    }
}

#[test]
fn guests_on_a_managed_bridge_are_told_their_addresses_and_answer_by_published_ports() {
    in_namespace_with(&["nft"], || {
        let one = serving(&on_bridge(bridge(&[8080, 0])));
        let two = serving(&on_bridge(bridge(&[])));
        let (first, second) = (the_network(&*one), the_network(&*two));
        assert_ne!(address(&first), address(&second));
        assert_eq!(first.gateway, Some(Ipv4Addr::new(10, 83, 0, 1)));
        let octets = address(&first).octets().map(|octet| format!("{octet:02x}")).join(":");
        assert_eq!(first.mac, Some(format!("02:53:{octets}")));

        assert_eq!(get(address(&first)), "hello from http-reply\nrequest 1\n");
        assert_eq!(get(address(&second)), "hello from http-reply\nrequest 1\n");
        assert_eq!(
            get_at(Ipv4Addr::new(10, 83, 0, 1), 8080),
            "hello from http-reply\nrequest 2\n"
        );
        let free = first.ports[1].host;
        assert_eq!(
            get_at(Ipv4Addr::new(10, 83, 0, 1), free),
            "hello from http-reply\nrequest 3\n"
        );

        one.teardown().wait(PATIENCE).unwrap();
        assert!(interface_exists("sb-test"));
        assert!(!interface_exists(first.interface.as_deref().unwrap()));
        assert_eq!(get(address(&second)), "hello from http-reply\nrequest 2\n");
        drop(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap());
        two.teardown().wait(PATIENCE).unwrap();
        assert!(!interface_exists("sb-test"));
    });
}

#[test]
fn a_bridge_that_cannot_be_had_is_an_error_about_its_field_and_leaves_nothing() {
    in_namespace_with(&["nft"], || {
        let kept = created(&on_bridge(bridge(&[8080])));
        let with = |change: &dyn Fn(&mut BridgeSpec)| {
            let mut changed = bridge(&[]);
            change(&mut changed);
            on_bridge(changed)
        };
        let mut taken = on_bridge(bridge(&[]));
        taken.networks[0].guest_address = the_network(&*kept).address;
        let mut broken = with(&|bridge| bridge.name = "sb-other".to_owned());
        broken.networks[0].bridge.as_mut().unwrap().subnet = None;
        broken.disks.push(sandbox::spec::DiskSpec {
            id: "missing".to_owned(),
            path: "/no/such/file".into(),
            ..Default::default()
        });
        let cases = [
            (
                with(&|bridge| bridge.name = "lo".to_owned()),
                ErrorKind::AlreadyExists,
                "networks[0].bridge.name",
            ),
            (
                with(&|bridge| bridge.subnet = Some("10.84.0.0/24".to_owned())),
                ErrorKind::AlreadyExists,
                "networks[0].bridge.subnet",
            ),
            (
                with(&|bridge| bridge.isolated = false),
                ErrorKind::AlreadyExists,
                "networks[0].bridge.isolated",
            ),
            (
                with(&|bridge| bridge.name = "sb-other".to_owned()),
                ErrorKind::InUse,
                "networks[0].bridge.subnet",
            ),
            (
                with(&|bridge| bridge.subnet = Some("10.84.0.1/24".to_owned())),
                ErrorKind::InvalidSpec,
                "networks[0].bridge.subnet",
            ),
            (
                on_bridge(bridge(&[8080])),
                ErrorKind::InUse,
                "networks[0].bridge.ports[0].host",
            ),
            (taken, ErrorKind::InUse, "networks[0].guest_address"),
            // Something else is wrong: the network that was made by then goes.
            (broken, ErrorKind::NotFound, "disks[0].path"),
        ];
        for (mut spec, kind, field) in cases {
            // A bridge of another name is there by its subnet only.
            if field == "networks[0].bridge.subnet" && kind == ErrorKind::InvalidSpec {
                spec.networks[0].bridge.as_mut().unwrap().name = "sb-third".to_owned();
            }
            let error = runtime().create(&spec).unwrap_err();
            assert_eq!((error.kind(), error.field()), (kind, Some(field)), "{error}");
        }
        for name in ["sb-other", "sb-third"] {
            assert!(!interface_exists(name), "{name}");
        }
        kept.teardown().wait(PATIENCE).unwrap();
        assert!(!interface_exists("sb-test"));
    });
}

#[test]
fn a_tap_is_made_in_the_namespace_that_is_named() {
    in_namespace(|| {
        let name = format!("test-{}", std::process::id());
        let namespace = Networks::default().new_namespace(&name).unwrap();
        let mut network = with_guest_address(network());
        network.netns = Some(namespace.path().to_owned());
        let sandbox = serving(&server(network));

        assert!(TcpStream::connect((GUEST, 80)).is_err());
        let answer = namespace.namespace().run(|| Ok(get(GUEST))).unwrap();
        assert_eq!(answer, "hello from http-reply\nrequest 1\n");
        sandbox.teardown().wait(PATIENCE).unwrap();

        let mut wrong = server(NetworkSpec::default());
        wrong.networks[0].netns = Some("/etc/passwd".into());
        let error = runtime().create(&wrong).unwrap_err();
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::InvalidSpec, Some("networks[0].netns"))
        );
    });
}

#[test]
fn cni_plugins_make_the_network_of_a_guest() {
    in_namespace_with(&["bridge", "host-local"], || {
        let folder = std::env::temp_dir().join(format!("sandbox-cni-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let list = serde_json::json!({"cniVersion": "1.0.0", "name": "test", "plugins": [{
            "type": "bridge", "bridge": "sb-cni", "isGateway": true,
            "ipam": {"type": "host-local", "subnet": "10.86.0.0/24", "dataDir": folder.join("ipam")},
        }]});
        let config = folder.join("test.conflist");
        fs::write(&config, list.to_string()).unwrap();
        let sandbox = serving(&server(NetworkSpec {
            cni: Some(CniSpec {
                config,
                ..CniSpec::default()
            }),
            ..NetworkSpec::default()
        }));
        let state = the_network(&*sandbox);
        assert_eq!(get(address(&state)), "hello from http-reply\nrequest 1\n");

        sandbox.teardown().wait(PATIENCE).unwrap();
        let mut last = String::new();
        let leases = fs::read_dir(folder.join("ipam/test")).unwrap();
        for lease in leases.map(|lease| lease.unwrap().path()) {
            if lease.file_name().unwrap().to_str().unwrap().starts_with("10.") {
                fs::File::open(&lease).unwrap().read_to_string(&mut last).unwrap();
            }
        }
        assert_eq!(last, "");
        fs::remove_dir_all(&folder).unwrap();
    });
}
