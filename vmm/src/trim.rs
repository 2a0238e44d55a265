//! Giving back the pages of code that only the start needed.
//!
//! The kernel maps sixteen pages for each one that is run, so that a start that
//! passes through all of the program maps most of it. Unmapped once, what is used
//! later comes back from the page cache, and the rest does not count as this
//! process's memory any more.

use std::fs;
use std::ops::Range;
use std::thread;
use std::time::Duration;

/// How long the code stays: the guest's first accesses are not to wait for it.
const PAUSE: Duration = Duration::from_millis(50);

/// Unmaps this program's code after a pause, to be mapped again page by page as it
/// is run.
pub(crate) fn startup_code() {
    thread::sleep(PAUSE);
    unmap_code();
}

fn unmap_code() {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else {
        return;
    };
    let here = (unmap_code as fn()) as usize;
    if let Some(code) = maps
        .lines()
        .filter_map(code)
        .find(|code| code.contains(&here))
    {
        // SAFETY: the range is one private mapping of the program's file that is
        // executable and not writable, so that no page of it was ever changed:
        // the file holds what the next access needs (madvise(2), MADV_DONTNEED).
        let rc = unsafe { libc::madvise(code.start as *mut _, code.len(), libc::MADV_DONTNEED) };
        if rc != 0 {
            let error = std::io::Error::last_os_error();
            tracing::debug!("Code that is not needed any more stays mapped: {error}");
        }
    }
}

/// The range of a line of `/proc/self/maps`, if it is code (proc(5)).
fn code(line: &str) -> Option<Range<usize>> {
    let mut words = line.split(' ');
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    (words.next()? == "r-xp").then_some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_is_executable_and_private() {
        let line = |access| format!("1000-3000 {access} 00000000 fe:00 1 /bin/godwit");
        assert_eq!(code(&line("r-xp")), Some(0x1000..0x3000));
        for access in ["rwxp", "r--p", "r-xs", "rw-p"] {
            assert_eq!(code(&line(access)), None);
        }
        assert_eq!(code("no map"), None);
    }

    #[test]
    fn code_runs_after_it_was_given_back() {
        unmap_code();
        assert_eq!("21".parse::<u32>().map(|n| n * 2), Ok(42));
    }
}
