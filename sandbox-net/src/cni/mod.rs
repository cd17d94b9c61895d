//! Networks by CNI plugins (Container Network Interface specification 1.0): programs that the host's administrator
//! chose and configured.
//!
//! A configuration is a list of plugins. Each is run in turn with what the one before it answered, and all of them in
//! the opposite order when the sandbox goes. What was answered is written down, since plugins may want it back
//! (specification, section 2, "DEL"), also after the death of the process that ran them.

mod configuration;
mod plugin;
mod tap;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::port::HeldPorts;
use crate::records::{self, Lock};
use crate::{NetError, NetNamespace, Networks, PublishedPort};

use configuration::Configuration;
use plugin::Call;
pub use tap::CniTap;

/// Where plugins are unless the embedder says otherwise.
pub const DEFAULT_PLUGIN_FOLDERS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Where attachments are written down.
const FOLDER: &str = "cni";

/// What a sandbox wants from CNI plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniRequest {
    /// The sandbox's name.
    pub id: String,
    /// The configuration: a list (`.conflist`) or a single plugin's.
    pub configuration: PathBuf,
    /// Where the plugins are; [`DEFAULT_PLUGIN_FOLDERS`] if empty.
    pub plugin_folders: Vec<PathBuf>,
    /// The namespace to attach.
    pub namespace: PathBuf,
    /// The interface to make in it.
    pub interface: String,
    /// Ports of the host that lead to the sandbox, for plugins with the capability `portMappings`.
    pub ports: Vec<PublishedPort>,
}

/// An address that plugins gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CniAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of its network's prefix in bits.
    pub prefix_len: u8,
    /// By which other networks are reached.
    pub gateway: Option<IpAddr>,
}

/// What was written down about an attachment.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Record {
    id: String,
    configuration: Configuration,
    plugin_folders: Vec<PathBuf>,
    namespace: PathBuf,
    interface: String,
    ports: Vec<PublishedPort>,
    runtime: Value,
    /// The last plugin's answer.
    result: Option<Value>,
    /// The network namespace in which the plugins ran, by its inode.
    home: u64,
}

/// A sandbox's attachment by CNI plugins. Dropping it has them take it back.
#[derive(Debug)]
pub struct CniAttachment {
    record: Record,
    addresses: Vec<CniAddress>,
    home: NetNamespace,
    /// Nothing as soon as everything is given back.
    lock: Mutex<Option<(Lock, HeldPorts)>>,
}

impl Networks {
    /// Attaches a network namespace by CNI plugins. They run in the calling thread's network namespace, each for at
    /// most a minute.
    ///
    /// # Errors
    /// - [`NetError::PortTaken`] if a port of the host is not free.
    /// - [`NetError::CniConfiguration`] if the configuration cannot be used, or has no plugin for what is asked.
    /// - [`NetError::Cni`] if a plugin says so, [`NetError::CommandMissing`] or [`NetError::CommandFailed`] if one is
    ///   not there or does not work. What the plugins before it made is taken back then.
    pub fn attach_cni(&self, request: &CniRequest) -> Result<CniAttachment, NetError> {
        records::check_name(&request.id)?;
        let configuration = Configuration::read(&request.configuration)?;
        let mut ports = request.ports.clone();
        let held_ports = HeldPorts::take(&mut ports)?;
        let runtime = configuration.runtime(&request.configuration, &ports)?;
        let home = NetNamespace::current()?;
        let plugin_folders = match request.plugin_folders.is_empty() {
            true => DEFAULT_PLUGIN_FOLDERS.map(PathBuf::from).to_vec(),
            false => request.plugin_folders.clone(),
        };
        let mut record = Record {
            id: request.id.clone(),
            configuration,
            plugin_folders,
            namespace: request.namespace.clone(),
            interface: request.interface.clone(),
            ports,
            runtime,
            result: None,
            home: home.identity()?.1,
        };
        record.find_plugins()?;
        let path = self
            .folder(FOLDER)?
            .join(format!("{}@{}", request.id, request.interface));
        let lock = Lock::try_take(&path)?
            .ok_or_else(|| NetError::state(&path, "attach a sandbox that is attached", rustix::io::Errno::EXIST))?;
        // What a dead process left under this name.
        if let Some(dead) = records::read::<Record>(&path)? {
            dead.delete()?;
        }
        lock.write(&record)?;
        let added = record.add().and_then(|()| lock.write(&record));
        if let Err(error) = added {
            // The error to report is the first one. Plugins take back also what was never made.
            if record.delete().is_ok() {
                let _ = lock.remove();
            }
            return Err(error);
        }
        Ok(CniAttachment {
            addresses: addresses(record.result.as_ref()),
            record,
            home,
            lock: Mutex::new(Some((lock, held_ports))),
        })
    }
}

