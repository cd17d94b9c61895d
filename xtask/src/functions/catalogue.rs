//! All functions for all walls, in the form that the function platform reads.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::Language;

/// What the function in Go can be told to do.
const GO_FUNCTIONS: [&str; 8] = [
    "noop",
    "fibonacci",
    "fft",
    "matrix",
    "allocate",
    "file",
    "read",
    "unzip",
];
/// Runtimes of containers.
const RUNTIMES: [&str; 2] = ["runc", "runsc"];
/// As in the papers: one processor and 512 MiB for each instance.
const MEMORY: u64 = 512 << 20;
/// How long an instance may take to get ready, and a request wait for it, in milliseconds: an emulated processor takes its
/// time.
const PATIENCE_MS: u64 = 60_000;

/// The document: `{"functions": [...]}`.
pub(super) fn functions(folder: &Path, assets: &Path) -> Result<String> {
    let mut functions = Vec::new();
    for language in Language::ALL {
        let names: &[&str] = match language {
            Language::Go => &GO_FUNCTIONS,
            Language::Node | Language::C => &["noop"],
        };
        for name in names {
            functions.push(linux(folder, assets, language, name));
            for runtime in RUNTIMES {
                functions.push(container(folder, language, name, runtime));
            }
        }
    }
    Ok(serde_json::to_string_pretty(&json!({ "functions": functions }))?)
}

/// A function in a Linux guest: Debian's kernel, an initial file system with its drivers, the function's disk.
fn linux(folder: &Path, assets: &Path, language: Language, function: &str) -> Value {
    let cmdline = format!(
        "console=ttyS0 quiet panic=-1 8250.nr_uarts=1 sandbox.net0=${{GUEST_ADDRESS}},${{GATEWAY}} root=/dev/vda \
         FUNCTION={function} READY_URL=${{READY_URL}}"
    );
    json!({
        "name": format!("{function}-{}-linux", language.name()),
        "ready": "post",
        "scale": {"start_ms": PATIENCE_MS, "queue_ms": PATIENCE_MS},
        "sandbox": {
            "guest": {"linux": {
                "kernel": assets.join("cloud/vmlinux"),
                "initrd": assets.join("boot-cloud.cpio.gz"),
                "cmdline": cmdline,
            }},
            "memory": MEMORY,
            // Shared by all instances, and never written.
            "disks": [{
                "id": "root",
                "path": folder.join(language.name()).with_extension("ext4"),
                "read_only": true,
            }],
        },
    })
}

/// A function in a container, whose root file system all its instances share.
fn container(folder: &Path, language: Language, function: &str, runtime: &str) -> Value {
    json!({
        "name": format!("{function}-{}-{runtime}", language.name()),
        "ready": "post",
        "scale": {"start_ms": PATIENCE_MS, "queue_ms": PATIENCE_MS},
        "sandbox": {
            "guest": {"container": {
                "runtime": runtime,
                "rootfs": folder.join(language.name()),
                "process": {
                    "args": language.command(),
                    "env": [format!("FUNCTION={function}"), "READY_URL=${READY_URL}"],
                },
            }},
            "memory": MEMORY,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_there_once() {
        let text = functions(Path::new("/f"), Path::new("/a")).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let names: Vec<&str> = document["functions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|function| function["name"].as_str().unwrap())
            .collect();
        assert_eq!(names.len(), (GO_FUNCTIONS.len() + 2) * (1 + RUNTIMES.len()));
        for name in ["noop-node-linux", "unzip-go-runc", "noop-c-runsc"] {
            assert!(names.contains(&name), "{name}");
        }
    }
}
