//! The part of the emulated host that is the same in every run.

use std::fs::File;
use std::path::Path;

use anyhow::Result;

use crate::archive::Tree;
use crate::assets::{self, Kernel};
use crate::cache::{self, Key};

const INIT: &[u8] = include_bytes!("../../assets/host-init.sh");

/// Drivers that are loaded at the start of every run.
const MODULES: [&str; 21] = [
    // The host's own ports and disk.
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    // What the project is about.
    "kvm-amd",
    // Networks of sandboxes.
    "tun",
    "bridge",
    "veth",
    // Their addresses, translated by nftables.
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib_ipv4",
    "nft_masq",
    "nft_nat",
    // Root file systems of containers.
    "overlay",
    // Disks that tests make of files.
    "loop",
    // What CRIU asks about connections and sockets.
    "nf_conntrack_netlink",
    "unix_diag",
    "tcp_diag",
    "udp_diag",
    "netlink_diag",
    "af_packet_diag",
];

const FOLDERS: [&str; 12] = [
    "dev", "etc", "mnt", "out", "proc", "root", "run", "sys", "tmp", "usr/sbin", "var", "var/tmp",
];

/// The dynamic linker's index of libraries that lie outside its own paths.
const LINKER_CACHE: &str = "/etc/ld.so.cache";

const ACCOUNTS: [(&str, &str); 3] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nkvm:x:104:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost kvm-host\n::1 localhost\n"),
];

/// Builds the base archive, unless it is up to date.
pub(super) fn build(output: &Path, kernel: &Kernel) -> Result<()> {
    let mut key = Key::default()
        .bytes("host-init.sh", INIT)
        .bytes("modules", MODULES.join(" ").as_bytes())
        .file(&assets::busybox()?)?
        .file(kernel.vmlinuz())?;
    let linker_cache = Path::new(LINKER_CACHE);
    if linker_cache.exists() {
        key = key.file(linker_cache)?;
    }
    cache::build(output, &key, |path| {
        let mut tree = Tree::with_merged_usr()?;
        for folder in FOLDERS {
            tree.directory(folder)?;
        }
        for (path, content) in ACCOUNTS {
            tree.bytes(path, content, 0o644)?;
        }
        if linker_cache.exists() {
            tree.file(LINKER_CACHE, linker_cache)?;
        }
        assets::add_busybox(&mut tree)?;
        assets::add_modules(&mut tree, kernel, &MODULES)?;
        tree.bytes("init", INIT, 0o755)?;
        tree.character_device("dev/console", 5, 1)?;
        tree.write(File::create(path)?)
    })
}
