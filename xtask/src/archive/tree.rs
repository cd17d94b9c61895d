//! The files of an archive, by path, before they are written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::newc::{Entry, Writer};

/// Symbolic links followed in one path before it counts as a loop, as in Linux.
const MAX_LINKS: usize = 40;

/// Directories that a merged-/usr system (all current Debians) has as links.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

enum Node {
    Directory,
    Bytes { bytes: Vec<u8>, mode: u32 },
    File { source: PathBuf, mode: u32 },
    Link(PathBuf),
    CharacterDevice { major: u32, minor: u32 },
}

/// A file system tree whose files lie in memory or on this machine.
///
/// Paths may be absolute or relative to the tree's root. Missing parents are
/// made, and symbolic links of the tree itself are followed in parents: the
/// kernel would replace a link by a directory of the same name.
#[derive(Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
    /// Bytes of all file contents.
    size: u64,
}

impl Tree {
    /// A tree with `/bin`, `/sbin`, `/lib` and `/lib64` leading into `/usr`.
    pub(crate) fn with_merged_usr() -> Result<Self> {
        let mut tree = Self::default();
        for name in MERGED {
            tree.link(name, Path::new("usr").join(name))?;
            tree.directory(Path::new("usr").join(name))?;
        }
        Ok(tree)
    }

    /// Bytes of all file contents together.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether something stands at `path`.
    pub(crate) fn contains(&self, path: impl AsRef<Path>) -> bool {
        self.resolve_parent(path.as_ref())
            .is_ok_and(|path| self.nodes.contains_key(&path))
    }

    /// Adds a directory, if it is not there yet.
    pub(crate) fn directory(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = self.place(path.as_ref())?;
        self.nodes.entry(path).or_insert(Node::Directory);
        Ok(())
    }

    /// Adds a file with the given content; `mode` is its permission bits.
    pub(crate) fn bytes(&mut self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>, mode: u32) -> Result<()> {
        let bytes = bytes.into();
        self.size += bytes.len() as u64;
        self.insert(path.as_ref(), Node::Bytes { bytes, mode })
    }

    /// Adds a copy of a file of this machine, with its permission bits.
    pub(crate) fn file(&mut self, path: impl AsRef<Path>, source: &Path) -> Result<()> {
        let metadata = source
            .metadata()
            .with_context(|| format!("cannot read {}", source.display()))?;
        if !metadata.is_file() {
            bail!("{} is not a regular file", source.display());
        }
        self.size += metadata.len();
        let node = Node::File {
            source: source.to_path_buf(),
            mode: metadata.permissions().mode() & 0o7777,
        };
        self.insert(path.as_ref(), node)
    }

    /// Adds a folder of this machine with everything in it; links stay links.
    pub(crate) fn folder(&mut self, path: &Path, source: &Path) -> Result<()> {
        self.directory(path)?;
        let entries = fs::read_dir(source).with_context(|| format!("cannot list {}", source.display()))?;
        for entry in entries {
            let entry = entry?;
            let (kind, to, from) = (entry.file_type()?, path.join(entry.file_name()), entry.path());
            if kind.is_dir() {
                self.folder(&to, &from)?;
            } else if kind.is_symlink() {
                self.link(&to, fs::read_link(&from)?)?;
            } else {
                self.file(&to, &from)?;
            }
        }
        Ok(())
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: impl AsRef<Path>, target: impl Into<PathBuf>) -> Result<()> {
        self.insert(path.as_ref(), Node::Link(target.into()))
    }

    /// Adds a character device node, open to root only.
    pub(crate) fn character_device(&mut self, path: impl AsRef<Path>, major: u32, minor: u32) -> Result<()> {
        self.insert(path.as_ref(), Node::CharacterDevice { major, minor })
    }

    /// Writes the whole tree as one cpio archive.
    pub(crate) fn write(&self, out: impl Write) -> Result<()> {
        let mut writer = Writer::new(BufWriter::new(out));
        for (path, node) in &self.nodes {
            write_node(&mut writer, path, node).with_context(|| format!("cannot archive {}", path.display()))?;
        }
        writer.finish()?;
        Ok(())
    }

    fn insert(&mut self, path: &Path, node: Node) -> Result<()> {
        let path = self.place(path)?;
        if path.as_os_str().is_empty() {
            bail!("the root of an archive can only be a directory");
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Resolves a path and makes its parents.
    fn place(&mut self, path: &Path) -> Result<PathBuf> {
        let path = self.resolve_parent(path)?;
        for parent in path.ancestors().skip(1) {
            if parent.as_os_str().is_empty() {
                continue;
            }
            let node = self.nodes.entry(parent.to_path_buf()).or_insert(Node::Directory);
            if !matches!(node, Node::Directory) {
                bail!("{} is a file and cannot hold {}", parent.display(), path.display());
            }
        }
        Ok(path)
    }

    /// The path below the root with all links but a final one followed.
    fn resolve_parent(&self, path: &Path) -> Result<PathBuf> {
        let mut rest: Vec<PathBuf> = reversed_components(path);
        let mut resolved = PathBuf::new();
        let mut links = 0;
        while let Some(component) = rest.pop() {
            if component == Path::new("..") {
                resolved.pop();
                continue;
            }
            let next = resolved.join(component);
            match self.nodes.get(&next) {
                Some(Node::Link(target)) if !rest.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        bail!("{} leads through a loop of links", path.display());
                    }
                    if target.is_absolute() {
                        resolved.clear();
                    }
                    rest.extend(reversed_components(target));
                }
                _ => resolved = next,
            }
        }
        Ok(resolved)
    }
}

