//! The godwit hypervisor: the machine itself, on KVM.
//!
//! Data flows one way:
//!
//! ```text
//! JSON -> godwit_api::config (dumb wire types)
//!      -> spec    (valid by construction)
//!      -> builder (numbered short steps)
//!      -> machine (live)
//! ```
//!
//! What comes back up are values; nothing below holds a pointer upward.

pub mod arch;
pub mod boot;
pub mod spec;
