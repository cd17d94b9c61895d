//! What the tests share: scratch folders, archives, and layouts made by hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sandbox_container::image::{ImageSource, Store, UnpackLimits};
use sandbox_testing::{TempFolder, skip_test};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A folder that goes when it is dropped, and a store in it.
pub(crate) struct Scratch(TempFolder);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(TempFolder::new())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.path("store"), UnpackLimits::default()).unwrap()
    }

    /// The names in a folder of the store.
    pub(crate) fn stored(&self, folder: &str) -> Vec<String> {
        let names = fs::read_dir(self.path("store/v1").join(folder)).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Whether anything is mounted below the scratch folder.
    pub(crate) fn has_mounts(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts
            .lines()
            .any(|line| line.contains(self.0.path().to_str().unwrap()))
    }
}

/// The source of a layout's only image.
pub(crate) fn layout(path: PathBuf) -> ImageSource {
    ImageSource::Layout { path, name: None }
}

/// An archive of files with these contents.
pub(crate) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!(
        "sha256:{}",
        hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    )
}

/// An image layout that is put together by hand.
pub(crate) struct Layout(pub(crate) PathBuf);

impl Layout {
    pub(crate) fn new(path: PathBuf) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        Self(path)
    }

    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.0.join("blobs").join(digest.replace(':', "/"))
    }

    /// Stores a blob and returns its descriptor.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        fs::write(self.blob_path(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    pub(crate) fn document(&self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    /// An image of plain layers, for this processor; its manifest's descriptor.
    pub(crate) fn image(&self, layers: &[Vec<u8>]) -> Value {
        self.image_for(layers, "linux", "amd64")
    }

    pub(crate) fn image_for(&self, layers: &[Vec<u8>], os: &str, architecture: &str) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
        let config = json!({
            "os": os, "architecture": architecture, "config": {"Cmd": ["/x"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let descriptors: Vec<Value> = layers.iter().map(|layer| self.blob(LAYER, layer)).collect();
        self.manifest(self.document(CONFIG, &config), descriptors)
    }

    pub(crate) fn manifest(&self, config: Value, layers: Vec<Value>) -> Value {
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.document(MANIFEST, &manifest)
    }

    /// Writes the index.
    pub(crate) fn index(&self, manifests: &[Value]) -> &Self {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        fs::write(self.0.join("index.json"), index.to_string()).unwrap();
        self
    }

    pub(crate) fn source(&self) -> ImageSource {
        layout(self.0.clone())
    }
}

/// Runs a tool, which must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

/// Whether these programs are there; if not, the test is reported as skipped.
pub(crate) fn have(test: &str, programs: &[&str]) -> bool {
    let found = |program: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).exists())
    };
    match programs.iter().find(|program| !found(program)) {
        None => true,
        Some(missing) => {
            skip_test(test, &format!("needs {missing}"));
            false
        }
    }
}

pub(crate) fn is_root(test: &str) -> bool {
    // The owner of this process's own folder is its effective user.
    let root = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0;
    if !root {
        skip_test(test, "needs root to mount an overlay");
    }
    root
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
