//! What the reader of a tap takes over from the host's network stack.

use std::fmt;
use std::ops::BitOr;

/// A set of offloads (`TUN_F_*` of `linux/if_tun.h`): what the host may leave
/// undone in the frames it hands to the tap's reader, described in the
/// virtio-net header (virtio 1.3 §5.1.6) of each frame.
///
/// These are the guest's receive features `VIRTIO_NET_F_GUEST_*`. Frames that
/// the guest sends carry their own header and need nothing set here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Offloads(u32);

impl Offloads {
    /// None: every frame is complete and no larger than the MTU.
    pub const NONE: Self = Self(0);
    /// Checksums may be left partial. All others need this one too.
    pub const CSUM: Self = Self(libc::TUN_F_CSUM);
    /// TCP over IPv4 in frames of up to 64 KiB.
    pub const TSO4: Self = Self(libc::TUN_F_TSO4);
    /// TCP over IPv6 in frames of up to 64 KiB.
    pub const TSO6: Self = Self(libc::TUN_F_TSO6);
    /// Large TCP frames may carry congestion marks; needs one of the TSO.
    pub const TSO_ECN: Self = Self(libc::TUN_F_TSO_ECN);
    /// UDP in large frames, fragmented by IP.
    pub const UFO: Self = Self(libc::TUN_F_UFO);
    /// UDP over IPv4 in large frames, segmented. Linux 6.2.
    pub const USO4: Self = Self(libc::TUN_F_USO4);
    /// UDP over IPv6 in large frames, segmented. Linux 6.2.
    pub const USO6: Self = Self(libc::TUN_F_USO6);

    const NAMES: [(Self, &'static str); 7] = [
        (Self::CSUM, "CSUM"),
        (Self::TSO4, "TSO4"),
        (Self::TSO6, "TSO6"),
        (Self::TSO_ECN, "TSO_ECN"),
        (Self::UFO, "UFO"),
        (Self::USO4, "USO4"),
        (Self::USO6, "USO6"),
    ];

    /// The bits as the kernel takes them.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether every offload of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The offloads of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set if `condition` holds, else none: to build a set from negotiated
    /// features.
    #[must_use]
    pub const fn when(self, condition: bool) -> Self {
        if condition { self } else { Self::NONE }
    }
}

impl BitOr for Offloads {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (_, name) in Self::NAMES.iter().filter(|(flag, _)| self.contains(*flag)) {
            write!(f, "{separator}{name}")?;
            separator = "|";
        }
        if *self == Self::NONE {
            f.write_str("NONE")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_combine_and_tell_what_they_contain() {
        let set = Offloads::CSUM | Offloads::TSO4 | Offloads::UFO.when(false);
        assert!(set.contains(Offloads::CSUM) && set.contains(Offloads::TSO4));
        assert!(!set.contains(Offloads::UFO));
        assert!(set.contains(Offloads::NONE));
    }

    #[test]
    fn sets_are_displayed_by_name() {
        assert_eq!(Offloads::NONE.to_string(), "NONE");
        assert_eq!((Offloads::TSO6 | Offloads::CSUM).to_string(), "CSUM|TSO6");
    }
}
