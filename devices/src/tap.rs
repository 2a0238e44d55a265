//! TAP interfaces.
