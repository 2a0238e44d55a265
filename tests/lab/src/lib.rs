//! What `cargo lab` is made of; integration tests use its parts.

pub mod bench;
pub mod build;
pub mod command;
pub mod demo;
pub mod doctor;
pub mod host_tree;
pub mod image;
pub mod outer;
pub mod packages;
pub mod payload;
pub mod peer;
pub mod progress;
pub mod seam;
pub mod shell;
pub mod suite;
pub mod traffic;
pub mod workspace;
