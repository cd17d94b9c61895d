//! `root.ext4`: the root file system of Linux guests in the tests.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::Result;

use super::busybox;
use crate::cache::{self, Key};
use crate::ext4;

const SCRIPT: &[u8] = include_bytes!("../../assets/root-init.sh");
const PAGE: &[u8] = include_bytes!("../../assets/index.html");
const EXERCISE_SOURCE: &[u8] = include_bytes!("../../assets/exercise.c");
const AGENT_SOURCE: &[u8] = include_bytes!("../../../examples/guests/linux/identity-agent.c");
/// Room for the guest to write; the image is sparse.
const SIZE_MIB: u64 = 16;

/// Builds the image; the guest runs `root-init.sh` from it.
pub(super) fn build(output: &Path) -> Result<()> {
    let key = Key::default()
        .bytes("root-init.sh", SCRIPT)
        .bytes("index.html", PAGE)
        .bytes("exercise.c", EXERCISE_SOURCE)
        .bytes("identity-agent.c", AGENT_SOURCE)
        .bytes("size", &SIZE_MIB.to_le_bytes())
        .file(&busybox::program()?)?;
    cache::build(output, &key, |path| {
        let content = path.with_extension("content");
        if content.exists() {
            fs::remove_dir_all(&content)?;
        }
        populate(&content)?;
        ext4::make(path, &content, SIZE_MIB, &[])?;
        fs::remove_dir_all(&content)?;
        Ok(())
    })
}

fn populate(root: &Path) -> Result<()> {
    for folder in ["dev", "proc", "sys", "tmp", "usr/bin", "www"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for folder in ["bin", "sbin"] {
        symlink("usr/bin", root.join(folder))?;
    }
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    fs::copy(busybox::program()?, below(busybox::PATH))?;
    for applet in busybox::applets()? {
        symlink("busybox", below("usr/bin").join(applet))?;
    }
    fs::write(below("www/index.html"), PAGE)?;
    for (name, source) in [("exercise", EXERCISE_SOURCE), ("identity-agent", AGENT_SOURCE)] {
        let program = below("usr/bin").join(name);
        fs::write(&program, super::c_program(name, source)?)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    // The applets have an init of their own, whose place the script takes.
    let init = below("usr/bin/init");
    fs::remove_file(&init)?;
    fs::write(&init, SCRIPT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
