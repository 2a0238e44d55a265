//! Descriptors that whoever started us left open.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over the descriptor `fd`: nobody else in this process may use it.
///
/// # Errors
/// It is not open.
pub fn take(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes any number; one that is not open is an error.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(
            error.kind(),
            format!("descriptor {fd} is not open: {error}"),
        ));
    }
    // SAFETY: it is open and was named on the command line for this one use, and
    // the caller opens nothing before.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
