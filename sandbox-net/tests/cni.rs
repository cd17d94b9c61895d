//! Networks by Debian's own CNI plugins, in a namespace of each test's own.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sandbox_net::{CniRequest, DEFAULT_PLUGIN_FOLDERS, LinkControl, NetError, Networks, Protocol, PublishedPort};
use serde_json::{Value, json};
use support::{
    ETHER_TYPE_ARP, ETHER_TYPE_IPV4, Records, arp_reply, in_namespace, receive_frame, send_frame, skip_test, udp_echo,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` where the plugins are.
fn with_plugins(name: &str, test: impl FnOnce() + Send + 'static) {
    let found = DEFAULT_PLUGIN_FOLDERS
        .iter()
        .any(|folder| Path::new(folder).join("bridge").exists());
    match found {
        true => in_namespace(name, test),
        false => skip_test(name, "needs CNI plugins"),
    }
}

/// A list of the plugins `bridge` with `host-local`, and of others behind it.
fn configuration(records: &Records, others: &[Value]) -> PathBuf {
    let mut plugins = vec![json!({
        "type": "bridge", "bridge": "sb-cni", "isGateway": true,
        "ipam": {
            "type": "host-local", "subnet": "10.85.0.0/24", "dataDir": records.path().join("ipam"),
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    })];
    plugins.extend_from_slice(others);
    let list = json!({"cniVersion": "1.0.0", "name": "test", "plugins": plugins});
    fs::create_dir_all(records.path()).unwrap();
    let path = records.path().join("test.conflist");
    fs::write(&path, list.to_string()).unwrap();
    path
}

fn request(configuration: PathBuf, namespace: &Path) -> CniRequest {
    CniRequest {
        id: "sandbox".to_owned(),
        configuration,
        plugin_folders: Vec::new(),
        namespace: namespace.to_owned(),
        interface: "eth0".to_owned(),
        ports: Vec::new(),
    }
}

/// The addresses that `host-local` has leased.
fn leased(records: &Records) -> Vec<String> {
    let files = fs::read_dir(records.path().join("ipam/test")).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("10.")).collect()
}

#[test]
fn a_namespace_is_attached_checked_and_given_back_by_chained_plugins() {
    let name = "a_namespace_is_attached_checked_and_given_back_by_chained_plugins";
    with_plugins(name, || {
        let records = Records::new();
        let networks = records.networks();
        let namespace = networks.new_namespace("sandbox").unwrap();
        let tuning = json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}});
        let configuration = configuration(&records, &[tuning]);
        let attachment = networks.attach_cni(&request(configuration, namespace.path())).unwrap();

        let [address] = attachment.addresses() else {
            panic!("{:?}", attachment.addresses());
        };
        assert_eq!(address.prefix_len, 24);
        let gateway = address.gateway.unwrap();
        let listener = TcpListener::bind((gateway, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let inside = namespace.namespace();
        let mut from = inside
            .run(|| {
                let filter = fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/arp_filter").unwrap();
                assert_eq!(filter.trim(), "1");
                Ok(TcpStream::connect_timeout(&SocketAddr::from((gateway, port)), PATIENCE).unwrap())
            })
            .unwrap();
        from.write_all(b"x").unwrap();
        let (mut to, peer) = listener.accept().unwrap();
        to.read_exact(&mut [0]).unwrap();
        assert_eq!(peer.ip(), address.address);
        assert_eq!(leased(&records), [address.address.to_string()]);

        attachment.check().unwrap();
        inside.run(|| LinkControl::open()?.delete("eth0")).unwrap();
        let error = attachment.check().unwrap_err();
        assert!(matches!(&error, NetError::Cni { command: "CHECK", .. }), "{error}");

        attachment.teardown().unwrap();
        attachment.teardown().unwrap();
        assert_eq!(leased(&records), Vec::<String>::new());
    });
}

#[test]
fn a_plugin_that_fails_has_those_before_it_taken_back() {
    with_plugins("a_plugin_that_fails_has_those_before_it_taken_back", || {
        let records = Records::new();
        let networks = records.networks();
        let namespace = networks.new_namespace("sandbox").unwrap();
        let tuning = json!({"type": "tuning", "sysctl": {"net.ipv4.no.such.setting": "1"}});
        let failing = request(configuration(&records, &[tuning]), namespace.path());
        let error = networks.attach_cni(&failing).unwrap_err();
        let named = matches!(&error, NetError::Cni { plugin, command: "ADD", .. } if plugin == "tuning");
        assert!(named, "{error}");
        assert_eq!(leased(&records), Vec::<String>::new());

        let missing = request(configuration(&records, &[json!({"type": "no-such"})]), namespace.path());
        let error = networks.attach_cni(&missing).unwrap_err();
        assert!(
            matches!(&error, NetError::CommandMissing { program, .. } if program.contains("no-such")),
            "{error}"
        );
        assert_eq!(leased(&records), Vec::<String>::new());

        let nowhere = request(configuration(&records, &[]), Path::new("/no/such/namespace"));
        let error = networks.attach_cni(&nowhere).unwrap_err();
        assert!(
            matches!(&error, NetError::Cni { plugin, .. } if plugin == "bridge"),
            "{error}"
        );

        let mut ports = request(configuration(&records, &[]), namespace.path());
        ports.ports.push(PublishedPort {
            protocol: Protocol::Tcp,
            host_address: None,
            host_port: 8080,
            guest_port: 80,
        });
        let error = networks.attach_cni(&ports).unwrap_err();
        assert!(matches!(error, NetError::CniConfiguration { .. }), "{error}");
    });
}

/// The variable that has a test become the process that dies, in the namespace it was started in.
const VICTIM: &str = "SANDBOX_TEST_VICTIM";

#[test]
fn what_a_killed_process_had_attached_is_swept() {
    let name = "what_a_killed_process_had_attached_is_swept";
    if let Some(folder) = std::env::var_os(VICTIM) {
        let folder = PathBuf::from(folder);
        let networks = Networks::new(&folder);
        let namespace = networks.new_namespace("sandbox").unwrap();
        let request = request(folder.join("test.conflist"), namespace.path());
        let _attachment = networks.attach_cni(&request).unwrap();
        std::process::abort();
    }
    with_plugins(name, move || {
        let records = Records::new();
        configuration(&records, &[]);
        let mut victim = Command::new(std::env::current_exe().unwrap());
        victim.args(["--exact", name]).env(VICTIM, records.path());
        victim.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(!victim.status().unwrap().success());
        let address: IpAddr = leased(&records)[0].parse().unwrap();
        assert!(address.is_ipv4());

        assert_eq!(records.networks().sweep().unwrap(), ["sandbox"]);

        assert_eq!(leased(&records), Vec::<String>::new());
        assert!(!records.has_mounts());
    });
}

#[test]
fn a_machine_is_attached_by_the_same_plugins_through_a_tap() {
    with_plugins("a_machine_is_attached_by_the_same_plugins_through_a_tap", || {
        let records = Records::new();
        let networks = records.networks();
        let request = request(configuration(&records, &[]), Path::new(""));
        let (attached, tap) = networks.attach_cni_tap(&request).unwrap();
        let (guest, _) = attached.attachment().ipv4().unwrap();

        let socket = UdpSocket::bind("10.85.0.1:0").unwrap();
        socket.send_to(b"are you there", (guest, 7)).unwrap();
        let question = receive_frame(&tap, ETHER_TYPE_ARP);
        assert_eq!(question.bytes[38..42], guest.octets());
        send_frame(&tap, &arp_reply(&question.bytes, attached.mac()));
        let question = receive_frame(&tap, ETHER_TYPE_IPV4);
        assert_eq!(question.bytes[0..6], attached.mac().octets());
        send_frame(&tap, &udp_echo(&question.bytes));
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 32]).unwrap();
        assert_eq!(from, SocketAddr::from((guest, 7)));

        attached.teardown().unwrap();
        assert_eq!(leased(&records), Vec::<String>::new());
        assert!(!records.has_mounts());
    });
}
