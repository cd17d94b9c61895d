//! Taps that are there before a clone is made, as a platform has them.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use sandbox::snapshot::NetworkOverride;
use sandbox::spec::TapSpec;
use sandbox_net::{LinkControl, LinkSettings, Tap};

/// A tap with a name, which stays until this is dropped.
pub(crate) struct NamedTap {
    number: u8,
    name: String,
}

impl NamedTap {
    /// Makes the tap of this number, with the first address of its own subnet on the host's end.
    pub(crate) fn make(number: u8) -> Result<Self> {
        let name = format!("sbxbench{number}");
        let tap = Tap::create_named(&name).with_context(|| format!("cannot make the tap {name}; run as root"))?;
        set_persistent(&tap, true)?;
        let this = Self { number, name };
        let settings = LinkSettings {
            address: Some(format!("{}/30", this.host()).parse()?),
            bring_up: true,
            no_ipv6_link_local: true,
            ..LinkSettings::default()
        };
        LinkControl::open()?.configure(&this.name, &settings)?;
        Ok(this)
    }

    pub(crate) fn spec(&self) -> TapSpec {
        TapSpec::Name(self.name.clone())
    }

    fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 28, self.number, 1)
    }

    /// The guest's end.
    pub(crate) fn guest(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 28, self.number, 2)
    }

    /// A MAC address that no other of these has.
    pub(crate) fn mac(&self) -> String {
        format!("02:53:42:00:00:{:02x}", self.number)
    }

    /// What has a clone stand at this tap.
    pub(crate) fn overrides(&self) -> NetworkOverride {
        NetworkOverride {
            tap: Some(self.spec()),
            mac: Some(self.mac()),
            address: Some(format!("{}/30", self.guest())),
        }
    }
}

impl Drop for NamedTap {
    fn drop(&mut self) {
        // It goes with its last descriptor then; whoever still has it open is being torn down.
        if let Ok(tap) = Tap::open(&self.name) {
            let _ = set_persistent(&tap, false);
        }
    }
}

fn set_persistent(tap: &Tap, persistent: bool) -> Result<()> {
    // SAFETY: the argument is passed by value; no memory is touched.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, libc::c_int::from(persistent)) };
    ensure!(result == 0, "TUNSETPERSIST: {}", std::io::Error::last_os_error());
    Ok(())
}
