//! The port by which a bare guest says what it uses of its identity record, and that it has done so (see
//! [`crate::renewal`]). Four bytes at a time; other widths are ignored.

use std::sync::atomic::{AtomicU32, Ordering};

use super::PortEffect;
use crate::renewal::Parts;
use crate::renewal::record::SUBSCRIPTION;

/// What the guest has said; it may say something else at any time.
#[derive(Debug, Default)]
pub(super) struct IdentityPort {
    parts: AtomicU32,
}

impl IdentityPort {
    pub(super) fn write(&self, data: &[u8]) -> PortEffect {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return PortEffect::None;
        };
        if value & SUBSCRIPTION == 0 {
            return PortEffect::IdentityConfirmed(value);
        }
        self.subscribe(Parts(value & !SUBSCRIPTION));
        PortEffect::None
    }

    /// The parts that the guest uses.
    pub(super) fn parts(&self) -> Parts {
        Parts(self.parts.load(Ordering::Relaxed))
    }

    pub(super) fn subscribe(&self, parts: Parts) {
        self.parts.store(parts.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_and_confirmations_are_told_apart() {
        let port = IdentityPort::default();
        assert_eq!(port.write(&0x8000_0005_u32.to_le_bytes()), PortEffect::None);
        assert_eq!(port.parts(), Parts(5));
        assert_eq!(port.write(&7u32.to_le_bytes()), PortEffect::IdentityConfirmed(7));
        for other in [&[1][..], &[0; 2], &[0; 8], &[]] {
            assert_eq!(port.write(other), PortEffect::None);
        }
        assert_eq!(port.parts(), Parts(5));
    }
}
