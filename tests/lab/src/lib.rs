//! What `cargo lab` is made of; integration tests use its parts.

pub mod bench;
pub mod payload;
