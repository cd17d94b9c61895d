//! The contract that every sandbox backend keeps.

pub mod limits;
