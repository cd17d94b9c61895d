//! A snapshot of the present format that is checked in: what was written once can be read for as long as the format has
//! its number. It is of `clone-check` in 2 MiB, taken on a software KVM of AMD's kind,
//! whose guests' processor has few features.
//!
//! A change of the format that is meant gives it a new number and makes the folder anew, by `SANDBOX_WRITE_GOLDEN=1`.

use std::fs;
use std::path::{Path, PathBuf};

use sandbox::snapshot::MANIFEST_FORMAT;
use sandbox::spec::GuestSpec;
use sandbox::{ErrorKind, Manifest, SnapshotOptions};

use crate::checker::{self, Report};
use crate::restore::{WAYS, running, snapshot};
use crate::support::{PATIENCE, TempFolder, guest, runtime, started};

/// The nonce of its guest, which is made anew with it.
const NONCE_FILE: &str = "nonce";
const FILES: [&str; 3] = ["manifest.json", "state", "memory"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshot/golden")
}

fn write_anew() {
    let scratch = TempFolder::new();
    // The image's path is part of the spec: one that means nothing anywhere else.
    fs::copy(guest("clone-check"), scratch.path().join("clone-check")).unwrap();
    std::env::set_current_dir(scratch.path()).unwrap();
    let mut spec = checker::spec();
    spec.memory = 2 << 20;
    if let GuestSpec::Unikernel(unikernel) = &mut spec.guest {
        unikernel.image = PathBuf::from("clone-check");
    }
    let original = started(&spec);
    original.wait_ready(PATIENCE).unwrap();
    let nonce = Report::of(&*original).nonce().to_owned();
    let options = SnapshotOptions {
        digest: true,
        ..SnapshotOptions::default()
    };
    let taken = scratch.path().join("golden");
    snapshot(&*original, &taken, &options);
    fs::create_dir_all(folder()).unwrap();
    for name in FILES {
        fs::copy(taken.join(name), folder().join(name)).unwrap();
    }
    fs::write(folder().join(NONCE_FILE), nonce).unwrap();
}

#[test]
fn the_golden_snapshot_goes_on_or_is_refused_for_this_host() {
    if std::env::var_os("SANDBOX_WRITE_GOLDEN").is_some() {
        write_anew();
    }
    if !folder().join(FILES[0]).is_file() {
        // The emulated host has the program and not the repository.
        crate::support::skip("needs the repository");
        return;
    }
    let manifest = Manifest::read(&folder()).unwrap();
    assert_eq!(manifest.format, MANIFEST_FORMAT);
    let nonce = fs::read_to_string(folder().join(NONCE_FILE)).unwrap();
    for way in WAYS {
        match runtime().restore(&folder(), &running(way)) {
            Ok(restored) => {
                let report = Report::of(&*restored.sandbox);
                assert_eq!((report.nonce(), report.line()), (nonce.trim(), 2), "{way:?}");
            }
            // Another maker's processor, or one at another rate: sound, and not for here.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Incompatible, "{}", error.report());
                eprintln!("{way:?}: {}", error.report());
            }
        }
    }
}
