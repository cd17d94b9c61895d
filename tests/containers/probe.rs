//! What is said of a runtime before anything is made with it.

use sandbox::{Backend, ContainerOptions, Probe, Runtime};

use crate::support::container::{NAMES, program};
use crate::support::{TempFolder, container_options, runtime, skip};

fn fact<'a>(probe: &'a Probe, name: &str) -> &'a str {
    let found = probe.facts.iter().find(|(fact, _)| fact == name);
    found.map_or("", |(_, value)| value)
}

#[test]
fn version_cgroups_rights_and_features_are_told_of_each_runtime() {
    // SAFETY: takes no arguments and cannot fail.
    let is_rootless = (unsafe { libc::geteuid() } != 0).to_string();
    for name in NAMES {
        let probe = match runtime().container(name) {
            Ok(backend) => backend.probe(),
            Err(error) => {
                skip(&error.report());
                continue;
            }
        };
        assert!(fact(&probe, "program").ends_with(name), "{probe:?}");
        assert!(fact(&probe, "version").contains('.'), "{probe:?}");
        assert!(["v1", "hybrid", "v2"].contains(&fact(&probe, "cgroups")), "{probe:?}");
        assert_eq!(fact(&probe, "rootless"), is_rootless, "{probe:?}");
        assert_ne!(fact(&probe, "features"), "", "{probe:?}");
        assert_eq!(probe.usable, !probe.capabilities.is_empty(), "{probe:?}");
        assert!(probe.usable || !probe.reasons.is_empty(), "{probe:?}");
    }
}

#[test]
fn a_platform_that_hangs_is_a_reason_and_no_hang() {
    let folder = TempFolder::new();
    let text = "[ \"$1\" = --version ] && exec runsc --version; sleep 1000";
    let hanging = program(&folder, "runsc", text);
    let runtime = Runtime::new().with_container_options(ContainerOptions {
        state: folder.path().join("state"),
        runsc_platform: Some("kvm".to_owned()),
        ..container_options()
    });
    let probe = runtime.container(hanging.to_str().unwrap()).unwrap().probe();
    assert!(!probe.usable && probe.capabilities.is_empty(), "{probe:?}");
    let told = probe.reasons.iter().any(|reason| reason.contains("kvm platform hangs"));
    assert!(told, "{probe:?}");
}
