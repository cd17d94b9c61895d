//! Images that cannot be used: each is refused with a sentence that names what is wrong, and leaves nothing.

use std::fs;

use sandbox_container::image::{ImageError, ImageSource, Rootfs};
use sandbox_core::ErrorKind;
use serde_json::json;

use super::support::{INDEX, Layout, Scratch, archive, sha256};

fn simple(scratch: &Scratch) -> (Layout, Vec<u8>) {
    let layout = Layout::new(scratch.path("layout"));
    let layer = archive(&[("file", "content")]);
    layout.index(&[layout.image(std::slice::from_ref(&layer))]);
    (layout, layer)
}

/// Prepares, which must fail and leave nothing.
fn refused(scratch: &Scratch, source: &ImageSource) -> ImageError {
    let error = match scratch.store().prepare(source, "broken") {
        Ok(rootfs) => panic!("{source:?} was taken: {:?}", rootfs_names(&rootfs)),
        Err(error) => error,
    };
    for folder in ["entries", "building", "instances"] {
        assert!(scratch.stored(folder).is_empty(), "{folder}: {error}");
    }
    error
}

fn rootfs_names(rootfs: &Rootfs) -> Vec<String> {
    let names = fs::read_dir(rootfs.path()).unwrap();
    names.map(|entry| entry.unwrap().path().display().to_string()).collect()
}

#[test]
fn damaged_layers_are_found_by_their_digest() {
    let scratch = Scratch::new();
    let (layout, mut layer) = simple(&scratch);
    let digest = sha256(&layer);
    // Inside the file's content: the archive stays sound.
    layer[513] ^= 1;
    fs::write(layout.blob_path(&digest), &layer).unwrap();
    let error = refused(&scratch, &layout.source());
    assert!(
        matches!(&error, ImageError::DigestMismatch { digest: named, .. } if *named == digest),
        "{error}"
    );

    // In a header: damage is reported, not what it does to the archive.
    layer[513] ^= 1;
    layer[3] ^= 1;
    fs::write(layout.blob_path(&digest), &layer).unwrap();
    assert!(matches!(
        refused(&scratch, &layout.source()),
        ImageError::DigestMismatch { .. }
    ));

    fs::write(layout.blob_path(&digest), &layer[1..]).unwrap();
    assert!(matches!(
        refused(&scratch, &layout.source()),
        ImageError::SizeMismatch { .. }
    ));

    fs::remove_file(layout.blob_path(&digest)).unwrap();
    let error = refused(&scratch, &layout.source());
    assert!(
        matches!(&error, ImageError::MissingBlob { digest: named } if *named == digest),
        "{error}"
    );
    let error = error.about("guest.container.image");
    assert_eq!(
        (error.kind(), error.field()),
        (ErrorKind::BadImage, Some("guest.container.image"))
    );
}

#[test]
fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let scratch = Scratch::new();
    let layout = Layout::new(scratch.path("layout"));
    let layer = archive(&[("file", "content")]);
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [sha256(b"something else")]},
    });
    let config = layout.document("application/vnd.oci.image.config.v1+json", &config);
    let layer = layout.blob("application/vnd.oci.image.layer.v1.tar", &layer);
    layout.index(&[layout.manifest(config, vec![layer])]);
    assert!(matches!(
        refused(&scratch, &layout.source()),
        ImageError::DigestMismatch { .. }
    ));
}

#[test]
fn hostile_layers_are_refused_with_the_entry_named_and_leave_nothing() {
    let scratch = Scratch::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    builder.append_link(&mut header, "up", "../../../..").unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(4);
    builder.append_data(&mut header, "up/escaped", &b"evil"[..]).unwrap();
    let layout = Layout::new(scratch.path("layout"));
    layout.index(&[layout.image(&[archive(&[("file", "")]), builder.into_inner().unwrap()])]);

    let error = refused(&scratch, &layout.source());

    assert!(
        matches!(&error, ImageError::Entry { entry, .. } if entry == "up/escaped"),
        "{error}"
    );
    assert!(!scratch.path("escaped").exists() && !scratch.path("store/escaped").exists());
}

