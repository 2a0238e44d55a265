//! Where a migration goes to or comes from.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One end of a migration: `tcp:<host>:<port>`, `tcp:[<IPv6>]:<port>` or
/// `unix:<path>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// A host and a port.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port, not 0.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why a text is no [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{got:?} is no migration endpoint: {reason}; write tcp:<host>:<port>, tcp:[<IPv6>]:<port> or unix:<path>"
)]
pub struct EndpointError {
    got: String,
    reason: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = |reason| EndpointError {
            got: text.chars().take(128).collect(),
            reason,
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(error("the path is missing")),
                path => Ok(Self::Unix(PathBuf::from(path))),
            };
        }
        let Some(rest) = text.strip_prefix("tcp:") else {
            return Err(error("it starts with neither tcp: nor unix:"));
        };
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => rest
                .split_once("]:")
                .ok_or_else(|| error("\"]:\" and a port must end the address"))?,
            None => rest
                .rsplit_once(':')
                .ok_or_else(|| error("the port is missing"))?,
        };
        if host.is_empty() {
            return Err(error("the host is missing"));
        }
        if host.contains(['[', ']']) || host.contains(':') != rest.starts_with('[') {
            return Err(error("an IPv6 address, and nothing else, is in brackets"));
        }
        // A sign, which parse would take, or a leading zero are slips.
        match port.parse() {
            Ok(number) if port.starts_with(|c: char| ('1'..='9').contains(&c)) => Ok(Self::Tcp {
                host: host.to_owned(),
                port: number,
            }),
            _ => Err(error("the port is not from 1 to 65535")),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The same in a regular expression.
const PATTERN: &str = concat!(
    r"^(tcp:([^:\[\]]+|\[[^\[\]]*:[^\[\]]*\])",
    r":([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])",
    r"|unix:[^\n]+)$"
);

impl JsonSchema for Endpoint {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "One end of a migration: `tcp:<host>:<port>`, `tcp:[<IPv6>]:<port>` or `unix:<path>`.",
            "pattern": PATTERN,
            "examples": ["tcp:192.0.2.1:4444", "unix:/run/godwit/migration.sock"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_written_alike() {
        for text in [
            "tcp:192.0.2.1:4444",
            "tcp:host.example:1",
            "tcp:[2001:db8::1]:65535",
            "unix:/run/m.sock",
            "unix:relative",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_says_what_is_wrong() {
        for (text, reason) in [
            ("", "neither tcp: nor unix:"),
            ("file:///x", "neither tcp: nor unix:"),
            ("unix:", "the path is missing"),
            ("tcp:host", "the port is missing"),
            ("tcp::1", "the host is missing"),
            ("tcp:host:0", "from 1 to 65535"),
            ("tcp:host:65536", "from 1 to 65535"),
            ("tcp:host:+1", "from 1 to 65535"),
            ("tcp:ho]st:1", "in brackets"),
            ("tcp:[[::1]:1", "in brackets"),
            ("tcp:host:", "from 1 to 65535"),
            ("tcp:::1:4444", "in brackets"),
            ("tcp:[host]:4444", "in brackets"),
            ("tcp:[::1", "must end the address"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
