//! A container's network counters, as the host's end of each network says.

use std::fs;

use sandbox_core::NetworkState;
use sandbox_core::stats::NetworkStats;

/// The counters of a network; nothing counted where the host has no end of its own. What the host sends the container
/// receives.
pub fn of(network: &NetworkState) -> NetworkStats {
    let Some(interface) = &network.interface else {
        return NetworkStats::default();
    };
    let counter = |name: &str| {
        let text = fs::read_to_string(format!("/sys/class/net/{interface}/statistics/{name}"));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    NetworkStats {
        received_frames: counter("tx_packets"),
        received_bytes: counter("tx_bytes"),
        sent_frames: counter("rx_packets"),
        sent_bytes: counter("rx_bytes"),
        dropped_frames: counter("rx_dropped") + counter("tx_dropped"),
    }
}
