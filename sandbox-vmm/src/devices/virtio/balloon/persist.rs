//! What a balloon leaves to the one that takes its place.

use serde::{Deserialize, Serialize};

/// What the driver knows of the balloon beyond its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonState {
    /// Pages of 4096 bytes that it should hold.
    pub target: u32,
    /// Pages that it holds, by the driver's word.
    pub actual: u32,
    /// The statistics buffer that is kept until new ones are wanted: the head of its chain.
    pub held_statistics: Option<u16>,
}
