//! What the card is like, and what that means in features and in the configuration space.

use sandbox_core::limits::RateLimit;
use sandbox_net::Offloads;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::{HEADER_SIZE, MAX_FRAME_SIZE};

/// `struct virtio_net_config` as far as its fields are offered: mac, status, max_virtqueue_pairs, mtu (§5.1.4).
const CONFIG_SPACE_SIZE: usize = 12;
const MTU_OFFSET: usize = 10;
/// Ethernet header and one VLAN tag, in bytes.
const ETHERNET_OVERHEAD: usize = 18;
/// MTU of an Ethernet where none is given, in bytes.
const DEFAULT_MTU: u16 = 1500;

/// Each offload, with the feature by which the driver may leave the work to the host, and the one by which the host
/// may leave it to the driver.
const OFFLOAD_FEATURES: [(Offloads, u32, u32); 5] = [
    (Offloads::CSUM, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM),
    (Offloads::TSO4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4),
    (Offloads::TSO6, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6),
    (Offloads::TSO_ECN, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_ECN),
    (Offloads::UFO, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_GUEST_UFO),
];

/// A network card.
#[derive(Clone, Copy, Debug)]
pub struct NetConfig {
    /// The card's address, octets in the order they are sent.
    pub mac: [u8; 6],
    /// The MTU that the driver is told, in bytes; its own choice if left out.
    pub mtu: Option<u16>,
    /// What may be offloaded in either direction: only what the tap was found to take. USO has no feature here.
    pub offloads: Offloads,
    /// Limits of what the guest receives, in bytes and frames, virtio-net headers not counted.
    pub rx_limit: RateLimit,
    /// Limits of what the guest sends.
    pub tx_limit: RateLimit,
}

impl NetConfig {
    /// A card with checksum and TCP segmentation offloads, which every supported host kernel has, and no limits.
    pub fn new(mac: [u8; 6]) -> Self {
        Self {
            mac,
            mtu: None,
            offloads: Offloads::CSUM | Offloads::TSO4 | Offloads::TSO6,
            rx_limit: RateLimit::default(),
            tx_limit: RateLimit::default(),
        }
    }

    /// The features offered.
    pub(super) fn features(&self) -> u64 {
        let mut features = bit(VIRTIO_NET_F_MAC)
            | bit(VIRTIO_NET_F_MRG_RXBUF)
            | bit(VIRTIO_RING_F_EVENT_IDX)
            | bit(VIRTIO_RING_F_INDIRECT_DESC);
        if self.mtu.is_some() {
            features |= bit(VIRTIO_NET_F_MTU);
        }
        for (offload, host, guest) in OFFLOAD_FEATURES {
            if self.offloads.contains(offload) {
                features |= bit(host) | bit(guest);
            }
        }
        features
    }

    /// The configuration space.
    pub(super) fn config_space(&self) -> [u8; CONFIG_SPACE_SIZE] {
        let mut space = [0; CONFIG_SPACE_SIZE];
        space[..self.mac.len()].copy_from_slice(&self.mac);
        space[MTU_OFFSET..].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        space
    }

    /// What the host may leave undone for a driver that accepted `features`.
    pub(super) fn driver_offloads(features: u64) -> Offloads {
        let accepted = |feature| features & bit(feature) != 0;
        // All others need the checksum (§5.1.3.1). The kernel refuses a set without it.
        if !accepted(VIRTIO_NET_F_GUEST_CSUM) {
            return Offloads::NONE;
        }
        let segmentation = Offloads::TSO4.when(accepted(VIRTIO_NET_F_GUEST_TSO4))
            | Offloads::TSO6.when(accepted(VIRTIO_NET_F_GUEST_TSO6));
        Offloads::CSUM
            | segmentation
            | Offloads::TSO_ECN.when(accepted(VIRTIO_NET_F_GUEST_ECN) && segmentation != Offloads::NONE)
            | Offloads::UFO.when(accepted(VIRTIO_NET_F_GUEST_UFO))
    }

    /// The longest frame, header included, that the host hands over with `offloads`.
    pub(super) fn longest_received_frame(&self, offloads: Offloads) -> usize {
        match offloads == Offloads::NONE || offloads == Offloads::CSUM {
            true => HEADER_SIZE + ETHERNET_OVERHEAD + usize::from(self.mtu.unwrap_or(DEFAULT_MTU)),
            false => MAX_FRAME_SIZE,
        }
    }
}

/// The mask of a feature bit.
pub(super) fn bit(feature: u32) -> u64 {
    1 << feature
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offload_that_the_tap_lacks_is_not_offered() {
        let mut config = NetConfig::new([2, 0, 0, 0, 0, 1]);
        config.offloads = Offloads::CSUM;
        assert_eq!(config.features() & bit(VIRTIO_NET_F_HOST_TSO4), 0);
        assert_ne!(config.features() & bit(VIRTIO_NET_F_CSUM), 0);
        assert_eq!(config.features() & bit(VIRTIO_NET_F_MTU), 0);
    }

    #[test]
    fn the_host_may_leave_undone_only_what_the_driver_accepted() {
        let csum = bit(VIRTIO_NET_F_GUEST_CSUM);
        let (tso4, ecn) = (bit(VIRTIO_NET_F_GUEST_TSO4), bit(VIRTIO_NET_F_GUEST_ECN));
        assert_eq!(NetConfig::driver_offloads(tso4), Offloads::NONE);
        assert_eq!(NetConfig::driver_offloads(csum | ecn), Offloads::CSUM);
        let all = Offloads::CSUM | Offloads::TSO4 | Offloads::TSO_ECN;
        assert_eq!(NetConfig::driver_offloads(csum | tso4 | ecn), all);
    }

    #[test]
    fn frames_grow_with_the_mtu_and_with_segmentation() {
        let mut config = NetConfig::new([2, 0, 0, 0, 0, 1]);
        assert_eq!(config.longest_received_frame(Offloads::NONE), 1530);
        config.mtu = Some(9000);
        assert_eq!(config.longest_received_frame(Offloads::CSUM), 9030);
        assert_eq!(config.longest_received_frame(Offloads::CSUM | Offloads::TSO6), 65_562);
        assert_eq!(config.config_space(), [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x28, 0x23]);
    }
}
