//! Containers that are made from an image: what the image says of its process holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandbox::spec::MountSpec;
use sandbox::{ErrorKind, Exit, SandboxSpec};
use serde_json::{Value, json};

use crate::support::container::{busybox, guest, runtimes, script};
use crate::support::{PATIENCE, TempFolder, console_text, created, leftovers, runtime};

/// Writes a blob, and gives its descriptor.
fn blob(layout: &Path, media_type: &str, content: &Value) -> Value {
    let text = content.to_string();
    let path = layout.join("blobs/sha256/new");
    fs::write(&path, &text).unwrap();
    let output = Command::new("sha256sum").arg(&path).output().unwrap();
    let digest = String::from_utf8(output.stdout).unwrap()[..64].to_owned();
    fs::rename(&path, path.with_file_name(&digest)).unwrap();
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": text.len()})
}

/// An image without a layer, whose configuration is this.
fn image(folder: &Path, config: &Value) -> PathBuf {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": []},
    });
    layout(folder, &config, &json!([]))
}

/// An image of this configuration and these layers.
fn layout(folder: &Path, config: &Value, layers: &Value) -> PathBuf {
    let layout = folder.join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let config = blob(&layout, "application/vnd.oci.image.config.v1+json", config);
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
    let manifest = blob(&layout, manifest_type, &manifest);
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(
        layout.join("oci-layout"),
        json!({"imageLayoutVersion": "1.0.0"}).to_string(),
    )
    .unwrap();
    layout
}

/// A container of the image, with busybox mounted.
fn of_image(name: &str, image: &Path) -> SandboxSpec {
    let mut spec = script(name, "");
    let guest = guest(&mut spec);
    guest.rootfs = None;
    guest.process = None;
    guest.image = Some(image.to_owned());
    guest.mounts = vec![MountSpec {
        source: busybox(),
        destination: "/bin/busybox".into(),
        read_only: true,
    }];
    spec
}

#[test]
fn its_entry_point_environment_and_stop_signal_hold() {
    let folder = TempFolder::new();
    let text = "trap 'echo asked to quit; exit 9' QUIT; echo $WORD $0; while true; do /bin/busybox sleep 0.05; done";
    let image = image(
        folder.path(),
        &json!({
            "Entrypoint": ["/bin/busybox", "sh", "-c"], "Cmd": [text, "zero"],
            "Env": ["WORD=heard"], "StopSignal": "SIGQUIT",
        }),
    );
    for name in runtimes() {
        let sandbox = created(&of_image(name, &image));
        sandbox.start().unwrap();
        assert!(
            sandbox.console().wait_for(b"heard zero\n", 0, PATIENCE).is_some(),
            "{name}"
        );
        assert_eq!(sandbox.stop(PATIENCE).unwrap(), Exit::Code(9), "{name}");
        assert_eq!(console_text(&*sandbox), "heard zero\nasked to quit\n", "{name}");
        sandbox.teardown().wait(PATIENCE).unwrap();
    }
}

#[test]
fn one_that_says_nonsense_is_refused() {
    let folder = TempFolder::new();
    let image = image(
        folder.path(),
        &json!({"Entrypoint": ["/bin/busybox"], "StopSignal": "SIGNAL"}),
    );
    for name in runtimes() {
        let error = runtime().create(&of_image(name, &image)).unwrap_err();
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::BadImage, Some("guest.container.image")),
            "{name}: {}",
            error.report()
        );
        assert!(error.context().contains("SIGNAL"), "{name}: {}", error.report());
    }
}

#[test]
fn broken_ones_are_refused_and_leave_nothing() {
    let config = |architecture: &str, layers: &[&str]| {
        json!({
            "architecture": architecture, "os": "linux", "config": {"Entrypoint": ["/bin/busybox"]},
            "rootfs": {"type": "layers", "diff_ids": layers},
        })
    };
    let digest = format!("sha256:{}", "5a".repeat(32));
    let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 1024});
    type Make<'a> = &'a dyn Fn(&Path) -> PathBuf;
    let missing_layer: Make = &|folder| layout(folder, &config("amd64", &[&digest]), &json!([layer]));
    let other_machine: Make = &|folder| layout(folder, &config("arm64", &[]), &json!([]));
    let changed: Make = &|folder| {
        let layout = layout(folder, &config("amd64", &[]), &json!([]));
        let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap();
        let blob = blobs.map(|entry| entry.unwrap().path()).find(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.contains("Entrypoint")
        });
        let blob = blob.unwrap();
        let text = fs::read_to_string(&blob).unwrap().replace("busybox", "busyfox");
        fs::write(blob, text).unwrap();
        layout
    };
    let cases = [
        ("missing layer", missing_layer, ErrorKind::BadImage, &*digest),
        ("digest mismatch", changed, ErrorKind::BadImage, "sha256:"),
        ("other architecture", other_machine, ErrorKind::Unsupported, "arm64"),
    ];
    for name in runtimes() {
        for (what, make, kind, named) in cases {
            let folder = TempFolder::new();
            let mut spec = of_image(name, &make(folder.path()));
            let id = format!("broken-{name}-{}", std::process::id());
            spec.id = Some(id.clone());
            let error = runtime().create(&spec).unwrap_err();
            let report = error.report();
            assert_eq!(
                (error.kind(), error.field()),
                (kind, Some("guest.container.image")),
                "{name}: {what}: {report}"
            );
            assert!(report.contains(named), "{name}: {what}: {report}");
            assert_eq!(leftovers(&id), Vec::<String>::new(), "{name}: {what}");
        }
    }
}
