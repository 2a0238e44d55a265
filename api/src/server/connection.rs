//! One connection: requests one after the other, each with its answer.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::EXPECT;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::Limits;
use super::answer::{self, Answer};
use super::exchange::{Exchange, MAX_FDS};
use super::stream::Stream;
use crate::error::{ApiError, ErrorKind};
use crate::handler::{Handler, Reply};
use crate::json::MAX_DOCUMENT_BYTES;
use crate::openapi;
use crate::router::{self, Call};

const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 64;

/// How much of a body that is too large is read to its end, so that the client
/// gets to read why.
const MAX_SKIPPED_BYTES: usize = 64 << 20;

/// What all connections share.
pub(super) struct Context {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) limits: Limits,
}

/// Serves until the client ends it or `stopped` turns true.
pub(super) async fn serve(
    socket: UnixStream,
    context: Rc<Context>,
    mut stopped: watch::Receiver<bool>,
) {
    let exchange = Rc::new(RefCell::new(Exchange::new()));
    let stream = Stream::new(socket, Rc::clone(&exchange), &context.limits);
    let service = service_fn(|request: Request<Incoming>| {
        // Now, and not when the future is first polled: the bytes that come
        // next are the body's.
        exchange
            .borrow_mut()
            .begin(request.body().size_hint().exact());
        let context = Rc::clone(&context);
        let exchange = Rc::clone(&exchange);
        async move {
            let answer = respond(request, &context, &exchange).await;
            exchange.borrow_mut().answered();
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .auto_date_header(false)
            .half_close(true)
            .keep_alive(true)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .title_case_headers(true)
            .serve_connection(stream, service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        _ = stopped.wait_for(|stopped| *stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "an API connection ended"
        );
    }
}

async fn respond(
    request: Request<Incoming>,
    context: &Context,
    exchange: &RefCell<Exchange>,
) -> Answer {
    let (parts, body) = request.into_parts();
    let expects = parts.headers.contains_key(EXPECT);
    let body = match read(body, expects, &context.limits).await {
        Ok(body) => body,
        // Where the next request begins is not known then.
        Err(error) => return answer::refused_for_good(&error),
    };
    let fds = exchange.borrow_mut().end();
    if fds.too_many {
        return answer::refused(&bad(format!(
            "more than {MAX_FDS} file descriptors came with the request, \
             or this process may open no more files"
        )));
    }
    let method = parts.method.as_str();
    let path = parts.uri.path();
    let call = Call {
        method,
        path,
        body: &body,
        fds: fds.fds,
    };
    let outcome = answer_to(call, context).await;
    outcome.unwrap_or_else(|error| {
        tracing::debug!(method, path, %error, "refused a request");
        answer::refused(&error)
    })
}

async fn answer_to(call: Call<'_>, context: &Context) -> Result<Answer, ApiError> {
    let routed = router::route(call)?;
    for problem in &routed.ignored {
        tracing::warn!(route = routed.route.name(), "ignored {problem}");
    }
    let Some(request) = routed.request else {
        return Ok(answer::document(openapi::bytes()));
    };
    let (reply, outcome) = Reply::pair();
    context.handler.handle(request, reply);
    let response = outcome.arrive().await?;
    Ok(answer::granted(routed.route, &response))
}

async fn read(mut body: Incoming, expects: bool, limits: &Limits) -> Result<Vec<u8>, ApiError> {
    let length = body.size_hint().lower();
    let too_large = || {
        bad(format!(
            "the body is larger than {} MiB",
            MAX_DOCUMENT_BYTES >> 20
        ))
    };
    if length > MAX_DOCUMENT_BYTES as u64 && (expects || length > MAX_SKIPPED_BYTES as u64) {
        return Err(too_large());
    }
    let deadline = Instant::now() + limits.body;
    let mut bytes = Vec::new();
    let mut total = 0usize;
    while let Some(frame) = timeout_at(deadline, timeout(limits.body_pause, body.frame()))
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or_else(|| {
            bad(format!(
                "the body did not come in time: {total} bytes of it did"
            ))
        })?
    {
        let data: Bytes = frame
            .map_err(|error| ApiError::of(ErrorKind::BadRequest, &error))?
            .into_data()
            .unwrap_or_default();
        total = total.saturating_add(data.len());
        if total > MAX_SKIPPED_BYTES {
            return Err(too_large());
        }
        if total <= MAX_DOCUMENT_BYTES {
            bytes.extend_from_slice(&data);
        }
    }
    if total > MAX_DOCUMENT_BYTES {
        return Err(too_large());
    }
    Ok(bytes)
}

fn bad(reason: String) -> ApiError {
    ApiError::new(ErrorKind::BadRequest, reason)
}
