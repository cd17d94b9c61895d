//! Networks of containers: managed bridges, CNI, namespaces that are given, and what they refuse.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;

use sandbox::spec::{BridgeSpec, CniSpec, NetworkSpec, PortSpec, ReadyCheck, TapSpec};
use sandbox::{ErrorKind, Sandbox, SandboxSpec};
use sandbox_net::Networks;

use crate::support::container::{guest, rootfs, runtimes, script};
use crate::support::network::{in_namespace, interface_exists, request_path, response};
use crate::support::{PATIENCE, created, leftovers, runtime, skip, started};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 1);

/// A container whose web server shows its accounts.
fn server(runtime: &str, network: NetworkSpec) -> SandboxSpec {
    let mut spec = script(runtime, "exec httpd -f -p 80 -h /etc");
    spec.networks = vec![NetworkSpec {
        id: "net".to_owned(),
        ..network
    }];
    spec.ready = Some(ReadyCheck::Tcp {
        address: (Ipv4Addr::UNSPECIFIED, 80).into(),
    });
    spec
}

fn bridge() -> BridgeSpec {
    BridgeSpec {
        name: "sb-box".to_owned(),
        subnet: Some("10.87.0.0/24".to_owned()),
        ports: vec![PortSpec {
            guest: 80,
            ..PortSpec::default()
        }],
        ..BridgeSpec::default()
    }
}

fn on_bridge(runtime: &str) -> SandboxSpec {
    let network = NetworkSpec {
        bridge: Some(bridge()),
        ..NetworkSpec::default()
    };
    server(runtime, network)
}

fn get(address: Ipv4Addr, port: u16) -> String {
    let mut stream = TcpStream::connect_timeout(&(address, port).into(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    request_path(&mut stream, "/passwd");
    String::from_utf8(response(&mut stream)).unwrap()
}

fn address(sandbox: &dyn Sandbox) -> Ipv4Addr {
    let networks = sandbox.networks();
    let address = networks[0].address.as_deref().unwrap();
    address.split('/').next().unwrap().parse().unwrap()
}

/// The runtimes that work here with a network namespace that is given.
fn networked() -> Vec<&'static str> {
    let works = |name: &&str| {
        let mut spec = script(name, "true");
        spec.networks = vec![NetworkSpec {
            id: "net".to_owned(),
            netns: Some("/proc/thread-self/ns/net".into()),
            ..NetworkSpec::default()
        }];
        match runtime().create(&spec) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                skip(error.context());
                false
            }
            _ => true,
        }
    };
    runtimes().into_iter().filter(works).collect()
}

fn has(program: &str) -> bool {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/lib/cni"];
    let found = folders.iter().any(|folder| Path::new(folder).join(program).exists());
    if !found {
        skip(&format!("needs {program}"));
    }
    found
}

#[test]
fn a_container_on_a_managed_bridge_answers_by_its_address_and_its_port() {
    if !has("nft") {
        return;
    }
    in_namespace(|| {
        for name in networked() {
            let one = started(&on_bridge(name));
            let two = started(&on_bridge(name));
            one.wait_ready(PATIENCE).unwrap();
            two.wait_ready(PATIENCE).unwrap();
            assert_ne!(address(&*one), address(&*two), "{name}");
            assert!(get(address(&*one), 80).contains("web:x:33"), "{name}");
            assert!(
                get(GATEWAY, one.networks()[0].ports[0].host).contains("web:x:33"),
                "{name}"
            );

            let interface = one.networks()[0].interface.clone().unwrap();
            one.teardown().wait(PATIENCE).unwrap();
            assert!(!interface_exists(&interface), "{name}");
            assert!(get(address(&*two), 80).contains("web:x:33"), "{name}");
            two.teardown().wait(PATIENCE).unwrap();
            assert!(!interface_exists("sb-box"), "{name}");
        }
    });
}

#[test]
fn a_container_with_a_network_knows_names() {
    if !has("nft") {
        return;
    }
    in_namespace(|| {
        for name in networked() {
            let mut spec = on_bridge(name);
            spec.guest = script(
                name,
                "cat /etc/hostname /etc/hosts; touch /etc/hosts; ls /etc; sleep 1000",
            )
            .guest;
            guest(&mut spec).hostname = Some("boxed".to_owned());
            spec.ready = Some(ReadyCheck::Console {
                marker: "resolv.conf".to_owned(),
            });
            let sandbox = started(&spec);
            sandbox.wait_ready(PATIENCE).unwrap();
            let text = crate::support::console_text(&*sandbox);
            assert!(text.starts_with("boxed\n"), "{name}: {text}");
            assert!(
                text.contains(&format!("{}\tboxed\n", address(&*sandbox))),
                "{name}: {text}"
            );
            assert!(text.contains("Read-only file system"), "{name}: {text}");
            sandbox.teardown().wait(PATIENCE).unwrap();
            assert!(
                !rootfs().join("etc/hosts").exists(),
                "{name} wrote to the folder that all share"
            );
        }
    });
}

#[test]
fn a_container_reaches_the_host_by_its_bridge() {
    if !has("nft") {
        return;
    }
    in_namespace(|| {
        for name in networked() {
            let mut spec = on_bridge(name);
            let listen = (GATEWAY, 8099).into();
            let path = "/ready".to_owned();
            // The bridge must be there before the host can listen on it.
            let _first = created(&on_bridge(name));
            spec.ready = Some(ReadyCheck::Post { listen, path });
            let text = format!(
                "printf 'POST /ready HTTP/1.1\\r\\nHost: h\\r\\nContent-Length: 0\\r\\n\\r\\n' | nc {GATEWAY} 8099; sleep 1000"
            );
            let words = script(name, &text);
            spec.guest = words.guest;
            let sandbox = started(&spec);
            sandbox.wait_ready(PATIENCE).unwrap();
            sandbox.teardown().wait(PATIENCE).unwrap();
        }
    });
}

