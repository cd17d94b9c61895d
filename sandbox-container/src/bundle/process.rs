//! The processes of a container (OCI runtime-spec, "Process").

use std::path::PathBuf;

use oci_spec::runtime::{
    Capability, LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User,
};
use sandbox_core::spec::ProcessSpec;

/// What a process may do as root: the set that Docker, containerd and podman agree on, without the power to make raw
/// packets and device nodes.
const CAPABILITIES: [Capability; 12] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];
/// Where programs are sought unless the process's environment says.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Descriptors of one process.
const OPEN_FILES: (u64, u64) = (1024, 4096);

/// Who runs a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Home folder, where known.
    pub home: Option<String>,
}

/// A container's first process.
pub fn first(spec: &ProcessSpec, account: &Account) -> Process {
    let mut user = User::default();
    user.set_uid(account.uid).set_gid(account.gid);
    if !account.groups.is_empty() {
        user.set_additional_gids(Some(account.groups.clone()));
    }
    let mut process = Process::default();
    process
        .set_terminal(Some(spec.terminal))
        .set_user(user)
        .set_args(Some(spec.args.clone()))
        .set_env(Some(environment(spec, account)))
        .set_cwd(spec.cwd.clone().unwrap_or_else(|| PathBuf::from("/")))
        .set_capabilities(Some(capabilities(account)))
        .set_rlimits(Some(limits()))
        .set_no_new_privileges(Some(true));
    process
}

/// A further process in the container whose first one is `first`: the same but for what it is called and is told.
pub fn further(first: &Process, arguments: &[String], variables: &[String], terminal: bool) -> Process {
    let mut process = first.clone();
    let name = |variable: &String| variable.split('=').next().map(str::to_owned);
    let mut environment: Vec<String> = first.env().clone().unwrap_or_default();
    environment.retain(|old| variables.iter().all(|new| name(new) != name(old)));
    environment.extend_from_slice(variables);
    process
        .set_args(Some(arguments.to_vec()))
        .set_env(Some(environment))
        .set_terminal(Some(terminal));
    process
}

fn environment(spec: &ProcessSpec, account: &Account) -> Vec<String> {
    let mut environment = spec.env.clone();
    let mut add = |variable: String| {
        let name = variable.split('=').next().unwrap_or_default().to_owned() + "=";
        if !environment.iter().any(|known| known.starts_with(&name)) {
            environment.push(variable);
        }
    };
    add(PATH.to_owned());
    if spec.terminal {
        add("TERM=xterm".to_owned());
    }
    if let Some(home) = &account.home {
        add(format!("HOME={home}"));
    }
    environment
}

/// Others than root have none, and can never have more than root would.
fn capabilities(account: &Account) -> LinuxCapabilities {
    let all = || Some(CAPABILITIES.into_iter().collect());
    let none = || Some(std::collections::HashSet::new());
    let held = || if account.uid == 0 { all() } else { none() };
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(all())
        .set_effective(held())
        .set_permitted(held())
        .set_inheritable(none())
        .set_ambient(none());
    capabilities
}

fn limits() -> Vec<PosixRlimit> {
    let limit = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(OPEN_FILES.0)
        .hard(OPEN_FILES.1)
        .build();
    limit.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_spec_leaves_open_is_filled_in() {
        let spec = ProcessSpec {
            args: vec!["a".to_owned()],
            env: vec!["HOME=/mine".to_owned()],
            ..ProcessSpec::default()
        };
        let account = Account {
            uid: 7,
            home: Some("/theirs".to_owned()),
            ..Account::default()
        };
        let process = first(&spec, &account);
        let environment = process.env().clone().unwrap_or_default();
        assert_eq!(environment, ["HOME=/mine", PATH]);
        assert_eq!(process.cwd(), &PathBuf::from("/"));
        let held = process
            .capabilities()
            .as_ref()
            .and_then(|held| held.effective().clone());
        assert_eq!(held.map(|held| held.len()), Some(0));
    }

    #[test]
    fn a_further_process_differs_in_what_it_is_told() {
        let spec = ProcessSpec {
            args: vec!["a".to_owned()],
            env: vec!["PATH=/bin".to_owned(), "X=1".to_owned()],
            ..ProcessSpec::default()
        };
        let first = first(&spec, &Account::default());
        let process = further(&first, &["b".to_owned()], &["X=2".to_owned()], true);
        assert_eq!(process.env().clone().unwrap_or_default(), ["PATH=/bin", "X=2"]);
        assert_eq!(process.terminal(), Some(true));
        assert_eq!(process.capabilities(), first.capabilities());
    }
}
