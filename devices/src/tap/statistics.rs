//! What passed through an interface, as the kernel counts it.

use std::io;

/// Packets, bytes and drops of an interface, in the host's sense: received is
/// what came out of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes that the host received.
    pub rx_bytes: u64,
    /// Packets that the host received.
    pub rx_packets: u64,
    /// Packets that the host received and dropped.
    pub rx_dropped: u64,
    /// Bytes that the host sent.
    pub tx_bytes: u64,
    /// Packets that the host sent.
    pub tx_packets: u64,
    /// Packets that the host dropped instead, such as when the guest took none.
    pub tx_dropped: u64,
}

/// Those of an interface of this thread's network namespace.
pub(super) fn of(name: &str) -> io::Result<Statistics> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    find(&text, name).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Each line is `name: bytes packets errs drop fifo frame compressed multicast`
/// for what was received, and the same in eight fields for what was sent
/// (proc_pid_net(5)).
fn find(text: &str, name: &str) -> Option<Statistics> {
    let line = text.lines().find_map(|line| {
        let (of, fields) = line.split_once(':')?;
        (of.trim() == name).then_some(fields)
    })?;
    let mut fields = [0; 12];
    let mut words = line.split_ascii_whitespace();
    for field in &mut fields {
        *field = words.next()?.parse().ok()?;
    }
    let [
        rx_bytes,
        rx_packets,
        _,
        rx_dropped,
        _,
        _,
        _,
        _,
        tx_bytes,
        tx_packets,
        _,
        tx_dropped,
    ] = fields;
    Some(Statistics {
        rx_bytes,
        rx_packets,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_dropped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let text = "Inter-|   Receive   |  Transmit\n face |bytes packets|bytes packets\n\
                    tap10: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n\
                     tap1:100 2 3 4 5 6 7 8 900 10 11 12 13 14 15 16\n  lo: 1 2\n";
        let expected = Statistics {
            rx_bytes: 100,
            rx_packets: 2,
            rx_dropped: 4,
            tx_bytes: 900,
            tx_packets: 10,
            tx_dropped: 12,
        };
        assert_eq!(find(text, "tap1"), Some(expected));
        assert_eq!(find(text, "tap2"), None);
        assert_eq!(find(text, "lo"), None, "too short");
        assert!(of("lo").is_ok());
    }
}