#[test]
fn a_container_enters_a_namespace_that_is_given_and_cni_plugins_attach_it() {
    if !has("bridge") {
        return;
    }
    in_namespace(|| {
        let folder = std::env::temp_dir().join(format!("sandbox-box-cni-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let list = serde_json::json!({"cniVersion": "1.0.0", "name": "boxes", "plugins": [{
            "type": "bridge", "bridge": "sb-cni", "isGateway": true,
            "ipam": {"type": "host-local", "subnet": "10.88.0.0/24", "dataDir": folder.join("ipam")},
        }]});
        fs::write(folder.join("boxes.conflist"), list.to_string()).unwrap();
        for name in networked() {
            let cni = CniSpec {
                config: folder.join("boxes.conflist"),
                ..CniSpec::default()
            };
            let sandbox = started(&server(
                name,
                NetworkSpec {
                    cni: Some(cni),
                    ..NetworkSpec::default()
                },
            ));
            sandbox.wait_ready(PATIENCE).unwrap();
            assert!(get(address(&*sandbox), 80).contains("web:x:33"), "{name}");
            sandbox.teardown().wait(PATIENCE).unwrap();

            let given = Networks::default()
                .new_namespace(&format!("given-{}", std::process::id()))
                .unwrap();
            let mut spec = script(
                name,
                "httpd -p 80 -h /etc; wget -q -O - http://127.0.0.1/passwd; sleep 1000",
            );
            spec.networks = vec![NetworkSpec {
                id: "net".to_owned(),
                netns: Some(given.path().to_owned()),
                ..NetworkSpec::default()
            }];
            let sandbox = started(&spec);
            crate::support::await_console(&*sandbox, "web:x:33");
            sandbox.teardown().wait(PATIENCE).unwrap();
            assert!(given.path().exists(), "{name}: it is the embedder's");
        }
        fs::remove_dir_all(&folder).unwrap();
    });
}

#[test]
fn a_bridge_that_cannot_be_had_is_refused_by_field_and_leaves_nothing() {
    if !has("nft") {
        return;
    }
    in_namespace(|| {
        for name in networked() {
            let mut smallest = on_bridge(name);
            // It has room for one sandbox beside the host.
            let small = |spec: &mut SandboxSpec| {
                spec.networks[0].bridge = Some(BridgeSpec {
                    subnet: Some("10.87.0.0/30".to_owned()),
                    ..bridge()
                });
            };
            small(&mut smallest);
            let only = created(&smallest);
            type Change = fn(&mut BridgeSpec);
            let cases: [(&str, ErrorKind, Change); 4] = [
                ("bridge.subnet", ErrorKind::HostExhausted, |_| {}),
                ("bridge.name", ErrorKind::AlreadyExists, |bridge| {
                    bridge.name = "lo".to_owned();
                }),
                ("bridge.subnet", ErrorKind::InUse, |bridge| {
                    bridge.name = "sb-other".to_owned();
                }),
                ("bridge.subnet", ErrorKind::AlreadyExists, |bridge| {
                    bridge.subnet = Some("10.99.0.0/24".to_owned());
                }),
            ];
            for (field, kind, change) in cases {
                let mut spec = on_bridge(name);
                let id = format!("unbridged-{name}-{}", std::process::id());
                spec.id = Some(id.clone());
                small(&mut spec);
                change(spec.networks[0].bridge.as_mut().unwrap());
                let error = runtime().create(&spec).unwrap_err();
                let field = format!("networks[0].{field}");
                assert_eq!(
                    (error.kind(), error.field()),
                    (kind, Some(&*field)),
                    "{name}: {}",
                    error.report()
                );
                assert_eq!(leftovers(&id), Vec::<String>::new(), "{name}: {field}");
            }
            only.teardown().wait(PATIENCE).unwrap();
            assert!(!interface_exists("sb-box") && !interface_exists("sb-other"), "{name}");
        }
    });
}

#[test]
fn what_containers_cannot_have_is_refused_by_field() {
    in_namespace(|| {
        for name in runtimes() {
            let mut two = on_bridge(name);
            two.networks[0].bridge = None;
            two.networks[0].netns = Some("/proc/self/ns/net".into());
            two.networks.push(NetworkSpec {
                id: "second".to_owned(),
                bridge: Some(bridge()),
                ..NetworkSpec::default()
            });
            let none = server(name, NetworkSpec::default());
            let tap = server(
                name,
                NetworkSpec {
                    tap: TapSpec::Name("tap0".to_owned()),
                    ..NetworkSpec::default()
                },
            );
            let mut open = script(name, "true");
            open.ready = Some(ReadyCheck::Tcp {
                address: "0.0.0.0:80".parse().unwrap(),
            });
            let cases = [
                (two, ErrorKind::Unsupported, "networks[0].netns"),
                (none, ErrorKind::Unsupported, "networks[0].tap"),
                (tap, ErrorKind::Unsupported, "networks[0].tap"),
                (open, ErrorKind::InvalidSpec, "ready"),
            ];
            for (spec, kind, field) in cases {
                let error = runtime().create(&spec).unwrap_err();
                assert_eq!((error.kind(), error.field()), (kind, Some(field)), "{name}: {error}");
            }
        }
    });
}
