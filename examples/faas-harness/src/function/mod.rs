//! What a function is: how its instances are described to the SDK, and how many of them there may be.

mod builtin;
mod scale;

use std::collections::BTreeMap;
use std::time::Duration;

use sandbox::spec::{GuestSpec, SandboxSpec, UnikernelFamily};
use serde::{Deserialize, Serialize};

pub use builtin::Builtins;
pub use scale::Scale;

/// How many sandboxes stand by without running unless the function says otherwise.
const DEFAULT_POOL: u32 = 4;
/// The longest name, in bytes: it becomes part of the names of sandboxes.
const MAX_NAME_BYTES: usize = 40;
/// Largest body of a request unless the function says otherwise, in bytes.
const DEFAULT_BODY_BYTES: u64 = 16 << 20;

/// A function as it is deployed.
///
/// `sandbox` is the SDK's own document. In its texts (command line, arguments, environment) these words are replaced
/// for each instance: `${GUEST_ADDRESS}` by the instance's address with its prefix length, `${GATEWAY}` by the host's
/// address, `${INSTANCE}` by the instance's name, `${READY_URL}` by where it may POST that it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionSpec {
    /// Name, 1 to 40 of `a-z A-Z 0-9 . _ -`.
    pub name: String,
    /// What each instance is.
    pub sandbox: SandboxSpec,
    /// The port on which instances serve HTTP.
    #[serde(default = "http_port")]
    pub port: u16,
    /// How a new instance comes to life.
    #[serde(default)]
    pub start: StartStrategy,
    /// Who says that an instance is ready.
    #[serde(default)]
    pub ready: Readiness,
    /// How many instances, and how long.
    #[serde(default)]
    pub scale: Scale,
    /// Largest body of a request, in bytes.
    #[serde(default = "default_body_bytes")]
    pub max_body_bytes: u64,
    /// Time from a request's arrival at an instance to the end of its answer, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Kept and given back to whoever asks; they mean nothing to the platform.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Kept likewise.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

fn http_port() -> u16 {
    80
}

fn default_body_bytes() -> u64 {
    DEFAULT_BODY_BYTES
}

fn default_timeout_ms() -> u64 {
    30_000
}

/// How a new instance comes to life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartStrategy {
    /// Created and started when a request needs it.
    #[default]
    Cold,
    /// Created and started ahead of requests: `scale.warm` instances stand by, at least one.
    Warm,
    /// Forked from a first one that is held still.
    Fork,
    /// Restored from a snapshot of a first one.
    Restore,
    /// Let run from `scale.pool` sandboxes that are made ahead of time and do not run: clones of a first one, held still,
    /// where guest and wall allow that, and new ones that were never started otherwise.
    Pool,
}

impl StartStrategy {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::Fork => "fork",
            Self::Restore => "restore",
            Self::Pool => "pool",
        }
    }
}

/// Who says that an instance is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// The SDK, by the check that the sandbox's document names.
    #[default]
    Check,
    /// The instance itself, by a POST to the platform's `/ready`.
    Post,
}

/// Why a function cannot be deployed.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FunctionError {
    /// The field that is wrong.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl FunctionError {
    /// An error about `field`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

impl FunctionSpec {
    /// A function with defaults.
    pub fn new(name: impl Into<String>, sandbox: SandboxSpec) -> Self {
        Self {
            name: name.into(),
            sandbox,
            port: http_port(),
            start: StartStrategy::default(),
            ready: Readiness::default(),
            scale: Scale::default(),
            max_body_bytes: default_body_bytes(),
            timeout_ms: default_timeout_ms(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// Checks what can be checked before an instance is started.
    ///
    /// # Errors
    /// The field that is wrong, and what would be right.
    pub fn validate(&self, host_memory: u64) -> Result<(), FunctionError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES || !self.name.bytes().all(allowed) {
            let reason = format!("must be 1 to {MAX_NAME_BYTES} of a-z A-Z 0-9 . _ -");
            return Err(FunctionError::new("name", reason));
        }
        if !self.sandbox.networks.is_empty() {
            let reason = "must be left out: the platform gives each instance its network";
            return Err(FunctionError::new("sandbox.networks", reason));
        }
        if self.sandbox.id.is_some() {
            let reason = "must be left out: the platform names each instance";
            return Err(FunctionError::new("sandbox.id", reason));
        }
        if self.port == 0 {
            return Err(FunctionError::new("port", "must be 1 to 65535"));
        }
        if self.timeout_ms == 0 {
            return Err(FunctionError::new("timeout_ms", "must be at least 1"));
        }
        self.scale.validate()?;
        self.validate_start()?;
        self.fits(host_memory)?;
        self.sandbox.validate().map_err(|error| {
            let field = error
                .field()
                .map_or("sandbox".to_owned(), |field| format!("sandbox.{field}"));
            FunctionError::new(field, error.report())
        })
    }

    fn validate_start(&self) -> Result<(), FunctionError> {
        let is_container = matches!(self.sandbox.guest, GuestSpec::Container(_));
        if is_container && matches!(self.start, StartStrategy::Fork | StartStrategy::Restore) {
            let reason = "a container's clones would all have its address: use cold, warm or pool";
            return Err(FunctionError::new("start", reason));
        }
        if self.scale.pool.is_some() && self.start != StartStrategy::Pool {
            let reason = format!(
                "means something where \"start\" is \"pool\", and this one is \"{}\"",
                self.start.name()
            );
            return Err(FunctionError::new("scale.pool", reason));
        }
        Ok(())
    }

    /// Whether the host has the memory of what stands by at all times.
    fn fits(&self, host_memory: u64) -> Result<(), FunctionError> {
        for (field, count) in [("scale.warm", self.warm()), ("scale.pool", self.pool())] {
            if u64::from(count).saturating_mul(self.sandbox.memory) > host_memory {
                let reason = format!(
                    "{count} instances of {} MiB stand by at all times, which is more than this host's {} MiB",
                    self.sandbox.memory >> 20,
                    host_memory >> 20
                );
                return Err(FunctionError::new(field, reason));
            }
        }
        Ok(())
    }

    /// How many idle instances stand by.
    pub fn warm(&self) -> u32 {
        match self.start {
            StartStrategy::Warm => self.scale.warm.max(1),
            _ => self.scale.warm,
        }
    }

    /// How many sandboxes stand by that do not run yet.
    pub fn pool(&self) -> u32 {
        match self.start {
            StartStrategy::Pool => self.scale.pool.unwrap_or(DEFAULT_POOL).min(self.scale.max),
            _ => 0,
        }
    }

    /// Whether the SDK can clone its sandboxes, and each clone have an address of its own.
    pub fn can_be_cloned(&self) -> bool {
        match &self.sandbox.guest {
            GuestSpec::Linux(_) => true,
            GuestSpec::Unikernel(guest) => guest.family != UnikernelFamily::Solo5,
            _ => false,
        }
    }

    /// The most time that a request may take in an instance.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}
