//! A loopback interface of our own: what crosses it is the migration, and nothing else.

use std::fs;
use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

/// Gives the calling thread, and what it starts from now on, a network of its own with nothing
/// but a loopback interface. It goes with the last process that has it.
///
/// # Errors
/// When the system refuses: only root may.
pub fn apart() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other("`ip link set lo up` failed"))
    }
}

/// Bytes that have crossed the loopback interface, with all headers and acknowledgements.
pub fn wire_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").ok()?;
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.trim_start().strip_prefix("lo:"))?;
    // Received and sent are the same here; the first is received bytes.
    line.split_whitespace().next()?.parse().ok()
}

/// Waits until somebody listens on `port`. Connecting to find out would be taken for the source.
///
/// # Errors
/// When nobody does in time.
pub fn wait_for_listener(port: u16, patience: Duration) -> io::Result<()> {
    let start = Instant::now();
    let port = format!(":{port:04X}");
    loop {
        for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            let text = fs::read_to_string(table).unwrap_or_default();
            let listening = |line: &str| {
                let mut fields = line.split_whitespace().skip(1);
                // Local address; the state after the remote one: 0A is LISTEN.
                fields.next().is_some_and(|local| local.ends_with(&port))
                    && fields.nth(1) == Some("0A")
            };
            if text.lines().any(listening) {
                return Ok(());
            }
        }
        if start.elapsed() > patience {
            let text = format!("nobody listens on port {port} after {patience:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        wait_for_listener(port, Duration::from_secs(5)).unwrap();
        drop(listener);
        wait_for_listener(port, Duration::from_millis(5)).unwrap_err();
    }
}
