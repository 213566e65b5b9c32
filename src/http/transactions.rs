//! Transactions over HTTP, into a log that takes them itself (embedded mode).
//!
//! Promises: a line that is answered with a position would survive a power cut; a line that is not valid is not appended,
//! unless it was asked for as a dead letter; one result per line, in order. Requests are appended side by side, so that
//! the log writes many with one sync. Memory is bounded: so many requests at a time, of so many bytes. When the answer
//! does not arrive, it is unknown which lines were appended; sending them again is safe within their windows, because
//! a transaction id counts once.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::web::{self, Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::clock;
use crate::http::Options;
use crate::http::lines::{self, Accepts, Body};
use crate::http::parameters::Parameters;
use crate::http::ports::Ports;
use crate::http::problem::Problem;
use crate::http::token;
use crate::log::Ingest;

/// The largest body.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Requests under way: enough for the log to gather, and a bound on memory together with the size of a body.
pub const REQUESTS_MAX: usize = 16;
/// A client that sends slower than this gives its place to another one.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
const NDJSON: &str = "application/x-ndjson";

/// The places for requests under way.
#[derive(Clone)]
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(REQUESTS_MAX)))
    }
}

#[utoipa::path(
    post, path = "/api/v1/transactions", tag = "administration", summary = "Append transactions (embedded mode)",
    description = "One transaction per line (NDJSON), or a JSON array of them, at most 16 MiB. The answer has one \
                   IngestResult per line, in order; blank lines have none. A line that is not valid is rejected with the \
                   reason codes of dead letters, or with `record_too_large`. A position means that the record is durable.",
    params(("invalid" = Option<String>, Query, description = "`dead-letter`: append what is not valid as it is, so that \
                                                              the engine makes a dead letter of it")),
    request_body(content = String, content_type = "application/x-ndjson"),
    security(("token" = [])),
    responses(
        (status = 200, content_type = "application/x-ndjson", body = crate::http::lines::IngestResult),
        (status = 400, body = Problem, description = "A parameter is wrong, or the array is no JSON"),
        (status = 401, body = Problem, description = "Without the token, or none is configured"),
        (status = 404, body = Problem, description = "Transactions come from Kafka here"),
        (status = 408, body = Problem, description = "The body did not come in time"),
        (status = 413, body = Problem, description = "The body is too large"),
        (status = 415, body = Problem, description = "The body is compressed"),
        (status = 503, body = Problem, description = "The log is not open yet, cannot be written, or is busy"),
    )
)]
pub async fn append(
    request: HttpRequest,
    payload: Payload,
    ports: Data<Ports>,
    options: Data<Options>,
    places: Data<Places>,
) -> HttpResponse {
    match take_in(&request, payload, &ports, &options, &places).await {
        Ok(results) => HttpResponse::Ok().content_type(NDJSON).body(results),
        Err(problem) => problem.respond(),
    }
}

async fn take_in(
    request: &HttpRequest,
    payload: Payload,
    ports: &Ports,
    options: &Options,
    places: &Places,
) -> Result<Vec<u8>, Problem> {
    if !options.takes_transactions {
        let message = "this instance reads its transactions from Kafka; they are taken over HTTP in embedded mode only \
                       (source.kind = \"embedded\")";
        return Err(Problem::not_found("not_embedded", message));
    }
    token::check(request, options.admin_token.as_ref())?;
    let accepts = accepts(&Parameters::read(request.query_string(), &["invalid"])?)?;
    if request.headers().get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding.as_bytes() != b"identity") {
        return Err(Problem::unsupported("send the body without Content-Encoding"));
    }
    let ingest = ports.ingest().ok_or_else(|| Problem::unavailable("not_open", "the log is not open yet"))?;
    let busy = || Problem::unavailable("busy", format!("{REQUESTS_MAX} requests are under way already"));
    let place = Arc::clone(&places.0).try_acquire_owned().map_err(|_| busy())?;
    let body = receive(request, payload).await?;
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_lines = kind.is_some_and(|kind| kind.starts_with(NDJSON));
    let (ingest, skew) = (Arc::clone(ingest), options.max_future_skew);
    // Checking and writing: neither may hold up the thread that answers everybody else.
    let written = web::block(move || {
        // Given back when it is done, not when the client goes away meanwhile.
        let _place = place;
        let body = Body::read(&body, is_lines)?;
        lines::append(&body, accepts, skew, clock::wall_clock_ms(), ingest.as_ref() as &dyn Ingest)
    });
    written.await.map_err(|error| Problem::unavailable("stopping", error.to_string()))?
}

fn accepts(parameters: &Parameters) -> Result<Accepts, Problem> {
    match parameters.text("invalid") {
        None => Ok(Accepts::Valid),
        Some("dead-letter") => Ok(Accepts::Everything),
        Some(_) => Err(Problem::bad_parameter("invalid", "dead-letter, or left out")),
    }
}

async fn receive(request: &HttpRequest, payload: Payload) -> Result<Bytes, Problem> {
    let too_large = || Problem::too_large(format!("a body may have {BODY_BYTES_MAX} bytes; send several requests"));
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let received = timeout(BODY_PATIENCE, payload.to_bytes_limited(BODY_BYTES_MAX)).await;
    match received.map_err(|_| Problem::timed_out("the body did not come in time"))? {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(Problem::bad_request("broken_body", "the body cannot be read")),
        Err(_) => Err(too_large()),
    }
}
