//! Functions that answer over a managed network.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;

use sandbox::spec::{BridgeSpec, MountSpec, NetworkSpec, PortSpec, ReadyCheck};
use sandbox::{ErrorKind, SandboxSpec};

use crate::support::container::{container, guest, runtimes};
use crate::support::{PATIENCE, TempFolder, leftovers, runtime, skip};

const PORT: u16 = 8080;

/// A network on a bridge of this test's own, with the function's port published.
fn network(bridge: &str) -> NetworkSpec {
    NetworkSpec {
        id: "net".to_owned(),
        bridge: Some(BridgeSpec {
            name: bridge.to_owned(),
            ports: vec![PortSpec {
                host: 0,
                guest: PORT,
                ..PortSpec::default()
            }],
            ..BridgeSpec::default()
        }),
        ..NetworkSpec::default()
    }
}

/// The body of the answer to `GET /`.
fn fetched(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Starts the function and asks it by its own address and by the host's.
fn serves(name: &str, bridge: &str, spec: &mut SandboxSpec, expected: &str) {
    spec.networks = vec![network(bridge)];
    spec.memory = 512 << 20;
    spec.id = Some(format!("{bridge}-{name}-{}", std::process::id()));
    spec.ready = Some(ReadyCheck::Console {
        marker: "listening".to_owned(),
    });
    let sandbox = match runtime().create(spec) {
        Ok(sandbox) => sandbox,
        // An old runsc on a kernel that is newer than it.
        Err(error) if error.kind() == ErrorKind::Unsupported => return skip(error.context()),
        Err(error) => panic!("{name}: {}", error.report()),
    };
    sandbox.start().unwrap();
    if let Err(error) = sandbox.wait_ready(PATIENCE) {
        panic!("{name}: {}: {}", error.report(), sandbox.console().tail(20));
    }
    let states = sandbox.networks();
    let address: Ipv4Addr = states[0]
        .address
        .as_ref()
        .unwrap()
        .split_once('/')
        .unwrap()
        .0
        .parse()
        .unwrap();
    assert!(fetched((address, PORT).into()).contains(expected), "{name}");
    let published = states[0].ports[0].host;
    assert!(
        fetched((Ipv4Addr::LOCALHOST, published).into()).contains(expected),
        "{name}"
    );
    let stats = sandbox.stats().unwrap();
    assert!(
        stats.networks[0].received_frames > 0 && stats.networks[0].sent_frames > 0,
        "{stats:?}"
    );
    let id = spec.id.clone().unwrap();
    sandbox.teardown().wait(PATIENCE).unwrap();
    assert_eq!(leftovers(&id), Vec::<String>::new(), "{name}");
    assert!(
        !Path::new("/sys/class/net").join(bridge).exists(),
        "{name}: the bridge is still there"
    );
}

fn is_root() -> bool {
    // SAFETY: takes no arguments and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip("needs root to make a bridge");
    }
    root
}

#[test]
fn a_static_go_function_answers() {
    if !is_root() {
        return;
    }
    let Some(function) = std::env::var_os("SANDBOX_TEST_GO_FUNCTION") else {
        return skip("needs the function that cargo xtask test builds");
    };
    let folder = TempFolder::new();
    fs::copy(function, folder.path().join("function")).unwrap();
    for name in runtimes() {
        let mut spec = container(name, &["/function"]);
        guest(&mut spec).rootfs = Some(folder.path().to_owned());
        serves(name, "sbgo", &mut spec, "hello from go");
    }
}

#[test]
fn a_node_function_answers() {
    if !is_root() {
        return;
    }
    if !Path::new("/usr/bin/node").exists() {
        return skip("needs nodejs");
    }
    for name in runtimes() {
        let mut spec = container(name, &["/usr/bin/node", "-e", NODE]);
        // The host's own libraries, read-only.
        let folders = ["/usr", "/lib", "/lib64"]
            .into_iter()
            .filter(|path| Path::new(path).is_dir());
        guest(&mut spec).mounts = folders
            .map(|path| MountSpec {
                source: path.into(),
                destination: path.into(),
                read_only: true,
            })
            .collect();
        serves(name, "sbnode", &mut spec, "hello from node");
    }
}

const NODE: &str = "require('http').createServer((request, response) => response.end('hello from node\\n'))\
                    .listen(8080, () => console.log('listening'))";
