//! Running one plugin (CNI specification 1.0, sections 2 and 5).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value};

use super::configuration::{Configuration, has_capability};
use crate::NetError;
use crate::command::{self, Output};

/// How long a plugin may take. DHCP is the slowest that is known.
const DEADLINE: Duration = Duration::from_secs(60);

/// What all plugins of a list are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) command: &'static str,
    pub(super) id: &'a str,
    pub(super) namespace: &'a Path,
    pub(super) interface: &'a str,
    pub(super) plugin_folders: &'a [PathBuf],
    pub(super) configuration: &'a Configuration,
    pub(super) runtime: &'a Value,
}

impl Call<'_> {
    /// Runs a plugin and returns its answer: the result of `ADD`, and nothing of the others.
    pub(super) fn run(&self, plugin: &Map<String, Value>, previous: Option<&Value>) -> Result<Value, NetError> {
        let kind = kind(plugin);
        let mut command = Command::new(self.program(plugin)?);
        let folders = std::env::join_paths(self.plugin_folders).unwrap_or_default();
        command
            .env("CNI_COMMAND", self.command)
            .env("CNI_CONTAINERID", self.id)
            .env("CNI_NETNS", self.namespace)
            .env("CNI_IFNAME", self.interface)
            .env("CNI_PATH", folders)
            .env_remove("CNI_ARGS");
        let input = self.input(plugin, previous).to_string();
        let output = command::run(command, input.as_bytes(), DEADLINE)?;
        match output.status.success() {
            true => self.answer(kind, &output),
            false => Err(self.complaint(kind, &output)),
        }
    }

    /// The plugin's program.
    pub(super) fn program(&self, plugin: &Map<String, Value>) -> Result<PathBuf, NetError> {
        let folders = self.plugin_folders.iter().map(PathBuf::as_path);
        command::find(kind(plugin).as_ref(), folders).ok_or_else(|| NetError::CommandMissing {
            program: format!("CNI plugin {}", kind(plugin)),
            remedy: "install the Debian package containernetworking-plugins, or name the folder it is in",
        })
    }

    /// The plugin's own configuration, with what only the runtime knows.
    fn input(&self, plugin: &Map<String, Value>, previous: Option<&Value>) -> Value {
        let mut input = plugin.clone();
        input.insert("cniVersion".to_owned(), self.configuration.version.clone().into());
        input.insert("name".to_owned(), self.configuration.name.clone().into());
        if let Some(previous) = previous {
            input.insert("prevResult".to_owned(), previous.clone());
        }
        let mut runtime = Map::new();
        if let Value::Object(all) = self.runtime {
            let wanted = all.iter().filter(|(capability, _)| has_capability(plugin, capability));
            runtime.extend(wanted.map(|(capability, value)| (capability.clone(), value.clone())));
        }
        if !runtime.is_empty() {
            input.insert("runtimeConfig".to_owned(), runtime.into());
        }
        Value::Object(input)
    }

    fn answer(&self, kind: &str, output: &Output) -> Result<Value, NetError> {
        if self.command != "ADD" || output.stdout.trim_ascii().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout).map_err(|error| NetError::CommandFailed {
            program: format!("CNI plugin {kind}"),
            reason: format!("gave an answer that cannot be understood: {error}"),
        })
    }

    fn complaint(&self, kind: &str, output: &Output) -> NetError {
        let said: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        let text = |key: &str| {
            let said = said.as_ref()?[key].as_str()?;
            (!said.is_empty()).then(|| said.to_owned())
        };
        let message: Vec<String> = ["msg", "details"].into_iter().filter_map(text).collect();
        match message.is_empty() {
            false => NetError::Cni {
                plugin: kind.to_owned(),
                command: self.command,
                code: said.as_ref().and_then(|said| said["code"].as_u64()).unwrap_or_default(),
                message: message.join(": "),
            },
            true => NetError::CommandFailed {
                program: format!("CNI plugin {kind}"),
                reason: output.complaint(),
            },
        }
    }
}

/// The plugin's type, which is its program's name.
fn kind(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}
