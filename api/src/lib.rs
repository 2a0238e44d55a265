//! JSON types of the godwit hypervisor.
//!
//! | module | one responsibility |
//! |---|---|
//! | [`config`] | the machine as asked for: dumb wire types, no behaviour |
//! | [`json`] | one reader for every JSON document that comes from outside |
#![forbid(unsafe_code)]

pub mod config;
pub mod json;
