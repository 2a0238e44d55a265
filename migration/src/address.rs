//! Where the other side listens: `tcp:host:port`, `tcp:[v6]:port`, `unix:path`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The address of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP address, and a port.
    Tcp {
        /// Name, IPv4 address, or IPv6 address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket in the file system.
    Unix(PathBuf),
}

/// The text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no migration address: {reason}; write tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH"
)]
pub struct ParseAddressError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| ParseAddressError {
            text: text.to_owned(),
            reason,
        })
    }
}

/// The longest path that fits into `sockaddr_un` with its final NUL (unix(7)).
const PATH_BYTES: usize = 107;

fn parse(text: &str) -> Result<Address, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.len() {
            0 => Err("the path is empty"),
            1..=PATH_BYTES if !path.contains('\0') => Ok(Address::Unix(path.into())),
            _ => Err("the path is longer than 107 bytes or holds a NUL"),
        };
    }
    let rest = text
        .strip_prefix("tcp:")
        .ok_or("it starts with neither tcp: nor unix:")?;
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("the bracket is not closed")?;
            let port = rest.strip_prefix(':').ok_or("the port is missing")?;
            host.parse::<std::net::Ipv6Addr>()
                .map_err(|_| "what is in brackets is no IPv6 address")?;
            (host, port)
        }
        None => rest.rsplit_once(':').ok_or("the port is missing")?,
    };
    if host.is_empty() {
        return Err("the host is empty");
    }
    if host.contains(':') && !rest.starts_with('[') {
        return Err("an IPv6 address wants brackets");
    }
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err("the port is no number");
    }
    let port = port.parse().map_err(|_| "the port is above 65535")?;
    Ok(Address::Tcp {
        host: host.to_owned(),
        port,
    })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_each_form() {
        for text in [
            "tcp:10.0.0.1:9000",
            "tcp:host.example:1",
            "tcp:[::1]:65535",
            "tcp:[fe80::1]:7",
            "unix:/run/x.sock",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_no_address_and_says_why() {
        for (text, reason) in [
            ("", "neither"),
            ("10.0.0.1:9000", "neither"),
            ("tcp:host", "port is missing"),
            ("tcp::9", "host is empty"),
            ("tcp:::1:9", "brackets"),
            ("tcp:[::1:9", "not closed"),
            ("tcp:[::1]9", "port is missing"),
            ("tcp:[host]:9", "no IPv6"),
            ("tcp:h:", "no number"),
            ("tcp:h:+9", "no number"),
            ("tcp:h:65536", "above 65535"),
            ("unix:", "empty"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(long.parse::<Address>().is_err());
    }
}