impl Record {
    /// Finds out whether all plugins are there, before any of them makes something.
    fn find_plugins(&self) -> Result<(), NetError> {
        let call = self.call("ADD");
        let mut plugins = self.configuration.plugins.iter();
        plugins.try_for_each(|plugin| call.program(plugin).map(drop))
    }

    /// Runs the plugins one after the other.
    fn add(&mut self) -> Result<(), NetError> {
        for plugin in &self.configuration.plugins {
            let answer = self.call("ADD").run(plugin, self.result.as_ref())?;
            if answer.is_object() {
                self.result = Some(answer);
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), NetError> {
        if self.configuration.disable_check || !self.configuration.has_check() {
            return Ok(());
        }
        for plugin in &self.configuration.plugins {
            self.call("CHECK").run(plugin, self.result.as_ref())?;
        }
        Ok(())
    }

    /// Runs all plugins in the opposite order, whatever one of them says.
    fn delete(&self) -> Result<(), NetError> {
        let mut first_error = Ok(());
        for plugin in self.configuration.plugins.iter().rev() {
            let deleted = self.call("DEL").run(plugin, self.result.as_ref()).map(drop);
            first_error = first_error.and(deleted);
        }
        first_error
    }

    fn call(&self, command: &'static str) -> Call<'_> {
        Call {
            command,
            id: &self.id,
            namespace: &self.namespace,
            interface: &self.interface,
            plugin_folders: &self.plugin_folders,
            configuration: &self.configuration,
            runtime: &self.runtime,
        }
    }
}

impl CniAttachment {
    /// The addresses that the sandbox has.
    pub fn addresses(&self) -> &[CniAddress] {
        &self.addresses
    }

    /// The first IPv4 address.
    pub fn ipv4(&self) -> Option<(Ipv4Addr, CniAddress)> {
        self.addresses.iter().find_map(|address| match address.address {
            IpAddr::V4(ipv4) => Some((ipv4, *address)),
            IpAddr::V6(_) => None,
        })
    }

    /// The published ports.
    pub fn ports(&self) -> &[PublishedPort] {
        &self.record.ports
    }

    /// The last plugin's answer as it is, with DNS settings and interfaces.
    pub fn result(&self) -> Option<&Value> {
        self.record.result.as_ref()
    }

    /// Asks the plugins whether everything is as they made it.
    ///
    /// # Errors
    /// [`NetError::Cni`] if one says that it is not.
    pub fn check(&self) -> Result<(), NetError> {
        self.home.run_inside(|| self.record.check())
    }

    /// Has the plugins take everything back. A second call does nothing.
    ///
    /// # Errors
    /// [`NetError::Cni`] and others, if a plugin fails; a later call or a sweep tries again.
    pub fn teardown(&self) -> Result<(), NetError> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() {
            self.home.run_inside(|| self.record.delete())?;
        }
        lock.take().map_or(Ok(()), |(lock, _)| lock.remove())
    }
}

impl Drop for CniAttachment {
    fn drop(&mut self) {
        if let Err(error) = self.teardown() {
            tracing::warn!(%error, sandbox = self.record.id, "a network is left behind for the next sweep");
        }
    }
}

/// The addresses of an answer; what cannot be read is left out.
fn addresses(result: Option<&Value>) -> Vec<CniAddress> {
    let Some(Value::Array(ips)) = result.map(|result| &result["ips"]) else {
        return Vec::new();
    };
    ips.iter()
        .filter_map(|ip| {
            let (address, prefix_len) = ip["address"].as_str()?.split_once('/')?;
            Some(CniAddress {
                address: address.parse().ok()?,
                prefix_len: prefix_len.parse().ok()?,
                gateway: ip["gateway"].as_str().and_then(|gateway| gateway.parse().ok()),
            })
        })
        .collect()
}

/// Has plugins take back what dead processes had them make from the calling thread's network namespace.
pub(crate) fn sweep(networks: &Networks, swept: &mut Vec<String>) -> Result<(), NetError> {
    let folder = networks.folder_path(FOLDER);
    let (_, home) = NetNamespace::current()?.identity()?;
    let mut first_error = Ok(());
    for name in records::names(&folder)? {
        first_error = first_error.and(sweep_one(&folder.join(name), home, swept));
    }
    first_error
}

fn sweep_one(path: &Path, home: u64, swept: &mut Vec<String>) -> Result<(), NetError> {
    let Some(lock) = Lock::try_take(path)? else {
        return Ok(());
    };
    match records::read::<Record>(path)? {
        Some(record) if record.home == home => {
            swept.push(record.id.clone());
            record.delete()?;
            lock.remove()
        }
        Some(_) => Ok(()),
        None => lock.remove(),
    }
}
