//! Kernel modules with what they depend on, in the order of loading.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::compression::Compression;
use super::kernel::Kernel;
use crate::archive::Tree;
use crate::elf;

/// Where the initial file systems keep modules, and the file that lists them
/// in the order of loading.
const FOLDER: &str = "/lib/modules";
const ORDER: &str = "/lib/modules/order";

/// Adds `names` and all that they depend on to an initial file system,
/// together with a list in which dependencies come first.
pub(crate) fn add(tree: &mut Tree, kernel: &Kernel, names: &[&str]) -> Result<()> {
    let available = Available::of(kernel)?;
    let mut selection = Selection::default();
    for name in names {
        selection
            .add(&available, name)
            .with_context(|| format!("kernel {}", kernel.release()))?;
    }
    let mut order = String::new();
    for (name, module) in selection.modules {
        let path = Path::new(FOLDER).join(format!("{name}.ko"));
        order += &format!("{}\n", path.display());
        tree.bytes(path, module, 0o644)?;
    }
    tree.bytes(ORDER, order, 0o644)
}

/// What a kernel has, as module files or built in.
struct Available {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl Available {
    fn of(kernel: &Kernel) -> Result<Self> {
        let mut files = BTreeMap::new();
        collect(&kernel.modules().join("kernel"), &mut files)?;
        let list = kernel.modules().join("modules.builtin");
        let built_in = fs::read_to_string(&list)
            .with_context(|| format!("cannot read {}", list.display()))?
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        Ok(Self { files, built_in })
    }
}

/// Chosen modules, dependencies before their users.
#[derive(Default)]
struct Selection {
    modules: Vec<(String, Vec<u8>)>,
    chosen: BTreeSet<String>,
}

impl Selection {
    fn add(&mut self, available: &Available, name: &str) -> Result<()> {
        let name = name.replace('-', "_");
        if available.built_in.contains(&name) || !self.chosen.insert(name.clone()) {
            return Ok(());
        }
        let Some(file) = available.files.get(&name) else {
            bail!("there is no module {name}");
        };
        let module = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let module = match Compression::of(&module) {
            Some(compression) => compression.undo(&module)?,
            None => module,
        };
        let dependencies = elf::module_dependencies(&module).with_context(|| format!("module {name}"))?;
        for dependency in dependencies {
            self.add(available, &dependency)?;
        }
        self.modules.push((name, module));
        Ok(())
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The module's name as the kernel writes it: `kvm_amd` for `kvm-amd.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, rest) = file.split_once(".ko")?;
    (rest.is_empty() || rest.starts_with('.')).then(|| name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_are_the_kernels_own() {
        let name = |path: &str| module_name(Path::new(path));
        assert_eq!(name("a/kvm-amd.ko").as_deref(), Some("kvm_amd"));
        assert_eq!(name("a/tun.ko.xz").as_deref(), Some("tun"));
        assert_eq!(name("a/modules.dep"), None);
        assert_eq!(name("a/x.kobold"), None);
    }

    #[test]
    fn what_is_built_in_needs_no_file_and_what_is_missing_is_named() {
        let available = Available {
            files: BTreeMap::new(),
            built_in: BTreeSet::from(["ext4".to_owned()]),
        };
        let mut selection = Selection::default();
        selection.add(&available, "ext4").unwrap();
        assert!(selection.modules.is_empty());
        let error = selection.add(&available, "no-such").unwrap_err();
        assert!(error.to_string().contains("no_such"));
    }
}
