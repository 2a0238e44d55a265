//! A client of the REST API: one request on a connection of its own.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Longest answer taken: nothing here answers more than a page of JSON.
const BODY_MAX: u64 = 4 << 20;

/// A status other than success, with what the body says.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// The socket.
    #[error("{route}: the API's socket failed")]
    Socket {
        /// The route.
        route: String,
        /// The reason.
        source: io::Error,
    },
    /// A refusal.
    #[error("{route}: {status} {body}")]
    Status {
        /// The route.
        route: String,
        /// The status.
        status: u16,
        /// The body, as it came.
        body: String,
    },
}

/// Asks `GET` without a body and `PUT` with one; gives the body, null when there is none.
///
/// # Errors
/// See [`RestError`].
pub fn request(
    socket: &Path,
    method: &str,
    route: &str,
    body: Option<&Value>,
    patience: Duration,
) -> Result<Value, RestError> {
    let failed = |source| RestError::Socket {
        route: route.to_owned(),
        source,
    };
    let (status, text) = exchange(socket, method, route, body, patience).map_err(failed)?;
    if !(200..300).contains(&status) {
        return Err(RestError::Status {
            route: route.to_owned(),
            status,
            body: text,
        });
    }
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).map_err(|error| failed(io::Error::other(error)))
}

fn exchange(
    socket: &Path,
    method: &str,
    route: &str,
    body: Option<&Value>,
    patience: Duration,
) -> io::Result<(u16, String)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut request =
        format!("{method} /api/v1/{route} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n");
    if method != "GET" {
        request.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ));
    }
    request.push_str("\r\n");
    request.push_str(&body);
    (&stream).write_all(request.as_bytes())?;
    answer(&mut BufReader::new(stream))
}

fn answer(reader: &mut impl BufRead) -> io::Result<(u16, String)> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    // Nothing but headers comes before the body: more than this is not an answer.
    let mut reader = reader.take(64 << 10);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    // The reason phrase may be empty.
    let status = line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| wrong("no HTTP/1.1 status line"))?;
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = line.trim_end();
        if header.is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else {
            return Err(wrong("a header without a colon"));
        };
        if name.eq_ignore_ascii_case("content-length") {
            let value = value.trim().parse::<u64>();
            length = value.map_err(|_| wrong("Content-Length is no number"))?;
        }
    }
    if length > BODY_MAX {
        return Err(wrong("the body is too long"));
    }
    let mut text = String::new();
    reader.set_limit(length);
    reader.read_to_string(&mut text)?;
    if (text.len() as u64) < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((status, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> io::Result<(u16, String)> {
        answer(&mut text.as_bytes())
    }

    #[test]
    fn answers_with_and_without_bodies_and_reasons() {
        let text = "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}more";
        assert_eq!(parsed(text).unwrap(), (200, "{}".to_owned()));
        assert_eq!(
            parsed("HTTP/1.1 204 \r\n\r\n").unwrap(),
            (204, String::new())
        );
        let text = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 5\r\n\r\n[\"a\"]";
        assert_eq!(parsed(text).unwrap(), (500, "[\"a\"]".to_owned()));
    }

    #[test]
    fn wrong_answers_are_errors() {
        for text in [
            "",
            "SSH-2.0\r\n",
            "HTTP/1.1 200 \r\nContent-Length: 20\r\n\r\n{}",
            "HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 \r\nContent-Length: 99999999999\r\n\r\n",
            "HTTP/1.1 200 \r\nContent",
        ] {
            assert!(parsed(text).is_err(), "{text:?}");
        }
    }
}
