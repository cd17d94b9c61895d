//! Archives of all kinds, most of them hostile, unpacked into a scratch folder.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sandbox_testing::TempFolder;
use tar::{EntryType, Header};

use super::*;

/// Builds archives entry by entry, without the checks of a writer that means well.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, kind: EntryType, path: &[u8], target: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(rustix::process::getuid().as_raw().into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        header.set_mtime(1_000_000_000);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, path.as_bytes(), b"", content)
    }

    fn folder(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path.as_bytes(), b"", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path.as_bytes(), target.as_bytes(), b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path.as_bytes(), target.as_bytes(), b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (keyword, value) in records {
            let rest = keyword.len() + value.len() + 3;
            let digits = (rest + 2).to_string().len();
            content.extend(format!("{} {keyword}=", rest + digits).bytes());
            content.extend(*value);
            content.push(b'\n');
        }
        self.entry(EntryType::XHeader, b"pax", b"", &content)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// A folder to unpack into, beside which a hostile archive might want to write.
struct Target {
    scratch: TempFolder,
}

impl Target {
    fn new() -> Self {
        let scratch = TempFolder::new();
        fs::create_dir(scratch.path().join("root")).unwrap();
        fs::write(scratch.path().join("outside"), "untouched").unwrap();
        Self { scratch }
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    fn unpacker(&self, limits: UnpackLimits) -> Unpacker {
        let root = fs::File::open(self.root()).unwrap();
        Unpacker::new(root.into(), limits, Ownership::Caller)
    }

    fn layers(&self, layers: &[Vec<u8>]) -> Result<Unpacked, ImageError> {
        let mut unpacker = self.unpacker(UnpackLimits::default());
        for layer in layers {
            unpacker.layer(layer.as_slice())?;
        }
        unpacker.finish()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn has(&self, path: &str) -> bool {
        self.root().join(path).symlink_metadata().is_ok()
    }

    /// What is outside is as it was.
    fn is_contained(&self) -> bool {
        let names = fs::read_dir(self.scratch.path()).unwrap().count();
        names == 2 && fs::read_to_string(self.scratch.path().join("outside")).unwrap() == "untouched"
    }
}

#[test]
fn files_folders_and_links_come_with_content_mode_and_time() {
    let target = Target::new();
    let archive = Tar::default()
        .folder("./")
        .folder("etc/")
        .file("./etc/hosts", b"localhost")
        .symlink("etc/link", "hosts")
        .hard_link("etc/hard", "etc/hosts")
        .entry(EntryType::Fifo, b"etc/pipe", b"", b"")
        .file("implied/deep/file", b"")
        .end();

    let unpacked = target.layers(&[archive]).unwrap();

    assert_eq!(unpacked, Unpacked { bytes: 9, entries: 7 });
    assert_eq!(target.read("etc/hosts"), "localhost");
    assert_eq!(
        fs::read_link(target.root().join("etc/link")).unwrap(),
        Path::new("hosts")
    );
    let metadata = |path: &str| fs::symlink_metadata(target.root().join(path)).unwrap();
    assert_eq!(metadata("etc/hosts").ino(), metadata("etc/hard").ino());
    for path in ["etc", "etc/hosts", "etc/link", "etc/pipe"] {
        assert_eq!(metadata(path).mtime(), 1_000_000_000, "{path}");
    }
    assert_eq!(metadata("etc/hosts").permissions().mode() & 0o7777, 0o644);
    assert_eq!(metadata("implied").permissions().mode() & 0o7777, 0o755);
}

#[test]
fn long_names_come_by_pax_and_by_gnu_headers() {
    let target = Target::new();
    let long = |letter: &str| format!("{0}/{0}/file", letter.repeat(90));
    let archive = Tar::default()
        .pax(&[("path", long("p").as_bytes()), ("mtime", b"5.25")])
        .file("short", b"by pax")
        .entry(EntryType::GNULongName, b"x", b"", format!("{}\0", long("g")).as_bytes())
        .file("short", b"by gnu")
        .end();

    target.layers(&[archive]).unwrap();

    assert_eq!(target.read(&long("p")), "by pax");
    assert_eq!(target.read(&long("g")), "by gnu");
    let metadata = fs::metadata(target.root().join(long("p"))).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (5, 250_000_000));
}

#[test]
fn whiteouts_hide_what_former_layers_have_and_nothing_of_their_own() {
    let target = Target::new();
    let base = Tar::default()
        .file("gone", b"")
        .file("kept", b"")
        .file("tree/sub/file", b"")
        .file("opaque/old/file", b"")
        .file("opaque/old2", b"")
        .end();
    let top = Tar::default()
        // Its own files may come before the whiteouts and after.
        .file("opaque/new/file", b"")
        .file("again", b"")
        .file(".wh.again", b"")
        .file(".wh.gone", b"")
        .file(".wh.tree", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new2", b"")
        .file(".wh.never-there", b"")
        .file("nowhere/.wh.x", b"")
        .end();

    target.layers(&[base, top]).unwrap();

    for path in ["gone", "tree", "opaque/old", "opaque/old2", ".wh.gone", "nowhere"] {
        assert!(!target.has(path), "{path}");
    }
    for path in ["kept", "again", "opaque/new/file", "opaque/new2"] {
        assert!(target.has(path), "{path}");
    }
}

#[test]
fn a_later_layer_replaces_files_folders_and_links() {
    let target = Target::new();
    let base = Tar::default()
        .file("file", b"old")
        .folder("folder/")
        .file("folder/inside", b"")
        .symlink("link", "../outside")
        .file("merged/a", b"")
        .end();
    let top = Tar::default()
        .file("file", b"new")
        .file("folder", b"a file now")
        .file("link", b"not written through")
        .folder("merged/")
        .file("merged/b", b"")
        .end();

    target.layers(&[base, top]).unwrap();

    assert_eq!(target.read("file"), "new");
    assert_eq!(target.read("folder"), "a file now");
    assert_eq!(target.read("link"), "not written through");
    assert!(target.has("merged/a") && target.has("merged/b"));
    assert!(target.is_contained());
}

#[test]
fn links_with_absolute_targets_are_followed_inside() {
    let target = Target::new();
    let base = Tar::default().folder("run/").symlink("var/run", "/run").end();
    let top = Tar::default().file("var/run/pid", b"1").end();

    target.layers(&[base, top]).unwrap();

    assert_eq!(target.read("run/pid"), "1");
}

#[test]
fn entries_that_would_leave_the_root_are_refused_and_named() {
    let escapes: [(&str, Tar); 10] = [
        ("../x", Tar::default().file("../x", b"")),
        ("a/../../x", Tar::default().file("a/../../x", b"")),
        ("/outside", Tar::default().file("/outside", b"")),
        ("up/outside", Tar::default().symlink("up", "..").file("up/outside", b"")),
        (
            "a/b/outside",
            Tar::default().symlink("a/b", "../../..").file("a/b/outside", b""),
        ),
        (
            "one/outside",
            Tar::default()
                .symlink("two", "..")
                .symlink("one", "two")
                .file("one/outside", b""),
        ),
        ("hard", Tar::default().hard_link("hard", "../outside")),
        ("hard", Tar::default().hard_link("hard", "/etc/passwd")),
        (
            "hard",
            Tar::default().symlink("up", "..").hard_link("hard", "up/outside"),
        ),
        (
            "up/.wh.outside",
            Tar::default().symlink("up", "..").file("up/.wh.outside", b""),
        ),
    ];
    for (name, archive) in escapes {
        let target = Target::new();
        let error = target.layers(&[archive.end()]).unwrap_err();
        assert!(
            matches!(&error, ImageError::Entry { entry, .. } if entry == name),
            "{name}: {error}"
        );
        assert!(target.is_contained(), "{name}");
    }
}

#[test]
fn whiteouts_of_the_folder_itself_or_its_parent_are_refused() {
    for name in ["a/.wh.", "a/.wh..", "a/.wh..."] {
        let target = Target::new();
        let error = target
            .layers(&[Tar::default().file("a/b", b"").file(name, b"").end()])
            .unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(target.has("a/b"));
    }
}

#[test]
fn devices_sparse_files_and_unknown_types_are_refused() {
    for kind in [
        EntryType::Char,
        EntryType::Block,
        EntryType::GNUSparse,
        EntryType::new(b'V'),
    ] {
        let target = Target::new();
        let error = target
            .layers(&[Tar::default().entry(kind, b"dev/it", b"", b"").end()])
            .unwrap_err();
        assert!(
            matches!(&error, ImageError::Entry { entry, .. } if entry == "dev/it"),
            "{error}"
        );
    }
}

#[test]
fn attributes_that_overlays_obey_are_refused_and_foreign_labels_are_left_out() {
    for name in [
        "trusted.overlay.redirect",
        "user.overlay.opaque",
        "trusted.anything",
        "odd",
    ] {
        let target = Target::new();
        let record = format!("SCHILY.xattr.{name}");
        let archive = Tar::default().pax(&[(&record, b"y")]).file("file", b"").end();
        let error = target.layers(&[archive]).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    let target = Target::new();
    let records: [(&str, &[u8]); 2] = [
        ("SCHILY.xattr.security.selinux", b"label"),
        ("SCHILY.xattr.user.note", b"a\nb=c"),
    ];
    target
        .layers(&[Tar::default().pax(&records).file("file", b"").end()])
        .unwrap();
    let mut value = [0; 16];
    match rustix::fs::getxattr(target.root().join("file"), "user.note", &mut value[..]) {
        Ok(length) => assert_eq!(&value[..length], b"a\nb=c"),
        // The scratch folder's file system has no attributes of users.
        Err(error) => assert!(matches!(
            error,
            rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NODATA
        )),
    }
}

#[test]
fn bombs_end_at_the_limits_with_the_entry_named() {
    let limits = UnpackLimits {
        bytes: 100,
        entries: 10,
        depth: 4,
        header_bytes: 1000,
        attribute_bytes: 50,
        name_bytes: 60,
    };
    let many = |count: usize, name: &dyn Fn(usize) -> String| {
        (0..count).fold(Tar::default(), |tar, number| tar.file(&name(number), b""))
    };
    let attribute = [b'a'; 60];
    let bombs: [(&str, Tar); 7] = [
        ("bytes", Tar::default().file("a", &[0; 60]).file("b", &[0; 60])),
        ("entries", many(11, &|number| number.to_string())),
        ("implied folders", many(3, &|number| format!("{number}/a/b/c"))),
        ("depth", Tar::default().file("a/b/c/d/e", b"")),
        ("names", many(4, &|number| format!("{number}{}", "n".repeat(20)))),
        ("header", Tar::default().pax(&[("path", &[b'p'; 2000])]).file("x", b"")),
        (
            "attributes",
            Tar::default()
                .pax(&[("SCHILY.xattr.user.x", &attribute)])
                .file("x", b""),
        ),
    ];
    for (what, archive) in bombs {
        let target = Target::new();
        let archive = archive.end();
        let result = target.unpacker(limits.clone()).layer(archive.as_slice());
        let error = result.expect_err(what);
        assert!(
            matches!(error, ImageError::Entry { .. } | ImageError::BadArchive { .. }),
            "{what}: {error}"
        );
    }
}

#[test]
fn a_link_that_leads_to_itself_ends() {
    let target = Target::new();
    let archive = Tar::default()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/file", b"")
        .end();
    let error = target.layers(&[archive]).unwrap_err();
    assert!(error.to_string().contains("a/file"), "{error}");
}

#[test]
fn archives_cut_off_anywhere_are_errors_or_end_at_an_entry() {
    let archive = Tar::default()
        .pax(&[("path", b"by-pax")])
        .file("x", &[7; 700])
        .folder("folder")
        .file("folder/file", &[7; 1])
        .end();
    for length in 0..archive.len() {
        let target = Target::new();
        // The archive may end between entries, and within padding and end marker.
        match target.layers(&[archive[..length].to_vec()]) {
            Ok(_) => assert!(length >= 2 * 512 + 512 + 700, "{length}"),
            Err(error) => assert!(matches!(error, ImageError::BadArchive { .. }), "{length}: {error}"),
        }
    }
}

#[test]
fn bytes_that_are_no_archive_are_refused() {
    for bytes in [Vec::new(), b"#!/bin/sh\n".to_vec(), vec![0xff; 4096], vec![b'a'; 512]] {
        let target = Target::new();
        let error = target.layers(&[bytes]).unwrap_err();
        assert!(error.to_string().contains("is no tar archive"), "{error}");
    }
}
