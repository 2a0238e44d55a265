//! The godwit hypervisor.
fn main() {}