fn reversed_components(path: &Path) -> Vec<PathBuf> {
    let mut components: Vec<PathBuf> = path
        .components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| PathBuf::from(component.as_os_str()))
        .collect();
    components.reverse();
    components
}

fn write_node<W: Write>(writer: &mut Writer<W>, path: &Path, node: &Node) -> io::Result<()> {
    let mut entry = Entry {
        name: path.as_os_str().as_bytes(),
        mode: 0,
        size: 0,
        device: (0, 0),
    };
    match node {
        Node::Directory => {
            entry.mode = libc::S_IFDIR | 0o755;
            writer.entry(&entry, io::empty())
        }
        Node::Bytes { bytes, mode } => {
            entry.mode = libc::S_IFREG | mode;
            entry.size = bytes.len() as u64;
            writer.entry(&entry, bytes.as_slice())
        }
        Node::File { source, mode } => {
            let file = File::open(source)?;
            entry.mode = libc::S_IFREG | mode;
            entry.size = file.metadata()?.len();
            writer.entry(&entry, file)
        }
        Node::Link(target) => {
            let target = target.as_os_str().as_bytes();
            entry.mode = libc::S_IFLNK | 0o777;
            entry.size = target.len() as u64;
            writer.entry(&entry, target)
        }
        Node::CharacterDevice { major, minor } => {
            entry.mode = libc::S_IFCHR | 0o600;
            entry.device = (*major, *minor);
            writer.entry(&entry, io::empty())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;
    use crate::scratch::Scratch;

    fn names(tree: &Tree) -> Vec<String> {
        tree.nodes.keys().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn parents_are_made_before_their_children() {
        let mut tree = Tree::default();
        tree.bytes("/a/b/c", *b"x", 0o644).unwrap();
        assert_eq!(names(&tree), ["a", "a/b", "a/b/c"]);
        assert_eq!(tree.size(), 1);
    }

    #[test]
    fn links_in_parents_are_followed() {
        let mut tree = Tree::with_merged_usr().unwrap();
        tree.bytes("/lib/x/libc.so.6", *b"x", 0o755).unwrap();
        tree.link("/usr/lib/absolute", "/lib/x").unwrap();
        tree.bytes("/lib/absolute/second", *b"x", 0o644).unwrap();
        assert!(tree.contains("usr/lib/x/libc.so.6"));
        assert!(tree.contains("/lib/x/second"));
        assert!(!tree.contains("/lib/y"));
        assert!(matches!(tree.nodes[Path::new("lib")], Node::Link(_)));
    }

    #[test]
    fn a_path_cannot_leave_the_tree() {
        let mut tree = Tree::default();
        tree.bytes("../../etc/x", *b"x", 0o644).unwrap();
        assert_eq!(names(&tree), ["etc", "etc/x"]);
    }

    #[test]
    fn impossible_places_are_refused() {
        let mut tree = Tree::default();
        tree.link("loop", "loop").unwrap();
        tree.bytes("file", *b"x", 0o644).unwrap();
        assert!(tree.bytes("loop/x", *b"x", 0o644).is_err());
        assert!(tree.bytes("file/x", *b"x", 0o644).is_err());
        assert!(tree.bytes("/", *b"x", 0o644).is_err());
        assert!(tree.file("x", Path::new("/dev/null")).is_err());
    }

    #[test]
    fn busybox_reads_back_what_was_written() {
        let scratch = Scratch::new("cpio").unwrap();
        let source = scratch.path().join("source");
        fs::write(&source, [7_u8; 4097]).unwrap();
        let mut tree = Tree::default();
        tree.file("bin/copy", &source).unwrap();
        tree.bytes("etc/text", *b"words\n", 0o640).unwrap();
        tree.link("etc/link", "text").unwrap();
        let archive = scratch.path().join("archive");
        tree.write(File::create(&archive).unwrap()).unwrap();

        let unpacked = scratch.path().join("unpacked");
        fs::create_dir(&unpacked).unwrap();
        let mut cpio = process::tool("busybox");
        cpio.args(["cpio", "-i"])
            .current_dir(&unpacked)
            .stdin(File::open(&archive).unwrap());
        process::run(&mut cpio).unwrap();
        assert_eq!(fs::read(unpacked.join("bin/copy")).unwrap(), [7; 4097]);
        assert_eq!(fs::read(unpacked.join("etc/link")).unwrap(), b"words\n");
        let mode = unpacked.join("etc/text").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
