//! The JSON types and the REST interface of the godwit hypervisor.
//!
//! ```text
//! bytes ─ server ─ router ─> Request ─> Handler (the machine)
//!            ^                              │
//!            └────── Response, ApiError <───┘
//! ```
//!
//! | module | one responsibility |
//! |---|---|
//! | [`config`] | the machine as asked for: dumb wire types, no behaviour |
//! | [`json`] | one reader for every JSON document that comes from outside, one writer for what goes out |
//! | [`request`] | what can be asked for: one variant for each route |
//! | [`response`] | what is answered |
//! | [`error`] | a refusal: kind, status and chain of reasons |
//! | [`router`] | method, path and body to a request: pure, one table |
//! | [`handler`] | the seam to the machine: a request goes in, an answer comes back whenever it is ready |
//! | [`server`] | HTTP on a Unix socket, on a thread of its own |
//! | [`events`] | what happens to a machine, told without waiting for who listens |
//! | [`metrics`] | figures as text for Prometheus |
//! | [`openapi`] | the document made from types and routes |
//! | [`client`] | a small client, for `godwit ctl` and tests |
#![forbid(unsafe_code)]

pub mod client;
pub mod config;
pub mod error;
pub mod events;
pub mod handler;
pub mod json;
pub mod metrics;
pub mod openapi;
pub mod request;
pub mod response;
pub mod router;
pub mod server;
