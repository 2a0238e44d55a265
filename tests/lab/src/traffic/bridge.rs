//! A bridge with taps for guests, and a port for the sender.
//!
//! ```text
//! sender ── gwport ═veth═ gwleg ── gwbr ── taps
//! ```

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::command::{self, CommandError};

/// The sender's end.
pub const PORT: &str = "gwport";

const LEG: &str = "gwleg";
const BRIDGE: &str = "gwbr";

/// Interfaces that are removed when this is dropped.
#[derive(Debug)]
pub struct Bridge {
    taps: Vec<String>,
}

impl Bridge {
    /// Makes them; `multi_queue` as the guest's device wants its tap.
    ///
    /// # Errors
    /// When `ip` refuses: without the right, or when they are there.
    pub fn new(taps: &[&str], multi_queue: bool) -> Result<Self, CommandError> {
        ip(&[
            "link",
            "add",
            BRIDGE,
            "type",
            "bridge",
            "forward_delay",
            "0",
            "stp_state",
            "0",
            "mcast_snooping",
            "0",
        ])?;
        let mut bridge = Self { taps: Vec::new() };
        ip(&["link", "add", PORT, "type", "veth", "peer", "name", LEG])?;
        for tap in taps {
            let mut add = vec!["tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr"];
            add.extend(multi_queue.then_some("multi_queue"));
            ip(&add)?;
            bridge.taps.push((*tap).to_owned());
        }
        for port in [LEG].iter().chain(taps) {
            ip(&["link", "set", port, "master", BRIDGE])?;
        }
        for interface in [BRIDGE, PORT, LEG].iter().chain(taps) {
            // Neighbour discovery is traffic that nobody asked for.
            let _ = fs::write(
                format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"),
                "1",
            );
            ip(&["link", "set", interface, "up"])?;
        }
        Ok(bridge)
    }

    /// Gives the sender's end an address.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn address(&self, address: &str) -> Result<(), CommandError> {
        ip(&["addr", "add", address, "dev", PORT])
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for tap in &self.taps {
            let _ = ip(&["link", "delete", tap]);
        }
        let _ = ip(&["link", "delete", PORT]);
        let _ = ip(&["link", "delete", BRIDGE]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), CommandError> {
    let mut ip = Command::new("ip");
    ip.args(arguments);
    command::succeed(ip, Duration::from_secs(30)).map(|_| ())
}
