//! The contract that every sandbox backend keeps.
