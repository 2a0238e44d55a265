//! Method, path, body and descriptors to a [`Request`]: pure, and from one
//! table.
//!
//! Each line of [`ROUTES`] says all there is to know of a route; the OpenAPI
//! document is made from the same lines. What the peer has and godwit lacks is
//! a table too, so that its clients are told so rather than "not found".

mod absent;
mod body;
mod table;

use std::os::fd::OwnedFd;

use crate::error::{ApiError, ErrorKind};
use crate::json::FieldProblem;
use crate::request::Request;

pub use table::{Input, Method, Output, ROUTES, Route, SchemaOf};

/// What every route but `/metrics` and `/openapi.json` starts with.
pub const PREFIX: &str = "/api/v1/";

/// What a client sent, without its framing.
#[derive(Debug)]
pub struct Call<'a> {
    /// The method, as `PUT`.
    pub method: &'a str,
    /// The path, without a query.
    pub path: &'a str,
    /// The body; empty when there is none.
    pub body: &'a [u8],
    /// Descriptors that came with any part of it, in order.
    pub fds: Vec<OwnedFd>,
}

/// Where a call leads.
#[derive(Debug)]
pub struct Routed {
    /// The line of the table.
    pub route: &'static Route,
    /// What is asked for; `None` for what the interface answers itself.
    pub request: Option<Request>,
    /// Fields of the body that are not known, for the log.
    pub ignored: Vec<FieldProblem>,
}

/// Finds the route of a call and reads its body.
///
/// # Errors
///
/// [`ApiError`]: 404 for a path that is unknown, 400 for another method, for a
/// body or descriptors that do not fit, 500 for what godwit does not do.
pub fn route(call: Call<'_>) -> Result<Routed, ApiError> {
    let route = find(call.method, call.path)?;
    let mut body = body::Body::new(call.body, call.fds);
    let request = match &route.input {
        Input::None(make) => {
            body.nothing()?;
            Some(make())
        }
        Input::Json { read, .. } => Some(read(&mut body)?),
        Input::Own => {
            body.nothing()?;
            None
        }
    };
    Ok(Routed {
        route,
        request,
        ignored: body.into_ignored(),
    })
}

fn find(method: &str, path: &str) -> Result<&'static Route, ApiError> {
    let Some(route) = ROUTES.iter().find(|route| route.path == path) else {
        return Err(match absent::reason(path) {
            Some(reason) => ApiError::not_supported(reason),
            None => ApiError::new(ErrorKind::NotFound, unknown(path)),
        });
    };
    if route.method.as_str() != method {
        return Err(ApiError::new(
            ErrorKind::BadRequest,
            format!(
                "{path} is for {}, not for {}",
                route.method.as_str(),
                method.escape_debug()
            ),
        ));
    }
    Ok(route)
}

fn unknown(path: &str) -> String {
    let shown: String = path
        .chars()
        .take(128)
        .flat_map(char::escape_debug)
        .collect();
    let near = ROUTES
        .iter()
        .filter(|_| path.len() <= 64)
        .map(|route| {
            (
                strsim::normalized_damerau_levenshtein(path, route.path),
                route,
            )
        })
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, route)) => format!("no route {shown}; did you mean {}?", route.path),
        None => format!("no route {shown}; GET /openapi.json lists all"),
    }
}

#[cfg(test)]
mod tests;
