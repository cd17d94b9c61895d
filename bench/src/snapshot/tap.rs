//! Taps that are there before a clone is made, as a platform has them.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use sandbox::snapshot::NetworkOverride;
use sandbox::spec::TapSpec;
use sandbox_net::{LinkControl, LinkSettings, Tap};

use crate::clock::{self, Span};

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

/// The kernel's calls alone by which a restore comes to a tap that is there: opened, attached, made to speak virtio's
/// headers, and told which offloads the guest takes.
pub(super) fn attach_floor(tap: &NamedTap) -> Result<Span> {
    let header_size: libc::c_int = 12;
    let before = clock::now();
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all of it may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(tap.name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    let offloads = libc::c_ulong::from(libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6);
    // SAFETY: each request has the argument that the kernel defines for it, which lives for the call.
    let results = unsafe {
        [
            libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request),
            libc::ioctl(device.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header_size),
            libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, offloads),
        ]
    };
    let span = clock::now().since(before);
    ensure!(results == [0; 3], "{results:?}: {}", std::io::Error::last_os_error());
    Ok(span)
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
