//! What a card leaves to the one that takes its place.

use serde::{Deserialize, Serialize};

/// What the driver knows of the card beyond its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// The card's address. Drivers read it once: a card that is given another one has to have its guest told.
    pub mac: [u8; 6],
}
