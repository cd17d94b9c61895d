//! A deployment as OpenFaaS writes it, and what it means here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sandbox::SandboxSpec;
use sandbox::spec::{ContainerGuest, GuestSpec, LinuxGuest, ProcessSpec, UnikernelGuest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::function::{Builtins, FunctionError, FunctionSpec};

/// How an image names a function that comes with the harness.
const BUILTIN: &str = "builtin:";
/// The runtime of a container unless the annotation `sandbox.runtime` says otherwise.
const DEFAULT_RUNTIME: &str = "runc";

/// `FunctionDeployment` of OpenFaaS' provider API.
///
/// `image` is `builtin:NAME`, or the absolute path of a unikernel's file, of an OCI image layout or of a root file
/// system. The annotations `sandbox.guest` (`unikernel`, `image` or `rootfs`; found out from the path if left out),
/// `sandbox.runtime`, `sandbox.isolation`, `sandbox.start` and `sandbox.port`, and OpenFaaS' labels
/// `com.openfaas.scale.min`, `….max` and `….zero-duration` say the rest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Deployment {
    service: String,
    image: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    env_process: String,
    #[serde(default)]
    env_vars: Option<BTreeMap<String, String>>,
    #[serde(default)]
    constraints: Option<Vec<String>>,
    #[serde(default)]
    secrets: Option<Vec<String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    limits: Option<Resources>,
    #[serde(default)]
    #[allow(dead_code, reason = "a hint for schedulers, and this platform has one node")]
    requests: Option<Resources>,
    #[serde(default)]
    read_only_root_filesystem: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Resources {
    memory: String,
    cpu: String,
}

impl Deployment {
    /// The function that is meant.
    ///
    /// # Errors
    /// The field that has no meaning here.
    pub(super) fn function(self, builtins: &Builtins) -> Result<FunctionSpec, FunctionError> {
        self.refuse_what_is_not_had()?;
        let annotations = self.annotations.clone().unwrap_or_default();
        let labels = self.labels.clone().unwrap_or_default();
        let mut function = match self.image.strip_prefix(BUILTIN) {
            Some(name) => builtins.function(name, &self.service).ok_or_else(|| {
                let names = Builtins::names().join(", ");
                FunctionError::new(
                    "image",
                    format!("there is no {name:?} among the functions that come along: {names}"),
                )
            })?,
            None => FunctionSpec::new(&self.service, SandboxSpec::new(self.guest(&annotations)?)),
        };
        if let Some(limits) = &self.limits
            && !limits.memory.is_empty()
        {
            let invalid =
                || FunctionError::new("limits.memory", "must be bytes, or a number with Ki, Mi, Gi, K, M or G");
            function.sandbox.memory = memory(&limits.memory).ok_or_else(invalid)?;
        }
        if let Some(start) = annotations.get("sandbox.start") {
            function.start = word(start, "sandbox.start")?;
        }
        if let Some(isolation) = annotations.get("sandbox.isolation") {
            function.sandbox.isolation = word(isolation, "sandbox.isolation")?;
        }
        if let Some(port) = annotations.get("sandbox.port") {
            let invalid = |_| FunctionError::new("annotations.sandbox.port", "must be 1 to 65535");
            function.port = port.parse().map_err(invalid)?;
        }
        scale(&mut function, &labels)?;
        function.labels = labels;
        function.annotations = annotations;
        Ok(function)
    }

    fn refuse_what_is_not_had(&self) -> Result<(), FunctionError> {
        let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        if !self.namespace.is_empty() {
            return Err(FunctionError::new(
                "namespace",
                "must be left out: this platform has no namespaces",
            ));
        }
        if has(&self.constraints) {
            return Err(FunctionError::new(
                "constraints",
                "must be left out: this platform has one node",
            ));
        }
        if has(&self.secrets) {
            let reason = "must be left out: this platform keeps no secrets; pass them by envVars";
            return Err(FunctionError::new("secrets", reason));
        }
        if self.limits.as_ref().is_some_and(|limits| !limits.cpu.is_empty()) {
            let reason = "must be left out: say it in a document of this platform, as sandbox.limits.cpu_quota";
            return Err(FunctionError::new("limits.cpu", reason));
        }
        Ok(())
    }

    fn guest(&self, annotations: &BTreeMap<String, String>) -> Result<GuestSpec, FunctionError> {
        let path = PathBuf::from(&self.image);
        if !path.is_absolute() {
            let reason = "must be builtin:NAME or the absolute path of an image on this host; there is no registry";
            return Err(FunctionError::new("image", reason));
        }
        let env: Vec<String> = self
            .env_vars
            .iter()
            .flatten()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let arguments: Vec<String> = self.env_process.split_whitespace().map(str::to_owned).collect();
        let kind = match annotations.get("sandbox.guest") {
            Some(kind) => kind.as_str(),
            None if path.join("oci-layout").exists() => "image",
            None if path.is_dir() => "rootfs",
            None => "unikernel",
        };
        match kind {
            "unikernel" => Ok(GuestSpec::Unikernel(UnikernelGuest {
                image: path,
                args: arguments,
                env,
                ..UnikernelGuest::default()
            })),
            "linux" => Ok(GuestSpec::Linux(LinuxGuest {
                kernel: path,
                cmdline: self.env_process.clone(),
                ..LinuxGuest::default()
            })),
            "image" | "rootfs" => {
                let runtime = annotations
                    .get("sandbox.runtime")
                    .map_or(DEFAULT_RUNTIME, String::as_str);
                let process = (!arguments.is_empty() || !env.is_empty()).then(|| ProcessSpec {
                    args: arguments,
                    env,
                    ..ProcessSpec::default()
                });
                let (rootfs, image) = if kind == "image" {
                    (None, Some(path))
                } else {
                    (Some(path), None)
                };
                Ok(GuestSpec::Container(ContainerGuest {
                    runtime: runtime.to_owned(),
                    rootfs,
                    image,
                    process,
                    image_name: None,
                    hostname: None,
                    mounts: Vec::new(),
                    writable_root: !self.read_only_root_filesystem,
                }))
            }
            other => {
                let reason = format!("{other:?} is none of unikernel, linux, image, rootfs");
                Err(FunctionError::new("annotations.sandbox.guest", reason))
            }
        }
    }
}

/// What the function's image was, in the words of [`Deployment`].
pub(super) fn image_of(function: &FunctionSpec) -> String {
    let path = match &function.sandbox.guest {
        GuestSpec::Linux(linux) => Some(&linux.kernel),
        GuestSpec::Unikernel(unikernel) => Some(&unikernel.image),
        GuestSpec::Container(container) => container.image.as_ref().or(container.rootfs.as_ref()),
        _ => None,
    };
    path.map_or_else(String::new, |path| path.display().to_string())
}

/// What the word `text` of an annotation means, as this harness's own documents have it.
fn word<T: DeserializeOwned>(text: &str, annotation: &str) -> Result<T, FunctionError> {
    let value = serde_json::Value::String(text.to_owned());
    let invalid = |error: serde_json::Error| FunctionError::new(format!("annotations.{annotation}"), error.to_string());
    serde_json::from_value(value).map_err(invalid)
}

fn scale(function: &mut FunctionSpec, labels: &BTreeMap<String, String>) -> Result<(), FunctionError> {
    let number = |label: &str| -> Result<Option<u32>, FunctionError> {
        let value = labels.get(label).map(|text| text.parse());
        let invalid = |_| FunctionError::new(format!("labels.{label}"), "must be a number of instances");
        value.transpose().map_err(invalid)
    };
    if let Some(minimum) = number("com.openfaas.scale.min")? {
        function.scale.warm = minimum;
    }
    if let Some(maximum) = number("com.openfaas.scale.max")? {
        function.scale.max = maximum;
    }
    const IDLE: &str = "com.openfaas.scale.zero-duration";
    if let Some(text) = labels.get(IDLE) {
        let invalid = |_| FunctionError::new(format!("labels.{IDLE}"), "must be a time such as 90s, 15m or 1h");
        let idle = humantime::parse_duration(text).map_err(invalid)?;
        function.scale.idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
    }
    Ok(())
}

/// A size as Kubernetes writes it: bytes, or with a suffix of powers of 1024 or 1000.
fn memory(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "K" | "k" => 1_000,
        "M" | "m" => 1_000_000,
        "G" | "g" => 1_000_000_000,
        _ => return None,
    };
    const PAGE: u64 = 4096;
    let bytes = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    bytes.checked_next_multiple_of(PAGE)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sandbox::spec::Isolation;

    use super::*;
    use crate::function::StartStrategy;

    fn function(json: &str) -> Result<FunctionSpec, FunctionError> {
        serde_json::from_str::<Deployment>(json)
            .unwrap()
            .function(&Builtins::at("/srv"))
    }

    #[test]
    fn limits_labels_and_annotations_are_obeyed() {
        let function = function(
            r#"{"service": "f", "image": "builtin:hello", "limits": {"memory": "16Mi"},
                "labels": {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "7",
                           "com.openfaas.scale.zero-duration": "15m"},
                "annotations": {"sandbox.start": "warm", "sandbox.port": "8080", "sandbox.isolation": "in_process"}}"#,
        )
        .unwrap();
        assert_eq!(function.sandbox.memory, 16 << 20);
        assert_eq!((function.scale.warm, function.scale.max), (2, 7));
        assert_eq!(function.scale.idle(), Duration::from_secs(900));
        assert_eq!((function.start, function.port), (StartStrategy::Warm, 8080));
        assert_eq!(function.sandbox.isolation, Isolation::InProcess);
    }

    #[test]
    fn what_has_no_meaning_here_is_refused_by_name() {
        for (json, field) in [
            (r#"{"service": "f", "image": "nginx"}"#, "image"),
            (r#"{"service": "f", "image": "builtin:none"}"#, "image"),
            (
                r#"{"service": "f", "image": "builtin:hello", "namespace": "n"}"#,
                "namespace",
            ),
            (
                r#"{"service": "f", "image": "builtin:hello", "secrets": ["s"]}"#,
                "secrets",
            ),
            (
                r#"{"service": "f", "image": "builtin:hello", "constraints": ["c"]}"#,
                "constraints",
            ),
            (
                r#"{"service": "f", "image": "builtin:hello", "limits": {"memory": "1X"}}"#,
                "limits.memory",
            ),
            (
                r#"{"service": "f", "image": "builtin:hello", "annotations": {"sandbox.start": "hot"}}"#,
                "annotations.sandbox.start",
            ),
            (
                r#"{"service": "f", "image": "builtin:hello", "annotations": {"sandbox.isolation": "none"}}"#,
                "annotations.sandbox.isolation",
            ),
        ] {
            assert_eq!(function(json).unwrap_err().field, field, "{json}");
        }
    }

    #[test]
    fn sizes_are_rounded_up_to_pages() {
        assert_eq!(memory("128Mi"), Some(128 << 20));
        assert_eq!(memory("1"), Some(4096));
        assert_eq!(memory("128M"), Some(128_000_000));
        assert_eq!(memory("10k"), Some(12288));
        assert_eq!(memory("x"), None);
    }
}
