//! Containers for tests: a root file system with busybox in it.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sandbox::spec::{ContainerGuest, GuestSpec, ProcessSpec};
use sandbox::{Backend, SandboxSpec};

use super::{TempFolder, runtime, skip};

const FOLDERS: [&str; 7] = ["bin", "dev", "etc", "proc", "sys", "tmp", "root"];
const APPLETS: [&str; 23] = [
    "base64", "cat", "chown", "dd", "echo", "env", "false", "head", "hostname", "httpd", "id", "ip", "kill", "ls",
    "mkdir", "nc", "ps", "sh", "sleep", "stty", "touch", "true", "wget",
];

/// The runtimes that are tested.
pub const NAMES: [&str; 3] = ["runc", "crun", "runsc"];

/// A folder with busybox and two accounts.
pub fn rootfs() -> &'static Path {
    static ROOT: OnceLock<TempFolder> = OnceLock::new();
    let folder = ROOT.get_or_init(|| {
        let folder = TempFolder::new();
        let path = |name: &str| folder.path().join(name);
        for name in FOLDERS {
            fs::create_dir(path(name)).unwrap();
        }
        fs::copy(busybox(), path("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", path("bin").join(applet)).unwrap();
        }
        fs::write(
            path("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv:/bin/sh\n",
        )
        .unwrap();
        fs::write(path("etc/group"), "root:x:0:\nweb:x:33:\nlogs:x:44:web\n").unwrap();
        folder
    });
    folder.path()
}

/// Whether a file lies on a disk. Numbers of file systems without one have no major part.
fn is_on_a_disk(path: &Path) -> bool {
    libc::major(path.metadata().unwrap().dev()) != 0
}

/// A file of 40 MiB and more on a disk, of which nothing is in memory. Temporary files lie in memory on some hosts; the
/// emulated one has a disk with kernels. Where it can be, it is another one for each `user`.
pub fn file_on_a_disk(user: &str) -> PathBuf {
    static FOLDER: OnceLock<TempFolder> = OnceLock::new();
    let folder = FOLDER.get_or_init(TempFolder::new);
    let path = match is_on_a_disk(folder.path()) {
        true => folder.file(user, &vec![7; 48 << 20]),
        false => {
            let assets = super::assets().expect("this host has no disk");
            assets.join("cloud/vmlinux")
        }
    };
    assert!(is_on_a_disk(&path), "{} is in memory", path.display());
    let file = fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    // SAFETY: the descriptor is open; no memory is touched.
    let forgotten = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(forgotten, 0);
    path
}

/// A folder on a disk that holds 48 MiB, with a file system that says who wrote what: one that is made in a file, where
/// temporary files lie in memory.
pub struct Disk {
    path: PathBuf,
    is_mounted: bool,
    _folder: TempFolder,
}

impl Disk {
    pub fn new() -> Self {
        let folder = TempFolder::new();
        if is_on_a_disk(folder.path()) {
            return Self {
                path: folder.path().to_owned(),
                is_mounted: false,
                _folder: folder,
            };
        }
        let image = folder.file("image", b"");
        fs::File::options()
            .write(true)
            .open(&image)
            .unwrap()
            .set_len(64 << 20)
            .unwrap();
        let path = folder.path().join("disk");
        fs::create_dir(&path).unwrap();
        let run = |words: &[&str], paths: &[&Path]| {
            let mut command = Command::new(busybox());
            let output = command.args(words).args(paths).output().unwrap();
            assert!(output.status.success(), "{words:?}: {output:?}");
        };
        run(&["mke2fs", "-F"], &[&image]);
        run(&["mount", "-t", "ext2", "-o", "loop"], &[&image, &path]);
        Self {
            path,
            is_mounted: true,
            _folder: folder,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            // The loop device goes with it.
            let _ = Command::new(busybox()).args(["umount", "-d"]).arg(&self.path).status();
        }
    }
}

/// A runtime that is a shell script.
pub fn program(folder: &TempFolder, name: &str, text: &str) -> PathBuf {
    let path = folder.file(name, format!("#!/bin/sh\n{text}\n").as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Its program.
pub fn busybox() -> PathBuf {
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    let found = places.into_iter().find(|place| place.is_file());
    found.expect("busybox-static is installed by cargo xtask test")
}

/// A container that runs these words.
pub fn container(oci_runtime: &str, words: &[&str]) -> SandboxSpec {
    let mut spec = SandboxSpec::new(GuestSpec::Container(ContainerGuest {
        runtime: oci_runtime.to_owned(),
        rootfs: Some(rootfs().to_owned()),
        image: None,
        image_name: None,
        process: Some(ProcessSpec {
            args: words.iter().map(ToString::to_string).collect(),
            ..ProcessSpec::default()
        }),
        hostname: None,
        mounts: Vec::new(),
        writable_root: false,
    }));
    spec.memory = 128 << 20;
    spec
}

/// A container that runs a script.
pub fn script(oci_runtime: &str, text: &str) -> SandboxSpec {
    container(oci_runtime, &["/bin/sh", "-c", text])
}

/// The container part of a spec, to be changed.
pub fn guest(spec: &mut SandboxSpec) -> &mut ContainerGuest {
    match &mut spec.guest {
        GuestSpec::Container(guest) => guest,
        _ => panic!("no container"),
    }
}

/// Its process, to be changed.
pub fn process(spec: &mut SandboxSpec) -> &mut ProcessSpec {
    guest(spec).process.as_mut().unwrap()
}

/// Those of the known runtimes that work here. The others are told as skipped, with the reason.
pub fn runtimes() -> Vec<&'static str> {
    NAMES.into_iter().filter(|name| is_usable(name)).collect()
}

/// Whether a runtime works here. Where not, says that this test was skipped.
pub fn is_usable(name: &str) -> bool {
    let reasons = match runtime().container(name) {
        Ok(backend) => {
            let probe = backend.probe();
            match probe.usable {
                true => return true,
                false => probe.reasons.join("; "),
            }
        }
        Err(error) => error.report(),
    };
    skip(&format!("{name} cannot be used: {reasons}"));
    false
}
