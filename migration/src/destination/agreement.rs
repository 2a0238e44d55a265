//! Whether what was built is what the source has, and how a refusal is told.

use crate::guest::{Prepared, Refusal};
use crate::wire::message::Description;

/// What the source has must be what was built.
pub(super) fn compare(description: &Description, prepared: &Prepared) -> Result<(), Refusal> {
    let theirs = &description.regions;
    let ours = &prepared.regions;
    let mut reasons = Vec::new();
    if theirs.len() != ours.len() {
        reasons.push(format!(
            "the source has {} regions of memory, and {} were built here",
            theirs.len(),
            ours.len()
        ));
    }
    for (their, our) in theirs.iter().zip(ours) {
        let our = our.layout();
        if (their.guest_address, their.size_bytes) != (our.guest_address, our.size_bytes) {
            reasons.push(format!(
                "the source has {} bytes of memory at {:#x}, and here it is {} bytes at {:#x}",
                their.size_bytes, their.guest_address, our.size_bytes, our.guest_address
            ));
        }
    }
    if reasons.is_empty() {
        Ok(())
    } else {
        Err(Refusal(reasons))
    }
}

/// Reasons as they fit into a frame.
pub(super) fn bounded(reasons: &[String]) -> Vec<String> {
    const REASONS: usize = 32;
    const CHARACTERS: usize = 400;
    reasons
        .iter()
        .take(REASONS)
        .map(|reason| reason.chars().take(CHARACTERS).collect())
        .collect()
}
