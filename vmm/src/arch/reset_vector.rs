//! The code at the real-mode reset vector, f000:fff0.
//!
//! There is no firmware, but a kernel may still restart the machine by jumping to where
//! firmware would be: Linux does so on hardware-reduced ACPI without EFI, where it does
//! not try the ACPI reset register. What stands there resets the machine for it.

use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryError};

use super::layout;

/// The vector's 16 bytes: `mov dx, RESET_PORT; mov al, RESET_VALUE; out dx, al`, and
/// `hlt; jmp` for a processor that is still running then.
#[must_use]
pub fn code() -> [u8; 9] {
    let [low, high] = layout::RESET_PORT.to_le_bytes();
    [
        0xba,
        low,
        high, // mov dx, imm16
        0xb0,
        layout::RESET_VALUE, // mov al, imm8
        0xee,                // out dx, al
        0xf4,                // hlt
        0xeb,
        0xfd, // jmp to the hlt
    ]
}

/// Writes the code to [`layout::RESET_VECTOR`].
///
/// # Errors
///
/// When there is no RAM there.
pub fn write<M: GuestMemoryBackend>(memory: &M) -> Result<(), GuestMemoryError> {
    memory.write_slice(&code(), layout::RESET_VECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_ends_before_the_first_mebibyte_and_loops_on_its_halt() {
        let code = code();
        assert!(layout::RESET_VECTOR.0 + code.len() as u64 <= layout::MIB);
        // A short jump counts from its end.
        let back = usize::from(code[8].wrapping_neg());
        assert_eq!(code[code.len() - back], 0xf4);
    }
}
