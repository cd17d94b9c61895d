//! Where a part of the demo can run, and why not here.

use std::fs;

use crate::host_kind::{self, HostKind};

/// Number of the capability to make network interfaces (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;

/// What a part needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// A KVM that executes every instruction, not only the simple ones.
    pub(super) complete_kvm: bool,
    /// The right to make network interfaces.
    pub(super) network: bool,
}

/// Where a part runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On this machine's `/dev/kvm`.
    Here,
    /// In the emulated host.
    Emulated {
        /// What this machine lacks, a sentence.
        reason: String,
    },
}

impl Place {
    /// The name in JSON.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Here => "kvm",
            Self::Emulated { .. } => "emulated",
        }
    }
}

/// What this machine can do.
pub(super) struct Abilities {
    pub(super) kind: HostKind,
    /// How the kind was found out, a sentence.
    pub(super) kvm_reason: String,
    /// Why no network interface can be made, a sentence.
    network_obstacle: Option<String>,
    /// This user is not root, and root would find a KVM.
    root_has_kvm: bool,
    /// The processor has virtualisation, so that KVM, once it can be opened,
    /// is a complete one.
    virtualisation: bool,
}

impl Abilities {
    /// Finds out.
    pub(super) fn of_this_machine() -> Self {
        let (kind, kvm_reason) = host_kind::probe();
        Self {
            kind,
            kvm_reason,
            network_obstacle: network_obstacle(),
            root_has_kvm: !is_root() && fs::exists("/dev/kvm").unwrap_or(false),
            virtualisation: has_virtualisation(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        }
    }

    /// A machine whose own KVM is not to be used, for this reason.
    pub(super) fn unused(reason: &str) -> Self {
        Self {
            kind: HostKind::Missing,
            kvm_reason: reason.to_owned(),
            network_obstacle: None,
            root_has_kvm: false,
            virtualisation: false,
        }
    }

    /// Whether root can run here what this user cannot.
    pub(super) fn root_could_run(&self, needs: Needs) -> bool {
        self.root_has_kvm && (self.virtualisation || !needs.complete_kvm)
    }

    /// Where a part with these needs runs.
    pub(super) fn place_for(&self, needs: Needs) -> Place {
        let kvm = match self.kind {
            HostKind::Missing => Some(&self.kvm_reason),
            HostKind::Software if needs.complete_kvm => Some(&self.kvm_reason),
            _ => None,
        };
        let network = self.network_obstacle.as_ref().filter(|_| needs.network);
        let obstacles: Vec<&str> = kvm.into_iter().chain(network).map(String::as_str).collect();
        match obstacles.is_empty() {
            true => Place::Here,
            false => Place::Emulated {
                reason: obstacles.join(", and "),
            },
        }
    }
}

/// What keeps this process from making a tap.
fn network_obstacle() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !has_capability(&status, CAP_NET_ADMIN) {
        return Some("this user may not make network interfaces (CAP_NET_ADMIN)".to_owned());
    }
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    device
        .err()
        .map(|error| format!("/dev/net/tun cannot be opened ({error})"))
}

/// Whether a capability is among the effective ones in `/proc/PID/status`.
fn has_capability(status: &str, number: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    set.is_some_and(|set| set & (1 << number) != 0)
}

/// Whether `/proc/cpuinfo` shows VT-x or SVM.
fn has_virtualisation(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm")))
}

fn is_root() -> bool {
    // SAFETY: geteuid takes no arguments, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: Needs = Needs {
        complete_kvm: false,
        network: true,
    };
    const LINUX: Needs = Needs {
        complete_kvm: true,
        network: false,
    };

    fn machine(kind: HostKind, network_obstacle: Option<&str>) -> Abilities {
        Abilities {
            kind,
            kvm_reason: "KVM is so".to_owned(),
            network_obstacle: network_obstacle.map(str::to_owned),
            root_has_kvm: true,
            virtualisation: kind == HostKind::Hardware,
        }
    }

    fn emulated(reason: &str) -> Place {
        Place::Emulated {
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn a_part_runs_here_when_all_that_it_needs_is_here() {
        for needs in [WEB, LINUX] {
            assert_eq!(machine(HostKind::Hardware, None).place_for(needs), Place::Here);
        }
        assert_eq!(machine(HostKind::Software, None).place_for(WEB), Place::Here);
        assert_eq!(machine(HostKind::Hardware, Some("no")).place_for(LINUX), Place::Here);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            machine(HostKind::Software, None).place_for(LINUX),
            emulated("KVM is so")
        );
        assert_eq!(machine(HostKind::Hardware, Some("no")).place_for(WEB), emulated("no"));
        let neither = machine(HostKind::Missing, Some("no"));
        assert_eq!(neither.place_for(WEB), emulated("KVM is so, and no"));
        assert_eq!(Abilities::unused("told").place_for(WEB), emulated("told"));
    }

    #[test]
    fn root_is_not_sent_where_the_processor_is_what_lacks() {
        let software = machine(HostKind::Software, Some("no"));
        assert!(software.root_could_run(WEB));
        assert!(!software.root_could_run(LINUX));
        assert!(machine(HostKind::Hardware, Some("no")).root_could_run(LINUX));
        assert!(!Abilities::unused("told").root_could_run(WEB));
    }

    #[test]
    fn virtualisation_is_read_from_the_flags() {
        assert!(has_virtualisation("processor\t: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(!has_virtualisation("model name\t: svm\nflags\t\t: fpu svm_lock\n"));
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n";
        assert!(has_capability(status, CAP_NET_ADMIN));
        assert!(!has_capability(status, 13));
        assert!(!has_capability("", CAP_NET_ADMIN));
    }
}
