//! Settings of the network stack, in the calling thread's network namespace.

use std::fs;
use std::path::PathBuf;

use crate::NetError;

/// Whether packets are forwarded between interfaces.
pub(crate) const FORWARDING: &str = "ipv4/ip_forward";

/// Lets packets from and to 127.0.0.0/8 pass an interface.
pub(crate) fn route_localnet(interface: &str) -> String {
    format!("ipv4/conf/{interface}/route_localnet")
}

/// Sets a switch. Returns whether it was off before.
pub(crate) fn switch_on(setting: &str) -> Result<bool, NetError> {
    let path = path(setting);
    let before = fs::read_to_string(&path).map_err(|error| NetError::state(&path, "read the setting", error))?;
    if before.trim() != "0" {
        return Ok(false);
    }
    fs::write(&path, "1").map_err(|error| NetError::state(&path, "switch it on", error))?;
    Ok(true)
}

pub(crate) fn switch_off(setting: &str) -> Result<(), NetError> {
    let path = path(setting);
    fs::write(&path, "0").map_err(|error| NetError::state(&path, "switch it off", error))
}

fn path(setting: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(setting)
}
