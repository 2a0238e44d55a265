//! Names of network interfaces.

use super::TapError;

/// Checks that `name` can be the name of an interface: what the kernel's
/// `dev_valid_name` accepts, less `%`, which it would take for a pattern.
///
/// # Errors
/// [`TapError::Name`].
pub fn check_name(name: &str) -> Result<(), TapError> {
    let taken = |b: u8| matches!(b, b'/' | b':' | b'%' | 0) || b.is_ascii_whitespace() || b == 0x0b;
    if name.is_empty()
        || name.len() >= libc::IFNAMSIZ
        || matches!(name, "." | "..")
        || name.bytes().any(taken)
    {
        return Err(TapError::Name {
            name: name.to_owned(),
        });
    }
    Ok(())
}
