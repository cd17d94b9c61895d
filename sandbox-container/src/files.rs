//! The files of a snapshot's folder.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sandbox_core::snapshot::{Manifest, Verify};
use sandbox_core::spec::MAX_SPEC_BYTES;
use sandbox_core::{Error, ErrorKind, Result, SandboxSpec};
use sha2::{Digest, Sha256};

/// The runtime's own files.
pub const IMAGE: &str = "image";
/// What the folder is.
pub const MANIFEST: &str = "manifest.json";
/// The sandbox's description.
pub const SPEC: &str = "spec.json";
/// Most files of a snapshot: it bounds what a folder that somebody made up costs.
const MAX_FILES: usize = 100_000;

/// A folder that only its user can look into: a snapshot holds all that a container had in memory.
pub fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// A random value.
pub fn identity() -> io::Result<String> {
    let mut random = [0_u8; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The host kernel's release.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// SHA-256 of a file, in hexadecimal digits.
pub fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => digest.update(&piece[..count]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The regular files below `folder`, by their paths from there.
pub fn all_below(folder: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inner))? {
            let entry = entry?;
            let path = inner.join(entry.file_name());
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(path),
                kind if kind.is_file() => files.push(path.to_string_lossy().into_owned()),
                _ => {}
            }
            if files.len() > MAX_FILES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Makes sure that all files below `folder` are on the disk.
pub fn sync(folder: &Path) -> io::Result<()> {
    for name in all_below(folder)? {
        File::open(folder.join(name))?.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

/// A snapshot's folder, as far as it is verified.
#[derive(Debug)]
pub struct Saved {
    /// What it is.
    pub manifest: Manifest,
    /// What is to be made from it.
    pub spec: SandboxSpec,
    /// The runtime's files.
    pub image: PathBuf,
}

impl Saved {
    /// Reads and verifies the folder; the runtime's files by their sizes, or by their digests.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no snapshot, [`ErrorKind::Corrupt`] where it is damaged,
    /// [`ErrorKind::Incompatible`] where it is another architecture's or a later SDK's.
    pub fn open(folder: &Path, verify: Verify) -> Result<Self> {
        let manifest = manifest(folder)?;
        if manifest.architecture != std::env::consts::ARCH {
            let context = format!("the snapshot is for {}", manifest.architecture);
            return Err(Error::new(ErrorKind::Incompatible, context));
        }
        for (name, record) in &manifest.files {
            let is_local = Path::new(name)
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_)));
            let path = folder.join(name);
            let size = fs::symlink_metadata(&path)
                .ok()
                .filter(fs::Metadata::is_file)
                .map(|found| found.len());
            if !is_local || size != Some(record.size) {
                return Err(corrupt(format!("{name} is missing, or not of the size that it had")));
            }
            if (verify == Verify::Full || name == SPEC) && digest(&path).ok() != record.digest {
                return Err(corrupt(format!("{name} is not as it was written")));
            }
        }
        if !manifest.files.contains_key(SPEC) {
            return Err(corrupt(format!("there is no {SPEC}")));
        }
        let spec = SandboxSpec::from_json(&bounded(&folder.join(SPEC), MAX_SPEC_BYTES)?);
        Ok(Self {
            spec: spec.map_err(|error| corrupt(format!("{SPEC} cannot be read")).with_source(error))?,
            image: folder.join(IMAGE),
            manifest,
        })
    }
}

/// The manifest of the snapshot at `folder`, whoever wrote it.
///
/// # Errors
/// As those of [`Saved::open`].
pub fn manifest(folder: &Path) -> Result<Manifest> {
    Manifest::read(folder)
}

fn bounded(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let unreadable = || crate::error::host(format!("cannot read {}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable())?;
    // One byte more shows that there is more.
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable())?;
    Ok(bytes)
}

fn corrupt(context: String) -> Error {
    Error::new(ErrorKind::Corrupt, context)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use sandbox_core::snapshot::{FileRecord, MANIFEST_FORMAT};
    use std::collections::BTreeMap;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn snapshot(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("sandbox-files-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join(IMAGE)).unwrap();
        let spec = r#"{"guest": {"container": {"runtime": "runc", "rootfs": "/r", "process": {"args": ["/a"]}}}}"#;
        fs::write(folder.join(SPEC), spec).unwrap();
        fs::write(folder.join("image/pages"), [7; 100]).unwrap();
        let record = |name: &str| FileRecord {
            size: folder.join(name).metadata().unwrap().len(),
            identity: String::new(),
            digest: Some(digest(&folder.join(name)).unwrap()),
        };
        let manifest = Manifest {
            format: MANIFEST_FORMAT,
            sdk_version: "0".to_owned(),
            backend: "runc".to_owned(),
            identity: identity().unwrap(),
            bases: Vec::new(),
            architecture: std::env::consts::ARCH.to_owned(),
            cpu: BTreeMap::new(),
            host_kernel: kernel_release(),
            guest: "runc".to_owned(),
            memory: 0,
            files: all_below(&folder)
                .unwrap()
                .into_iter()
                .map(|name| (name.clone(), record(&name)))
                .collect(),
            uniqueness: crate::sandbox::UNIQUENESS,
            checksum: String::new(),
        };
        fs::write(folder.join(MANIFEST), manifest.to_json()).unwrap();
        Folder(folder)
    }

    #[test]
    fn a_sound_snapshot_is_read_and_a_damaged_one_named() {
        let folder = snapshot("damage");
        let saved = Saved::open(&folder.0, Verify::Full).unwrap();
        assert_eq!(saved.manifest.files.keys().collect::<Vec<_>>(), ["image/pages", SPEC]);
        fs::write(folder.0.join("image/pages"), [8; 100]).unwrap();
        assert!(
            Saved::open(&folder.0, Verify::Size).is_ok(),
            "sizes alone were asked for"
        );
        let kind = |verify| Saved::open(&folder.0, verify).unwrap_err().kind();
        assert_eq!(kind(Verify::Full), ErrorKind::Corrupt);
        fs::write(folder.0.join("image/pages"), [7; 99]).unwrap();
        assert_eq!(kind(Verify::Size), ErrorKind::Corrupt);
        fs::remove_file(folder.0.join(MANIFEST)).unwrap();
        assert_eq!(kind(Verify::Size), ErrorKind::NotFound);
    }
}
