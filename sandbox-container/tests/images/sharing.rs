//! What is shared between sandboxes, what is private, and what is left of them.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;

use sandbox_container::image::{ImageSource, Store, UnpackLimits};

use super::support::{self, Layout, Scratch, archive, is_root, read};

fn image(scratch: &Scratch) -> Layout {
    let layout = Layout::new(scratch.path("layout"));
    let manifest = layout.image(&[archive(&[("shared", "from the image"), ("dir/file", "x")])]);
    layout.index(&[manifest]);
    layout
}

#[test]
fn what_one_sandbox_writes_no_other_one_sees() {
    if !is_root("sharing::what_one_sandbox_writes_no_other_one_sees") {
        return;
    }
    let scratch = Scratch::new();
    let (layout, store) = (image(&scratch), scratch.store());
    let one = store.prepare(&layout.source(), "one").unwrap();
    let two = store.prepare(&layout.source(), "two").unwrap();

    fs::write(one.path().join("shared"), "changed").unwrap();
    fs::remove_file(one.path().join("dir/file")).unwrap();

    assert!(!one.is_copy());
    assert_eq!(read(&two.path().join("shared")), "from the image");
    assert!(two.path().join("dir/file").exists());
    drop(one);
    let again = store.prepare(&layout.source(), "one").unwrap();
    assert_eq!(read(&again.path().join("shared")), "from the image");
}

#[test]
fn a_folder_is_a_root_file_system_that_sandboxes_do_not_change() {
    if !is_root("sharing::a_folder_is_a_root_file_system_that_sandboxes_do_not_change") {
        return;
    }
    let scratch = Scratch::new();
    // Characters that separate the options of an overlay.
    let folder = scratch.path("fol,der:with\\odd=characters");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "original").unwrap();

    let rootfs = scratch
        .store()
        .prepare(&ImageSource::Rootfs(folder.clone()), "folder")
        .unwrap();
    fs::write(rootfs.path().join("file"), "changed").unwrap();
    fs::write(rootfs.path().join("new"), "").unwrap();

    assert_eq!(read(&folder.join("file")), "original");
    assert!(!folder.join("new").exists());
}

#[test]
fn teardown_leaves_the_entry_alone_and_may_be_repeated() {
    let scratch = Scratch::new();
    let (layout, store) = (image(&scratch), scratch.store());
    let rootfs = store.prepare(&layout.source(), "one").unwrap();
    assert_eq!(store.prune().unwrap(), 0, "in use");

    rootfs.teardown().unwrap();
    rootfs.teardown().unwrap();

    assert!(scratch.stored("instances").is_empty());
    assert!(!scratch.has_mounts());
    assert_eq!(scratch.stored("entries").len(), 1);
    drop(rootfs);
    assert_eq!(store.prune().unwrap(), 1);
    assert!(scratch.stored("entries").is_empty());
}

#[test]
fn a_living_sandbox_keeps_its_id() {
    let scratch = Scratch::new();
    let (layout, store) = (image(&scratch), scratch.store());
    let _one = store.prepare(&layout.source(), "one").unwrap();

    let error = store.prepare(&layout.source(), "one").unwrap_err();

    assert_eq!(error.kind(), sandbox_core::ErrorKind::AlreadyExists);
    assert_eq!(store.sweep().unwrap(), Vec::<String>::new());
    for id in ["", ".", "..", "a/b", ".hidden"] {
        assert!(store.prepare(&layout.source(), id).is_err(), "{id:?}");
    }
}

