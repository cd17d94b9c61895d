//! Where this host's cgroup hierarchies are mounted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Which cgroups a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// None that can be used.
    None,
    /// Version 1: a hierarchy per controller.
    V1,
    /// Version 1, and version 2 beside it without controllers.
    Hybrid,
    /// Version 2 alone.
    Unified,
}

impl Mode {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Mode::None => "none",
            Mode::V1 => "v1",
            Mode::Hybrid => "hybrid",
            Mode::Unified => "v2",
        }
    }
}

/// The hierarchies of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// What there is.
    pub mode: Mode,
    /// Version 1: controllers and where they are mounted.
    controllers: Vec<(Vec<String>, PathBuf)>,
    /// Version 2: where it is mounted.
    unified: Option<PathBuf>,
}

impl Hierarchy {
    /// Looks at what is mounted here.
    pub fn of_this_host() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// Reads `/proc/self/mountinfo` (proc(5)): of the same hierarchy mounted twice the first counts.
    fn parse(mounts: &str) -> Self {
        let mut controllers: Vec<(Vec<String>, PathBuf)> = Vec::new();
        let mut unified = None;
        for line in mounts.lines() {
            let Some((place, kind)) = line.split_once(" - ") else {
                continue;
            };
            let Some(path) = place.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut words = kind.split(' ');
            match (words.next(), words.nth(1)) {
                (Some("cgroup2"), _) => drop(unified.get_or_insert(path)),
                (Some("cgroup"), Some(options)) => {
                    let names: Vec<String> = options.split(',').map(str::to_owned).collect();
                    if !controllers.iter().any(|(known, _)| *known == names) {
                        controllers.push((names, path));
                    }
                }
                _ => {}
            }
        }
        let has_memory = controllers
            .iter()
            .any(|(names, _)| names.iter().any(|name| name == "memory"));
        let mode = match (has_memory, &unified) {
            (true, Some(_)) => Mode::Hybrid,
            (true, None) => Mode::V1,
            (false, Some(_)) => Mode::Unified,
            (false, None) => Mode::None,
        };
        Self {
            mode,
            controllers,
            unified,
        }
    }

    /// The roots that hold these controllers, each once.
    pub fn roots(&self, controllers: &[&str]) -> Vec<PathBuf> {
        if self.mode == Mode::Unified {
            return self.unified.clone().into_iter().collect();
        }
        let wanted = |names: &Vec<String>| names.iter().any(|name| controllers.contains(&&**name));
        let roots = self.controllers.iter().filter(|(names, _)| wanted(names));
        roots.map(|(_, path)| path.clone()).collect()
    }

    /// The roots of all hierarchies, those without a controller included.
    pub fn all_roots(&self) -> Vec<PathBuf> {
        let version_1 = self.controllers.iter().map(|(_, path)| path.clone());
        version_1.chain(self.unified.clone()).collect()
    }

    /// Whether what is read from and written to disks can be limited.
    pub fn limits_disks(&self) -> bool {
        match (self.mode, &self.unified) {
            (Mode::Unified, Some(root)) => {
                let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
                controllers.split_whitespace().any(|controller| controller == "io")
            }
            _ => {
                let roots = self.roots(&["blkio"]);
                roots
                    .iter()
                    .any(|root| root.join("blkio.throttle.read_bps_device").exists())
            }
        }
    }

    /// Version 2: makes sure that cgroups below the root have these controllers.
    ///
    /// # Errors
    /// The host's; without version 2 there is nothing to do.
    pub fn enable(&self, controllers: &[&str]) -> io::Result<()> {
        let (Mode::Unified, Some(root)) = (self.mode, &self.unified) else {
            return Ok(());
        };
        let file = root.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&file)?;
        let enabled: Vec<&str> = enabled.split_whitespace().collect();
        for controller in controllers.iter().filter(|controller| !enabled.contains(controller)) {
            fs::write(&file, format!("+{controller}"))?;
        }
        Ok(())
    }

    /// Whether this process may make cgroups.
    pub fn is_writable(&self) -> bool {
        let roots = self.roots(&["memory"]);
        let may_write = |root: &PathBuf| rustix::fs::access(Path::new(root), rustix::fs::Access::WRITE_OK).is_ok();
        !roots.is_empty() && roots.iter().all(may_write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
26 24 0:24 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
27 24 0:25 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
28 24 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn the_mode_is_what_is_mounted() {
        assert_eq!(Hierarchy::parse(HYBRID).mode, Mode::Hybrid);
        let without_unified: String = HYBRID.lines().take(4).map(|line| format!("{line}\n")).collect();
        assert_eq!(Hierarchy::parse(&without_unified).mode, Mode::V1);
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let unified = Hierarchy::parse(unified);
        assert_eq!(unified.mode, Mode::Unified);
        assert_eq!(unified.roots(&["memory", "cpu"]), [PathBuf::from("/sys/fs/cgroup")]);
        assert_eq!(Hierarchy::parse("").mode, Mode::None);
    }

    #[test]
    fn controllers_that_share_a_hierarchy_have_one_root() {
        let roots = Hierarchy::parse(HYBRID).roots(&["cpu", "cpuacct", "memory"]);
        let expected = ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory"].map(PathBuf::from);
        assert_eq!(roots, expected);
    }
}
