//! Images as umoci, skopeo and tar make them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use sandbox_container::image::{ImageConfig, ImageSource, Rootfs};

use super::support::{Scratch, have, is_root, layout, read, run};

/// Makes an image of two layers in which the second removes, replaces and hides what the first has.
fn make_image(scratch: &Scratch, layout: &str) -> PathBuf {
    let path = scratch.path(layout);
    let image = format!("{}:latest", path.display());
    let bundle = scratch.path("bundle");
    let rootfs = bundle.join("rootfs");
    let (bundle, at) = (bundle.to_str().unwrap(), path.to_str().unwrap());
    run("umoci", &["init", "--layout", at]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["unpack", "--image", &image, bundle]);
    for folder in ["etc", "usr/lib", "opaque"] {
        fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    fs::write(rootfs.join("etc/passwd"), "web:x:1000:1001:the web:/srv:/bin/false\n").unwrap();
    fs::write(rootfs.join("etc/group"), "web:x:1001:\nlogs:x:1002:other,web\n").unwrap();
    fs::write(rootfs.join("removed"), "").unwrap();
    fs::write(rootfs.join("replaced"), "old").unwrap();
    fs::write(rootfs.join("opaque/old"), "").unwrap();
    symlink("usr/lib", rootfs.join("lib")).unwrap();
    run("umoci", &["repack", "--refresh-bundle", "--image", &image, bundle]);

    fs::remove_file(rootfs.join("removed")).unwrap();
    fs::write(rootfs.join("replaced"), "new, longer").unwrap();
    fs::remove_dir_all(rootfs.join("opaque")).unwrap();
    fs::create_dir(rootfs.join("opaque")).unwrap();
    fs::write(rootfs.join("opaque/new"), "").unwrap();
    fs::write(rootfs.join("usr/lib/tool"), "tool").unwrap();
    chown(rootfs.join("usr/lib/tool"), Some(7), Some(8)).unwrap();
    fs::set_permissions(rootfs.join("usr/lib/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    run("umoci", &["repack", "--image", &image, bundle]);
    let config = [
        "config",
        "--image",
        &image,
        "--config.entrypoint",
        "/lib/tool",
        "--config.cmd",
        "serve",
        "--config.env",
        "LEVEL=1",
        "--config.user",
        "web",
        "--config.workingdir",
        "/srv",
    ];
    run("umoci", &config);
    path
}

fn check(rootfs: &Rootfs) {
    let file = |path: &str| rootfs.path().join(path);
    assert_eq!(read(&file("replaced")), "new, longer");
    assert_eq!(read(&file("lib/tool")), "tool");
    let names: Vec<_> = fs::read_dir(file("opaque"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["new"]);
    assert!(!file("removed").exists());
    let tool = fs::metadata(file("usr/lib/tool")).unwrap();
    assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777), (7, 8, 0o4755));

    let config: &ImageConfig = rootfs.config().unwrap();
    let process = config.process(None).unwrap();
    assert_eq!(process.args, ["/lib/tool", "serve"]);
    assert!(process.env.contains(&"LEVEL=1".to_owned()), "{:?}", process.env);
    assert_eq!(process.cwd.as_deref(), Some(Path::new("/srv")));
    let user = rootfs.user(process.user.as_deref().unwrap()).unwrap();
    assert_eq!((user.uid, user.gid, &*user.additional_gids), (1000, 1001, &[1002][..]));
}

#[test]
fn an_image_of_umoci_is_unpacked_with_its_layers_applied() {
    let name = "real::an_image_of_umoci_is_unpacked_with_its_layers_applied";
    if !have(name, &["umoci"]) || !is_root(name) {
        return;
    }
    let scratch = Scratch::new();
    let path = make_image(&scratch, "layout");
    check(&scratch.store().prepare(&layout(path), "umoci").unwrap());
    assert!(!scratch.has_mounts());
}

#[test]
fn images_that_skopeo_copied_and_packed_anew_share_one_entry() {
    let name = "real::images_that_skopeo_copied_and_packed_anew_share_one_entry";
    if !have(name, &["umoci", "skopeo"]) || !is_root(name) {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.store();
    let from = format!("oci:{}:latest", make_image(&scratch, "layout").display());
    let copies: [(&str, &str, &[&str]); 4] = [
        ("zstd", "oci", &["--dest-compress", "--dest-compress-format", "zstd"]),
        ("gzip", "oci", &["--dest-compress", "--dest-compress-format", "gzip"]),
        ("archive.tar", "oci-archive", &[]),
        ("plain", "oci", &["--dest-decompress"]),
    ];
    for (id, transport, options) in copies {
        let path = scratch.path(id);
        let to = format!("{transport}:{}:latest", path.display());
        let mut arguments = vec!["--insecure-policy", "copy", "--quiet"];
        arguments.extend(options);
        arguments.extend([from.as_str(), to.as_str()]);
        run("skopeo", &arguments);

        check(&store.prepare(&layout(path), id).unwrap());
        assert_eq!(scratch.stored("entries").len(), 1, "{id}");
    }
    assert!(scratch.stored("instances").is_empty());
}

#[test]
fn an_archive_of_tar_is_a_root_file_system_packed_or_not() {
    let name = "real::an_archive_of_tar_is_a_root_file_system_packed_or_not";
    if !have(name, &["tar", "gzip"]) || !is_root(name) {
        return;
    }
    let scratch = Scratch::new();
    let folder = scratch.path("folder");
    fs::create_dir_all(folder.join("etc")).unwrap();
    let long = "long".repeat(50);
    fs::write(folder.join("etc").join(&long), "content").unwrap();
    symlink("etc", folder.join("link")).unwrap();
    let folder = folder.to_str().unwrap();
    for (format, packed) in [("gnu", "-c"), ("posix", "-cz"), ("ustar", "-c")] {
        let file = scratch.path(format);
        let at = file.to_str().unwrap();
        let format = format!("--format={format}");
        // ustar has no room for so long a name.
        let mut arguments = vec![&format, packed, "-f", at, "-C", folder, "."];
        if format.ends_with("ustar") {
            arguments.insert(0, "--exclude=long*");
        }
        run("tar", &arguments);

        let rootfs = scratch.store().prepare(&ImageSource::Rootfs(file), "archive").unwrap();
        assert!(rootfs.config().is_none());
        assert!(rootfs.path().join("link").is_symlink());
        if !format.ends_with("ustar") {
            assert_eq!(read(&rootfs.path().join("link").join(&long)), "content");
        }
    }
}
