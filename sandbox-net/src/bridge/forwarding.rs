//! Forwarding of packets, which bridges need to lead anywhere, and which is switched off again behind the last one if it
//! was off before the first.
//!
//! That it was off is written down by itself and not with a bridge, since the bridge that switched it on may go before
//! others that need it.

use std::path::PathBuf;

use super::Networks;
use crate::records::{self, Lock};
use crate::{NetError, sysctl};

/// Who changes this holds the lock, so that nobody switches off what another bridge has just found switched on.
const LOCK: &str = "forwarding.lock";

/// Switches forwarding on for a bridge that is on record, in the network namespace whose records begin with `prefix`.
pub(super) fn need(networks: &Networks, prefix: &str) -> Result<(), NetError> {
    let lock = Lock::wait(&networks.folder("")?.join(LOCK))?;
    let result = sysctl::switch_on(sysctl::FORWARDING).and_then(|was_off| match was_off {
        true => {
            let mark = mark(networks, prefix);
            std::fs::write(&mark, "").map_err(|error| NetError::state(mark, "write it", error))
        }
        false => Ok(()),
    });
    result.and(lock.remove())
}

/// Switches it off if it was switched on for bridges and none of them is on record any more.
pub(super) fn release(networks: &Networks, prefix: &str) -> Result<(), NetError> {
    if !mark(networks, prefix).exists() {
        return Ok(());
    }
    let lock = Lock::wait(&networks.folder("")?.join(LOCK))?;
    release_locked(networks, prefix).and(lock.remove())
}

fn release_locked(networks: &Networks, prefix: &str) -> Result<(), NetError> {
    let mark = mark(networks, prefix);
    let bridges = records::names(&networks.folder_path("bridges"))?;
    if !mark.exists() || bridges.iter().any(|name| name.starts_with(prefix)) {
        return Ok(());
    }
    sysctl::switch_off(sysctl::FORWARDING)?;
    records::remove_file(&mark)
}

/// The file that says that forwarding was off before.
fn mark(networks: &Networks, prefix: &str) -> PathBuf {
    networks.folder_path(&format!("{prefix}forwarding"))
}
