//! Network configurations (CNI specification 1.0, section 1).

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{NetError, PublishedPort};

/// Most bytes of a configuration that are read. It bounds what a wrong path costs.
const MAX_BYTES: u64 = 1 << 20;
/// The versions that are spoken.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The versions that know no CHECK.
const WITHOUT_CHECK: [&str; 2] = ["0.3.0", "0.3.1"];
/// The capability of plugins that publish ports.
const PORTS: &str = "portMappings";

/// A list of plugins.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Configuration {
    pub(super) name: String,
    #[serde(rename = "cniVersion")]
    pub(super) version: String,
    #[serde(rename = "disableCheck", default)]
    pub(super) disable_check: bool,
    pub(super) plugins: Vec<Map<String, Value>>,
}

impl Configuration {
    /// Reads a list, or a single plugin as a list of one.
    pub(super) fn read(path: &Path) -> Result<Self, NetError> {
        let bad = |reason: String| NetError::CniConfiguration {
            path: path.to_owned(),
            reason,
        };
        let failed = |error| NetError::state(path, "read the CNI configuration", error);
        let metadata = fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return Err(bad(format!("is no file of at most {MAX_BYTES} bytes")));
        }
        let text = fs::read(path).map_err(failed)?;
        Self::parse(&text).map_err(bad)
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let unreadable = |error: serde_json::Error| format!("cannot be understood: {error}");
        let mut document: Map<String, Value> = serde_json::from_slice(text).map_err(unreadable)?;
        if !document.contains_key("plugins") {
            let plugin = Value::Object(document.clone());
            document.insert("plugins".to_owned(), json!([plugin]));
        }
        let configuration: Self = serde_json::from_value(Value::Object(document)).map_err(unreadable)?;
        configuration.check().map(|()| configuration)
    }

    fn check(&self) -> Result<(), String> {
        let version = self.version.as_str();
        if !VERSIONS.contains(&version) {
            return Err(format!(
                "has the cniVersion {version:?}; known are {}",
                VERSIONS.join(", ")
            ));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !self.name.bytes().all(plain) || !self.name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return Err(format!(
                "has the name {:?}: use letters, digits, '.', '_' and '-'",
                self.name
            ));
        }
        if self.plugins.is_empty() {
            return Err("names no plugin".to_owned());
        }
        for plugin in &self.plugins {
            // It becomes the name of a program in the plugins' folder.
            match plugin.get("type").and_then(Value::as_str) {
                Some(kind) if !kind.is_empty() && !kind.starts_with('.') && !kind.contains(['/', '\0']) => {}
                other => {
                    return Err(format!(
                        "has a plugin of the type {other:?}, which is no name of a program"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether plugins of this version know `CHECK`.
    pub(super) fn has_check(&self) -> bool {
        !WITHOUT_CHECK.contains(&self.version.as_str())
    }

    /// What plugins are told about this sandbox in particular (CNI conventions, "Dynamic Plugin specific Fields").
    pub(super) fn runtime(&self, path: &Path, ports: &[PublishedPort]) -> Result<Value, NetError> {
        if ports.is_empty() {
            return Ok(json!({}));
        }
        if !self.plugins.iter().any(|plugin| has_capability(plugin, PORTS)) {
            return Err(NetError::CniConfiguration {
                path: path.to_owned(),
                reason: format!("has no plugin with the capability {PORTS}, so that no port can be published"),
            });
        }
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| {
                json!({
                    "hostPort": port.host_port,
                    "containerPort": port.guest_port,
                    "protocol": port.protocol.to_string(),
                    "hostIP": port.host_address.map_or(String::new(), |address| address.to_string()),
                })
            })
            .collect();
        Ok(json!({PORTS: ports}))
    }
}

/// Whether a plugin wants to be told about something.
pub(super) fn has_capability(plugin: &Map<String, Value>, capability: &str) -> bool {
    plugin
        .get("capabilities")
        .is_some_and(|capabilities| capabilities[capability] == Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    #[test]
    fn lists_and_single_plugins_are_read() {
        let list = br#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "a"}, {"type": "b"}]}"#;
        assert_eq!(Configuration::parse(list).unwrap().plugins.len(), 2);
        let single = br#"{"cniVersion": "0.3.1", "name": "net", "type": "bridge", "bridge": "cni0"}"#;
        let configuration = Configuration::parse(single).unwrap();
        assert_eq!(configuration.plugins[0]["bridge"], "cni0");
        assert!(!configuration.has_check());
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_named() {
        let cases: [(&[u8], &str); 6] = [
            (b"{", "understood"),
            (br#"{"cniVersion": "9.0.0", "name": "n", "type": "a"}"#, "9.0.0"),
            (br#"{"cniVersion": "1.0.0", "name": "n", "plugins": []}"#, "no plugin"),
            (
                br#"{"cniVersion": "1.0.0", "name": "n", "type": "../../bin/sh"}"#,
                "bin/sh",
            ),
            (br#"{"cniVersion": "1.0.0", "name": "n/n", "type": "a"}"#, "n/n"),
            (br#"{"cniVersion": "1.0.0", "type": "a"}"#, "name"),
        ];
        for (text, expected) in cases {
            let error = Configuration::parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn ports_need_a_plugin_that_takes_them() {
        let port = PublishedPort {
            protocol: Protocol::Tcp,
            host_address: None,
            host_port: 8080,
            guest_port: 80,
        };
        let without = br#"{"cniVersion": "1.0.0", "name": "n", "type": "a"}"#;
        let without = Configuration::parse(without).unwrap();
        assert!(without.runtime(Path::new("x"), &[port]).is_err());
        let with = br#"{"cniVersion": "1.0.0", "name": "n", "type": "a", "capabilities": {"portMappings": true}}"#;
        let runtime = Configuration::parse(with)
            .unwrap()
            .runtime(Path::new("x"), &[port])
            .unwrap();
        assert_eq!(runtime["portMappings"][0]["hostPort"], 8080);
    }
}
