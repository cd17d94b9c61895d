//! A managed bridge and its records.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::lease::{self, Lease, Leases};
use super::{BridgeSettings, Networks, forwarding};
use crate::records::{self, Lock};
use crate::{Ipv4Cidr, LinkControl, LinkSettings, MacAddress, NetError, NetNamespace, name, nft, routes, sysctl};

/// Prefix length of a network that was not asked for: as many addresses as a bridge of Linux has ports.
const FREE_PREFIX: u8 = 22;
/// Networks to choose a free one from: those of this length in 10.213.0.0/16.
const FREE_FROM: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 0);
const FREE_COUNT: u32 = 64;

/// The record of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Record {
    address: Ipv4Addr,
    prefix_len: u8,
    isolated: bool,
}

impl Record {
    pub(super) fn subnet(&self) -> Ipv4Cidr {
        Ipv4Cidr::from_parts(self.address, self.prefix_len)
    }

    /// Whether the bridge is as asked for.
    fn check(&self, settings: &BridgeSettings) -> Result<(), NetError> {
        let differs = |setting, present: String, asked: String| NetError::BridgeDiffers {
            name: settings.name.clone(),
            setting,
            present,
            asked,
        };
        let present = self.subnet();
        if let Some(asked) = settings.subnet.filter(|asked| *asked != present) {
            return Err(differs("subnet", present.to_string(), asked.to_string()));
        }
        match self.isolated == settings.isolated {
            true => Ok(()),
            false => {
                let (present, asked) = (self.isolated.to_string(), settings.isolated.to_string());
                Err(differs("isolated", present, asked))
            }
        }
    }
}

/// A bridge by its name, in the network namespace that was the calling thread's.
#[derive(Clone, Debug)]
pub(crate) struct ManagedBridge {
    name: String,
    networks: Networks,
    /// What the records of its network namespace begin with.
    prefix: String,
    folder: PathBuf,
}

/// A bridge whose records nobody else changes now.
#[derive(Debug)]
pub(super) struct LockedBridge<'a> {
    bridge: &'a ManagedBridge,
    _lock: Lock,
}

