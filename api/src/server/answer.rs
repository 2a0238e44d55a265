//! An outcome to the answer on the wire.
//!
//! - The status line has no reason phrase: a client of the peer reads all that
//!   follows the version as one number.
//! - `Content-Length` is there, in this capitalisation, but for 204; nothing
//!   is chunked. (hyper does it, since each body is whole and its builder is
//!   told to capitalise.)
//! - Bodies are ASCII.

use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};

use crate::error::{ApiError, ErrorKind};
use crate::json;
use crate::response::Response;
use crate::router::{Output, Route};

/// An answer as hyper takes it.
pub(super) type Answer = hyper::Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4");

/// The answer to a request that was granted.
pub(super) fn granted(route: &Route, response: &Response) -> Answer {
    let body = match response {
        Response::Done => {
            return match route.output {
                Output::Empty => answer(200, None, Vec::new()),
                _ => answer(204, None, Vec::new()),
            };
        }
        Response::Text(text) => return answer(200, Some(PROMETHEUS), ascii(text)),
        Response::Ping(ping) => json::to_ascii(ping),
        Response::Info(info) => json::to_ascii(info),
        Response::Counters(counters) => json::to_ascii(counters),
        Response::DeviceAdded(device) => json::to_ascii(device),
        Response::Progress(progress) => json::to_ascii(progress),
    };
    match body {
        Ok(body) => answer(200, Some(JSON), body),
        Err(error) => refused(
            &ApiError::of(ErrorKind::Internal, &error).during("cannot write the answer as JSON"),
        ),
    }
}

/// An answer that is JSON already.
pub(super) fn document(body: &'static [u8]) -> Answer {
    answer(200, Some(JSON), body)
}

/// The answer to a request that was refused.
pub(super) fn refused(error: &ApiError) -> Answer {
    answer(error.kind().status(), Some(JSON), chain(error))
}

/// The same, after which the connection is closed.
pub(super) fn refused_for_good(error: &ApiError) -> Answer {
    let mut answer = refused(error);
    answer
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// The whole answer, after which the connection is closed, in bytes.
pub(super) fn refused_in_bytes(error: &ApiError) -> Vec<u8> {
    let body = chain(error);
    let mut bytes = format!(
        "HTTP/1.1 {} \r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        error.kind().status(),
        body.len()
    )
    .into_bytes();
    bytes.extend(body);
    bytes
}

/// What to write in place of hyper's own answer to bytes that are no request.
///
/// `None` when this is none of those: they have a reason phrase, which no
/// answer of ours has.
pub(super) fn in_place_of_refusal(answer: &[u8]) -> Option<Vec<u8>> {
    let status = answer.strip_prefix(b"HTTP/1.1 ")?;
    if !status.starts_with(b"4") || status.get(4) == Some(&b'\r') {
        return None;
    }
    let reason = match status.get(..3)? {
        b"431" => "the headers are too large or too many",
        b"414" => "the path is too long",
        _ => "this is no HTTP/1.1 request",
    };
    Some(refused_in_bytes(&ApiError::new(
        ErrorKind::BadRequest,
        reason,
    )))
}

/// What to write in place of hyper's interim answer to `Expect`, and what may
/// follow it.
pub(super) fn in_place_of_interim(answer: &[u8]) -> Option<Vec<u8>> {
    let rest = answer.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    Some([b"HTTP/1.1 100 \r\n\r\n", rest].concat())
}

fn chain(error: &ApiError) -> Vec<u8> {
    // Strings and a list: there is nothing in it that JSON lacks.
    json::to_ascii(error.chain()).unwrap_or_else(|_| b"[]".to_vec())
}

fn ascii(text: &str) -> Vec<u8> {
    // Metrics are, and they are long.
    if text.is_ascii() {
        return text.as_bytes().to_vec();
    }
    text.chars()
        .map(|c| u8::try_from(c).ok().filter(u8::is_ascii).unwrap_or(b'?'))
        .collect()
}

fn answer(status: u16, content_type: Option<HeaderValue>, body: impl Into<Bytes>) -> Answer {
    let mut answer = hyper::Response::new(Full::new(body.into()));
    *answer.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
        .extensions_mut()
        .insert(ReasonPhrase::from_static(b""));
    if let Some(content_type) = content_type {
        answer.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    answer
}
