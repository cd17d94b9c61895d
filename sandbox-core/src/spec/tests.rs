//! Parsing and validation: any document gives a spec or a typed error.

use super::*;
use crate::error::ErrorKind;
use proptest::prelude::*;

const MINIMAL: &str = r#"{"guest": {"linux": {"kernel": "/boot/vmlinuz"}}}"#;

#[test]
fn a_minimal_document_gets_the_defaults() {
    let spec = SandboxSpec::from_json(MINIMAL.as_bytes()).unwrap();
    assert_eq!((spec.vcpus, spec.memory), (1, DEFAULT_MEMORY));
    assert_eq!(spec.isolation, Isolation::Worker);
    assert_eq!(SandboxSpec::from_json(spec.to_json().as_bytes()).unwrap(), spec);
}

#[test]
fn errors_name_the_field() {
    let cases = [
        (r#"{"guest": {"linux": {"kernel": ""}}}"#, "guest.linux.kernel"),
        (
            r#"{"guest": {"linux": {"kernel": "k", "cmdline": "a\u0000b"}}}"#,
            "guest.linux.cmdline",
        ),
        (
            r#"{"guest": {"linux": {"kernel": "k", "kernl": 1}}}"#,
            "guest.linux.kernl",
        ),
        (r#"{"guest": {"linux": {"kernel": "k"}}, "vcpus": 0}"#, "vcpus"),
        (r#"{"guest": {"linux": {"kernel": "k"}}, "vcpus": 33}"#, "vcpus"),
        (r#"{"guest": {"linux": {"kernel": "k"}}, "vcpus": "two"}"#, "vcpus"),
        (r#"{"guest": {"linux": {"kernel": "k"}}, "memory": 0}"#, "memory"),
        (r#"{"guest": {"linux": {"kernel": "k"}}, "memory": 4097}"#, "memory"),
        (
            r#"{"guest": {"linux": {"kernel": "k"}}, "disks": [{"id": "a", "path": "x"}, {"id": "a", "path": "y"}]}"#,
            "disks[1].id",
        ),
        (
            r#"{"guest": {"linux": {"kernel": "k"}}, "networks": [{"id": "../x"}]}"#,
            "networks[0].id",
        ),
        (
            r#"{"guest": {"linux": {"kernel": "k"}}, "networks": [{"id": "n", "guest_address": "10.0.0.1"}]}"#,
            "networks[0].guest_address",
        ),
        (
            r#"{"guest": {"linux": {"kernel": "k"}}, "vsock": {"cid": 2, "path": "s"}}"#,
            "vsock.cid",
        ),
        (
            r#"{"guest": {"linux": {"kernel": "k"}}, "ready": {"vsock": {"port": 1}}}"#,
            "ready.vsock",
        ),
        (
            r#"{"guest": {"linux": {"kernel": "k"}}, "ready": {"console": {"marker": ""}}}"#,
            "ready.console.marker",
        ),
        (
            r#"{"guest": {"linux": {"kernel": "k"}}, "isolation": "none"}"#,
            "isolation",
        ),
        (
            r#"{"guest": {"linux": {"kernel": "k"}}, "limits": {"deadline_ms": 0}}"#,
            "limits.deadline_ms",
        ),
        (
            r#"{"guest": {"linux": {"kernel": "k"}}, "balloon": {"size": 134217728}}"#,
            "balloon.size",
        ),
        (
            r#"{"guest": {"unikernel": {"image": "i", "cmdline": "c", "args": ["a"]}}}"#,
            "guest.unikernel.cmdline",
        ),
        (
            r#"{"guest": {"unikernel": {"image": "i", "env": ["=x"]}}}"#,
            "guest.unikernel.env[0]",
        ),
        (
            r#"{"guest": {"container": {"runtime": "runc"}}}"#,
            "guest.container.rootfs",
        ),
        (
            r#"{"guest": {"container": {"runtime": "runc", "rootfs": "r", "process": {"args": []}}}}"#,
            "guest.container.process.args",
        ),
    ];
    for (json, field) in cases {
        let error = SandboxSpec::from_json(json.as_bytes()).expect_err(json);
        assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{json}");
        assert_eq!(error.field(), Some(field), "{json}: {error}");
    }
}

#[test]
fn a_wrong_value_of_a_closed_set_names_the_accepted_ones() {
    let json = r#"{"guest": {"linux": {"kernel": "k"}}, "isolation": "none"}"#;
    let error = SandboxSpec::from_json(json.as_bytes()).unwrap_err();
    assert!(
        error.context().contains("worker") && error.context().contains("in_process"),
        "{error}"
    );
}

#[test]
fn an_oversized_document_is_refused() {
    let json = vec![b' '; MAX_SPEC_BYTES + 1];
    assert_eq!(
        SandboxSpec::from_json(&json).unwrap_err().kind(),
        ErrorKind::InvalidSpec
    );
}

#[cfg(feature = "schema")]
#[test]
fn the_published_schema_is_the_types_schema() {
    let schema = schemars::schema_for!(SandboxSpec);
    let generated = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/sandbox-spec.json");
    if std::env::var_os("SANDBOX_UPDATE_SCHEMA").is_some() {
        std::fs::write(path, &generated).unwrap();
    }
    let published = std::fs::read_to_string(path).unwrap();
    assert!(
        published == generated,
        "{path} is stale; run the test with SANDBOX_UPDATE_SCHEMA=1 and read the difference"
    );
}

/// Documents that are nearly right: known and unknown keys with values of every type.
fn nearly_a_spec() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u32>().prop_map(Into::into),
        "[a-z/.0-9:\\x00]{0,12}".prop_map(Into::into),
        Just("in_process".into()),
        Just("10.0.0.2/24".into()),
    ];
    let keys = prop::sample::select(vec![
        "id",
        "guest",
        "linux",
        "kernel",
        "unikernel",
        "image",
        "family",
        "args",
        "env",
        "cmdline",
        "container",
        "runtime",
        "rootfs",
        "process",
        "vcpus",
        "memory",
        "cpu",
        "mask",
        "disks",
        "path",
        "networks",
        "tap",
        "create",
        "name",
        "guest_address",
        "vsock",
        "cid",
        "balloon",
        "size",
        "limits",
        "deadline_ms",
        "ready",
        "console",
        "marker",
        "isolation",
        "track_dirty",
        "rate_limit",
        "bandwidth",
        "refill_time_ms",
    ]);
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::Array),
            prop::collection::hash_map(keys.clone().prop_map(String::from), inner, 0..8)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_give_a_spec_or_a_typed_error(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        if let Err(error) = SandboxSpec::from_json(&bytes) {
            prop_assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        }
    }

    #[test]
    fn any_document_gives_a_valid_spec_or_a_typed_error(
        guest in nearly_a_spec(), rest in nearly_a_spec(), wrap in any::<bool>(),
    ) {
        let mut document = rest;
        if let serde_json::Value::Object(fields) = &mut document {
            let guest = if wrap { serde_json::json!({"unikernel": {"image": "i", "args": [guest]}}) } else { guest };
            fields.insert("guest".into(), guest);
        }
        match SandboxSpec::from_json(document.to_string().as_bytes()) {
            Ok(spec) => {
                prop_assert!(spec.validate().is_ok());
                prop_assert_eq!(SandboxSpec::from_json(spec.to_json().as_bytes()).unwrap(), spec);
            }
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::InvalidSpec),
        }
    }
}

fn with_network(network: &str) -> Result<SandboxSpec> {
    let document = format!(r#"{{"guest": {{"linux": {{"kernel": "k"}}}}, "networks": [{network}]}}"#);
    SandboxSpec::from_json(document.as_bytes())
}

#[test]
fn a_managed_bridge_needs_nothing_but_its_mention() {
    let spec = with_network(r#"{"id": "n", "bridge": {}}"#).unwrap();
    assert_eq!(spec.networks[0].bridge, Some(BridgeSpec::default()));
    let ports = r#"{"id": "n", "bridge": {"ports": [{"host": 8080, "guest": 80}]}}"#;
    let spec = with_network(ports).unwrap();
    let port = spec.networks[0].bridge.as_ref().unwrap().ports[0];
    assert_eq!((port.host, port.guest, port.protocol), (8080, 80, PortProtocol::Tcp));
    assert_eq!(SandboxSpec::from_json(spec.to_json().as_bytes()).unwrap(), spec);
}

#[test]
fn networks_that_cannot_be_are_refused_by_field() {
    let cases = [
        (
            r#"{"id": "n", "bridge": {}, "tap": {"name": "t"}}"#,
            "networks[0].bridge",
        ),
        (r#"{"id": "n", "bridge": {}, "netns": "/n"}"#, "networks[0].bridge"),
        (
            r#"{"id": "n", "bridge": {}, "cni": {"config": "c"}}"#,
            "networks[0].cni",
        ),
        (
            r#"{"id": "n", "tap": {"name": "t"}, "netns": "/n", "cni": {"config": "c"}}"#,
            "networks[0].netns",
        ),
        (r#"{"id": "n", "netns": "run/netns/x"}"#, "networks[0].netns"),
        (r#"{"id": "n", "bridge": {"name": "a/b"}}"#, "networks[0].bridge.name"),
        (
            r#"{"id": "n", "bridge": {"name": "sixteen-bytes-xx"}}"#,
            "networks[0].bridge.name",
        ),
        (
            r#"{"id": "n", "bridge": {"subnet": "10.0.0.0"}}"#,
            "networks[0].bridge.subnet",
        ),
        (
            r#"{"id": "n", "bridge": {"ports": [{"host": 1, "guest": 0}]}}"#,
            "networks[0].bridge.ports[0].guest",
        ),
        (
            r#"{"id": "n", "bridge": {"ports": [{"host": 1, "guest": 1}, {"host": 1, "guest": 2}]}}"#,
            "networks[0].bridge.ports[1].host",
        ),
        (
            r#"{"id": "n", "bridge": {"ports": [{"host": 1, "guest": 1, "protocol": "sctp"}]}}"#,
            "networks[0].bridge.ports[0].protocol",
        ),
        (r#"{"id": "n", "cni": {"config": ""}}"#, "networks[0].cni.config"),
        (
            r#"{"id": "n", "cni": {"config": "c", "plugin_dirs": ["bin"]}}"#,
            "networks[0].cni.plugin_dirs[0]",
        ),
    ];
    for (network, field) in cases {
        let error = with_network(network).unwrap_err();
        assert_eq!(error.field(), Some(field), "{network}: {error}");
    }
    with_network(r#"{"id": "n", "tap": {"name": "t"}, "netns": "/run/netns/n"}"#).unwrap();
}