impl ManagedBridge {
    /// The bridge `name`, which need not be there yet.
    pub(super) fn named(networks: &Networks, name: &str) -> Result<Self, NetError> {
        name::check(name)?;
        // It stands in packet filter rules, between quotation marks.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !name.bytes().all(plain) {
            return Err(NetError::InvalidName {
                name: name.to_owned(),
                reason: "has a character that bridges are not named with: use letters, digits, '-', '_' and '.'",
            });
        }
        let prefix = prefix()?;
        let folder = networks.folder("bridges")?.join(format!("{prefix}{name}"));
        Ok(Self {
            name: name.to_owned(),
            networks: networks.clone(),
            prefix,
            folder,
        })
    }

    /// All that have records in the calling thread's network namespace.
    pub(super) fn all(networks: &Networks) -> Result<Vec<Self>, NetError> {
        let folder = networks.folder_path("bridges");
        let prefix = prefix()?;
        let names = records::names(&folder)?;
        let own = names
            .iter()
            .filter_map(|name| Some((name, name.strip_prefix(&prefix)?)));
        Ok(own
            .filter(|(_, name)| name::check(name).is_ok())
            .map(|(file, name)| Self {
                name: name.to_owned(),
                networks: networks.clone(),
                prefix: prefix.clone(),
                folder: folder.join(file),
            })
            .collect())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn lock(&self) -> Result<LockedBridge<'_>, NetError> {
        loop {
            records::make_folder(&self.folder)?;
            match Lock::wait(&self.folder.join("lock")) {
                Ok(lock) => {
                    return Ok(LockedBridge {
                        bridge: self,
                        _lock: lock,
                    });
                }
                // Somebody removed the folder in between.
                Err(NetError::State { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes what dead owners left, and the bridge if nobody else uses it.
    pub(super) fn sweep(&self, swept: &mut Vec<String>) -> Result<(), NetError> {
        let locked = self.lock()?;
        let result = locked.sweep_leases(swept);
        result.and(locked.remove_if_unused())
    }

    fn record_path(&self) -> PathBuf {
        self.folder.join("bridge")
    }
}

/// Switches forwarding off if whoever switched it on died between removing the last bridge and this.
pub(super) fn sweep_forwarding(networks: &Networks) -> Result<(), NetError> {
    forwarding::release(networks, &prefix()?)
}

/// What the records of the calling thread's network namespace begin with.
fn prefix() -> Result<String, NetError> {
    let (_, inode) = NetNamespace::current()?.identity()?;
    Ok(format!("{inode}-"))
}

impl LockedBridge<'_> {
    pub(super) fn leases(&self) -> Leases {
        Leases::of(&self.bridge.folder)
    }

    /// The bridge as it is, or made as `settings` say.
    pub(super) fn ensure(&self, settings: &BridgeSettings) -> Result<Record, NetError> {
        let name = &self.bridge.name;
        let mut links = LinkControl::open()?;
        let exists = match links.index(name) {
            Ok(_) => true,
            Err(NetError::NotFound { .. }) => false,
            Err(error) => return Err(error),
        };
        let record: Option<Record> = records::read(&self.bridge.record_path())?;
        match record {
            Some(record) if exists => record.check(settings).map(|()| record),
            None if exists => Err(NetError::BridgeTaken { name: name.clone() }),
            _ => self.create(&mut links, settings),
        }
    }

    fn create(&self, links: &mut LinkControl, settings: &BridgeSettings) -> Result<Record, NetError> {
        let subnet = match settings.subnet {
            Some(subnet) => {
                lease::check_subnet(subnet)?;
                routes::check_free(subnet)?;
                subnet
            }
            None => free_subnet()?,
        };
        let record = Record {
            address: subnet.address(),
            prefix_len: subnet.prefix_len(),
            isolated: settings.isolated,
        };
        // First of all, so that a sweep knows of a bridge that was half made.
        write_record(&self.bridge.record_path(), &record)?;
        let made = self
            .make(links, &record)
            .and_then(|()| forwarding::need(&self.bridge.networks, &self.bridge.prefix));
        match made {
            Ok(()) => Ok(record),
            Err(error) => {
                // The error to report is the first one.
                let _ = self.remove();
                Err(error)
            }
        }
    }

    fn make(&self, links: &mut LinkControl, record: &Record) -> Result<(), NetError> {
        let name = &self.bridge.name;
        let subnet = record.subnet();
        let gateway = lease::gateway(subnet);
        links.add_bridge(name, mac_of(gateway))?;
        let settings = LinkSettings {
            address: Some(Ipv4Cidr::from_parts(gateway, subnet.prefix_len())),
            bring_up: true,
            no_ipv6_link_local: true,
            ..LinkSettings::default()
        };
        links.configure(name, &settings)?;
        // The rules that keep guests from the host's own addresses come first.
        nft::create_table(name, subnet, record.isolated)?;
        sysctl::switch_on(&sysctl::route_localnet(name)).map(drop)
    }

    /// Removes the bridge if no lease is left.
    pub(super) fn remove_if_unused(&self) -> Result<(), NetError> {
        if !self.leases().addresses()?.is_empty() {
            return Ok(());
        }
        match records::read::<Record>(&self.bridge.record_path())? {
            Some(_) => self.remove(),
            None => self.remove_records(),
        }
    }

    fn remove(&self) -> Result<(), NetError> {
        LinkControl::open()?.delete(&self.bridge.name)?;
        nft::delete_table(&self.bridge.name)?;
        self.remove_records()?;
        forwarding::release(&self.bridge.networks, &self.bridge.prefix)
    }

    fn remove_records(&self) -> Result<(), NetError> {
        let folder = &self.bridge.folder;
        std::fs::remove_dir_all(folder).map_err(|error| NetError::state(folder, "remove it", error))
    }

    /// Gives back what the lease of `address` says, and the lease. The caller holds its lock.
    pub(super) fn release(&self, lease: &Lease, lock: Lock) -> Result<(), NetError> {
        LinkControl::open()?.delete(&lease.interface)?;
        nft::withdraw(&self.bridge.name, &lease.ports)?;
        lock.remove()
    }

    /// Gives back what dead owners had.
    pub(super) fn sweep_leases(&self, swept: &mut Vec<String>) -> Result<(), NetError> {
        let leases = self.leases();
        let mut first_error = Ok(());
        for address in leases.addresses()? {
            let path = leases.path(address);
            let Some(lock) = Lock::try_take(&path)? else {
                continue;
            };
            let result = match records::read::<Lease>(&path)? {
                Some(lease) => {
                    swept.push(lease.id.clone());
                    self.release(&lease, lock)
                }
                // Its owner died before anything was made.
                None => lock.remove(),
            };
            first_error = first_error.and(result);
        }
        first_error
    }
}

/// The hardware address that goes with an address: the same one for whoever has the address next, so that nobody's
/// neighbour cache is ever wrong.
pub(super) fn mac_of(address: Ipv4Addr) -> MacAddress {
    let [a, b, c, d] = address.octets();
    MacAddress::new([0x02, 0x53, a, b, c, d])
}

fn write_record(path: &Path, record: &Record) -> Result<(), NetError> {
    let failed = |error: std::io::Error| NetError::state(path, "write it", error);
    let bytes = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
    std::fs::write(path, bytes).map_err(failed)
}

/// A network that the host does not reach yet.
fn free_subnet() -> Result<Ipv4Cidr, NetError> {
    let size = 1 << (32 - u32::from(FREE_PREFIX));
    let candidates = (0..FREE_COUNT).map(|number| FREE_FROM.to_bits() + number * size);
    let mut result = Err(NetError::AddressPoolExhausted {
        network: Ipv4Cidr::from_parts(FREE_FROM, 16),
    });
    for candidate in candidates {
        let subnet = Ipv4Cidr::from_parts(Ipv4Addr::from_bits(candidate), FREE_PREFIX);
        match routes::check_free(subnet) {
            Ok(()) => return Ok(subnet),
            Err(NetError::SubnetTaken { .. }) => {}
            Err(error) => result = Err(error),
        }
    }
    result
}