#[test]
fn many_that_come_at_once_unpack_once() {
    let scratch = Scratch::new();
    let files: Vec<_> = (0..200).map(|number| format!("file-{number}")).collect();
    let files: Vec<_> = files.iter().map(|name| (name.as_str(), "content")).collect();
    let layout = Layout::new(scratch.path("layout"));
    layout.index(&[layout.image(&[archive(&files)])]);
    let barrier = Barrier::new(8);
    thread::scope(|scope| {
        for number in 0..8 {
            let (scratch, layout, barrier) = (&scratch, &layout, &barrier);
            scope.spawn(move || {
                let store = scratch.store();
                barrier.wait();
                let rootfs = store.prepare(&layout.source(), &format!("number-{number}")).unwrap();
                assert_eq!(fs::read_dir(rootfs.path()).unwrap().count(), 200);
            });
        }
    });
    assert_eq!(scratch.stored("entries").len(), 1);
    assert!(scratch.stored("building").is_empty() && scratch.stored("instances").is_empty());
    assert!(!scratch.has_mounts());
}

/// The variable that has a test become the process that dies.
const VICTIM: &str = "SANDBOX_TEST_VICTIM";

#[test]
fn what_a_killed_process_left_is_swept() {
    if let Some(folder) = std::env::var_os(VICTIM) {
        let folder = PathBuf::from(folder);
        let store = Store::open(&folder, UnpackLimits::default()).unwrap();
        let source = support::layout(folder.with_file_name("layout"));
        let _rootfs = store.prepare(&source, "victim").unwrap();
        // Also the other thing that can be left: an entry half unpacked.
        fs::create_dir(folder.join("v1/building/half")).unwrap();
        std::process::abort();
    }
    let scratch = Scratch::new();
    let (layout, store) = (image(&scratch), scratch.store());
    let name = "sharing::what_a_killed_process_left_is_swept";
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim
        .args(["--exact", name])
        .env(VICTIM, scratch.path("store"))
        .stderr(Stdio::null());
    assert!(!victim.status().unwrap().success());
    assert_eq!(scratch.stored("instances"), ["victim"]);
    assert_eq!(scratch.stored("building"), ["half"]);

    assert_eq!(store.sweep().unwrap(), ["victim"]);

    assert!(scratch.stored("instances").is_empty() && scratch.stored("building").is_empty());
    assert!(!scratch.has_mounts());
    assert_eq!(scratch.stored("entries").len(), 1);
    drop(store.prepare(&layout.source(), "victim").unwrap());
}

/// The variable that has a test become a process without privileges, with a scratch folder.
const NOBODY: &str = "SANDBOX_TEST_NOBODY";

#[test]
fn without_privileges_the_root_file_system_is_a_copy() {
    let name = "sharing::without_privileges_the_root_file_system_is_a_copy";
    if let Some(folder) = std::env::var_os(NOBODY) {
        let folder = PathBuf::from(folder);
        let store = Store::open(&folder.join("store"), UnpackLimits::default()).unwrap();
        let rootfs = store.prepare(&support::layout(folder.join("layout")), "copy").unwrap();
        assert!(rootfs.is_copy());
        assert_eq!(read(&rootfs.path().join("closed/file")), "content");
        fs::write(rootfs.path().join("closed/file"), "changed").unwrap();
        rootfs.teardown().unwrap();
        assert!(!rootfs.path().exists());
        drop(rootfs);
        assert_eq!(store.prune().unwrap(), 1);
        return;
    }
    if !is_root(name) {
        return;
    }
    let scratch = Scratch::new();
    let layout = Layout::new(scratch.path("layout"));
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    // Not even its owner may write into it.
    header.set_mode(0o555);
    builder.append_data(&mut header, "closed", &b""[..]).unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(7);
    builder
        .append_data(&mut header, "closed/file", &b"content"[..])
        .unwrap();
    layout.index(&[layout.image(&[builder.into_inner().unwrap()])]);
    chown(scratch.path(""), Some(65534), Some(65534)).unwrap();

    // By this link the program is found whatever folders it lies in.
    let nobody = Command::new("/proc/self/exe")
        .args(["--exact", name, "--nocapture"])
        .env(NOBODY, scratch.path(""))
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert!(nobody.status.success(), "{}", String::from_utf8_lossy(&nobody.stderr));
}