#[test]
fn the_image_for_this_platform_is_chosen_from_nested_indexes() {
    let scratch = Scratch::new();
    let layout = Layout::new(scratch.path("layout"));
    let with_platform = |mut descriptor: serde_json::Value, architecture: &str| {
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor
    };
    let mine = with_platform(layout.image(&[archive(&[("mine", "")])]), "amd64");
    let other = with_platform(
        layout.image_for(&[archive(&[("other", "")])], "linux", "arm64"),
        "arm64",
    );
    let both = layout.document(INDEX, &json!({"schemaVersion": 2, "manifests": [other.clone(), mine]}));
    layout.index(&[both]);
    let rootfs = scratch.store().prepare(&layout.source(), "nested").unwrap();
    assert!(rootfs.path().join("mine").exists());
    drop(rootfs);
    scratch.store().prune().unwrap();

    layout.index(std::slice::from_ref(&other));
    let error = refused(&scratch, &layout.source());
    assert!(
        matches!(&error, ImageError::WrongPlatform { found, .. } if found == "linux/arm64"),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    // The index may leave the platform out, or lie.
    layout.index(&[layout.image_for(&[archive(&[("other", "")])], "linux", "arm64")]);
    assert!(matches!(
        refused(&scratch, &layout.source()),
        ImageError::WrongPlatform { .. }
    ));
}

#[test]
fn one_of_several_images_must_be_named() {
    let scratch = Scratch::new();
    let layout = Layout::new(scratch.path("layout"));
    let named = |name: &str| {
        let mut descriptor = layout.image(&[archive(&[(name, "")])]);
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        descriptor
    };
    layout.index(&[named("one"), named("two")]);
    let source = |name: Option<&str>| ImageSource::Layout {
        path: layout.0.clone(),
        name: name.map(str::to_owned),
    };
    assert!(matches!(refused(&scratch, &source(None)), ImageError::Ambiguous { names } if names == "one, two"));
    assert!(matches!(
        refused(&scratch, &source(Some("three"))),
        ImageError::NoSuchImage { .. }
    ));
    let rootfs = scratch.store().prepare(&source(Some("two")), "named").unwrap();
    assert!(rootfs.path().join("two").exists());
}

#[test]
fn indexes_that_lead_in_circles_or_nowhere_end() {
    let scratch = Scratch::new();
    let layout = Layout::new(scratch.path("layout"));
    // Deeper and wider than any real one: 40 references to 40 references and so on.
    let mut inner = layout.document(INDEX, &json!({"schemaVersion": 2, "manifests": []}));
    for _ in 0..6 {
        inner = layout.document(INDEX, &json!({"schemaVersion": 2, "manifests": vec![inner; 40]}));
    }
    layout.index(&[inner]);
    assert!(matches!(
        refused(&scratch, &layout.source()),
        ImageError::BadDocument { .. }
    ));
    layout.index(&[]);
    assert!(matches!(
        refused(&scratch, &layout.source()),
        ImageError::BadDocument { .. }
    ));
}

#[test]
fn what_is_no_layout_or_no_archive_says_so() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("empty")).unwrap();
    fs::write(scratch.path("text"), "hello").unwrap();
    let at = |path| ImageSource::Layout {
        path: scratch.path(path),
        name: None,
    };
    assert!(matches!(
        refused(&scratch, &at("empty")),
        ImageError::UnfitSource { .. }
    ));
    assert!(matches!(
        refused(&scratch, &at("text")),
        ImageError::BadArchive { .. } | ImageError::UnfitSource { .. }
    ));
    assert_eq!(refused(&scratch, &at("missing")).kind(), ErrorKind::NotFound);
    assert!(matches!(
        refused(&scratch, &ImageSource::Rootfs(scratch.path("text"))),
        ImageError::BadArchive { .. }
    ));
    assert_eq!(
        refused(&scratch, &ImageSource::Rootfs("/dev/null".into())).kind(),
        ErrorKind::BadImage
    );
}

#[test]
fn a_layout_whose_files_lead_elsewhere_is_refused() {
    let scratch = Scratch::new();
    let (layout, layer) = simple(&scratch);
    let path = layout.blob_path(&sha256(&layer));
    fs::write(scratch.path("elsewhere"), &layer).unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(scratch.path("elsewhere"), &path).unwrap();
    assert!(matches!(
        refused(&scratch, &layout.source()),
        ImageError::UnfitSource { .. }
    ));
}

#[test]
fn an_unknown_user_is_named() {
    let scratch = Scratch::new();
    let (layout, _) = simple(&scratch);
    let rootfs = scratch.store().prepare(&layout.source(), "users").unwrap();
    for user in ["nobody", "0:staff", "4294967295", "-1", ""] {
        let error = rootfs.user(user).unwrap_err();
        assert!(
            matches!(&error, ImageError::UnknownUser { user: named, .. } if named == user),
            "{error}"
        );
    }
    assert_eq!(rootfs.user("5:6").unwrap().gid, 6);
}
