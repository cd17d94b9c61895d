//! The guest `clone-check`: what it says of itself, by which clones, and a clone and a new start, are told apart.

use std::collections::BTreeMap;

use sandbox::{Sandbox, SandboxSpec};

use crate::support::{PATIENCE, bare, started};

/// A spec of the guest.
pub fn spec() -> SandboxSpec {
    let mut spec = bare("clone-check", &[]);
    spec.ready = Some(sandbox::spec::ReadyCheck::BootPort);
    spec
}

/// One that is ready.
pub fn running() -> Box<dyn Sandbox> {
    let sandbox = started(&spec());
    sandbox.wait_ready(PATIENCE).unwrap();
    sandbox
}

/// What the guest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report(BTreeMap<String, String>);

impl Report {
    /// Asks the guest.
    pub fn of(sandbox: &dyn Sandbox) -> Self {
        let console = sandbox.console();
        let from = console.read_from(u64::MAX).end();
        assert_eq!(sandbox.console_write(b"\n").unwrap(), 1);
        assert!(
            console.wait_for(b"\n", from, PATIENCE).is_some(),
            "no answer: {}",
            console.tail(5)
        );
        let bytes = console.read_from(from).bytes;
        let line = String::from_utf8(bytes).unwrap();
        let fields = line.trim().strip_prefix("clone-check: ").unwrap();
        let pair = |field: &str| {
            field
                .split_once('=')
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        Self(fields.split(' ').map(|field| pair(field).unwrap()).collect())
    }

    pub fn text(&self, name: &str) -> &str {
        &self.0[name]
    }

    pub fn number(&self, name: &str) -> u64 {
        self.0[name].parse().unwrap()
    }

    pub fn nonce(&self) -> &str {
        self.text("nonce")
    }

    pub fn line(&self) -> u64 {
        self.number("line")
    }
}
