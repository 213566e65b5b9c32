//! Committed alerts: the newest as a list, and new ones as a stream of server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::{Method, header};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::{interval, timeout};
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::wrappers::{BroadcastStream, IntervalStream};
use tokio_stream::{Stream, StreamExt, iter};
use utoipa::ToSchema;

use crate::http::alert_hub::{AlertHub, KEPT_MAX, LISTENERS_MAX, Listener, Reading};
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;
use crate::log::CommittedAlert;

const LIMIT_DEFAULT: usize = 100;
/// How long a request waits for the first reading of the topic.
const BEGINNING: Duration = Duration::from_secs(10);
/// Keeps proxies from closing a quiet stream.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The newest committed alerts.
#[derive(Serialize, ToSchema)]
pub struct AlertsAnswer {
    /// Newest first.
    alerts: Vec<AlertItem>,
    /// Why newer alerts may be missing; null when there is no reason.
    trouble: Option<String>,
}

/// One record of the alert topic.
#[derive(Serialize, ToSchema)]
pub struct AlertItem {
    partition: i32,
    offset: i64,
    /// Timestamp of the record, RFC 3339.
    detected_at: String,
    /// The record's value as it stands in the topic: `schemas/alert.v1.json`.
    #[schema(value_type = Object)]
    alert: Box<RawValue>,
}

/// What a slow client has missed.
#[derive(Serialize, ToSchema)]
pub struct Lagged {
    /// How many alerts; null when it is not known.
    missed: Option<u64>,
}

impl AlertItem {
    /// `None` for a record of somebody else that is not JSON.
    fn of(committed: &CommittedAlert) -> Option<Self> {
        let text = std::str::from_utf8(&committed.value).ok()?;
        let detected_at = DateTime::from_timestamp_millis(committed.timestamp_ms)?;
        Some(Self {
            partition: committed.partition,
            offset: committed.offset,
            detected_at: detected_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            alert: RawValue::from_string(text.trim().to_owned()).ok()?,
        })
    }
}

#[utoipa::path(
    get, path = "/api/v1/alerts", tag = "alerts", summary = "The newest committed alerts, newest first",
    params(("limit" = Option<usize>, Query, description = "1 to 1000, default 100")),
    responses(
        (status = 200, body = AlertsAnswer),
        (status = 400, body = Problem, description = "A parameter is wrong"),
        (status = 503, body = Problem, description = "The log is not open yet, or does not answer"),
    )
)]
pub async fn newest(request: HttpRequest, hub: Data<AlertHub>) -> HttpResponse {
    match list(&request, &hub).await {
        Ok(answer) => HttpResponse::Ok().json(answer),
        Err(problem) => problem.respond(),
    }
}

async fn list(request: &HttpRequest, hub: &AlertHub) -> Result<AlertsAnswer, Problem> {
    let limit = Parameters::read(request.query_string(), &["limit"])?.limit("limit", LIMIT_DEFAULT, KEPT_MAX)?;
    let trouble = begun(hub).await?;
    let alerts: Vec<_> = hub.newest(limit).iter().filter_map(|alert| AlertItem::of(alert)).collect();
    match trouble {
        Some(why) if alerts.is_empty() => Err(Problem::unavailable("alerts_unavailable", why)),
        trouble => Ok(AlertsAnswer { alerts, trouble }),
    }
}

/// Waits until what was there is read. Says what is the matter when new alerts do not come at the moment.
async fn begun(hub: &AlertHub) -> Result<Option<String>, Problem> {
    if !hub.start() {
        return Err(Problem::unavailable("not_open", "the log is not open yet"));
    }
    let mut reading = hub.reading();
    let began = timeout(BEGINNING, reading.wait_for(|reading| *reading != Reading::Beginning)).await;
    match began.ok().and_then(Result::ok).as_deref() {
        Some(Reading::Live) => Ok(None),
        Some(Reading::Failing(why)) => Ok(Some(why.clone())),
        Some(Reading::Beginning) | None => {
            Err(Problem::unavailable("alerts_unavailable", "the alert topic is still being read"))
        }
    }
}

#[utoipa::path(
    get, path = "/api/v1/alerts/stream", tag = "alerts", summary = "New committed alerts as server-sent events",
    description = "Event `alert` holds an AlertItem; its id is `partition-offset`. With `Last-Event-ID` the stream goes \
                   on behind that alert. Event `lagged` says that some were missed: because the client read too slowly, \
                   or because that alert is too old. At most 64 clients.",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was had")),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 400, body = Problem, description = "The header Last-Event-ID is wrong"),
        (status = 503, body = Problem, description = "The log is not open yet, or there are 64 clients"),
    )
)]
pub async fn stream(request: HttpRequest, hub: Data<AlertHub>) -> HttpResponse {
    if request.method() == Method::HEAD {
        return HttpResponse::Ok().content_type("text/event-stream").finish();
    }
    match listen(&request, &hub).await {
        Ok(listener) => HttpResponse::Ok()
            .content_type("text/event-stream")
            // A proxy that gathers the answer would hold alerts back.
            .insert_header(("x-accel-buffering", "no"))
            .streaming(events(listener)),
        Err(problem) => problem.respond(),
    }
}

async fn listen(request: &HttpRequest, hub: &AlertHub) -> Result<Listener, Problem> {
    Parameters::read(request.query_string(), &[])?;
    let after = match request.headers().get(header::HeaderName::from_static("last-event-id")) {
        None => None,
        Some(id) => {
            let id = id.to_str().ok().and_then(event_id);
            Some(id.ok_or_else(|| Problem::bad_parameter("Last-Event-ID", "partition-offset, such as 0-42"))?)
        }
    };
    // Before that, everything that was there would look new.
    if let Some(why) = begun(hub).await?
        && hub.newest(1).is_empty()
    {
        return Err(Problem::unavailable("alerts_unavailable", why));
    }
    let full = || Problem::unavailable("too_many_clients", format!("{LISTENERS_MAX} clients listen already"));
    hub.listen(after).ok_or_else(full)
}

fn event_id(text: &str) -> Option<(i32, i64)> {
    let (partition, offset) = text.split_once('-')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

/// The permit lives as long as the stream, which ends when the client goes.
fn events(listener: Listener) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let Listener { backlog, is_gap, news, permit } = listener;
    let gap = is_gap.then(|| lagged(None));
    // At once, so that the client knows that it is connected.
    let greeting = Bytes::from_static(b"retry: 2000\n: connected\n\n");
    let first = iter(std::iter::once(greeting).chain(gap).chain(backlog.into_iter().filter_map(|alert| event(&alert))));
    let then = BroadcastStream::new(news).filter_map(|news| match news {
        Ok(alert) => event(&alert),
        Err(BroadcastStreamRecvError::Lagged(missed)) => Some(lagged(Some(missed))),
    });
    let heartbeats = IntervalStream::new(interval(HEARTBEAT)).skip(1).map(|_| Bytes::from_static(b": still here\n\n"));
    first.chain(then.merge(heartbeats)).map(move |bytes| {
        let _held = &permit;
        Ok(bytes)
    })
}

fn event(alert: &Arc<CommittedAlert>) -> Option<Bytes> {
    let item = serde_json::to_string(&AlertItem::of(alert)?).ok()?;
    // JSON that was written by somebody else may hold line breaks between its parts, which would end the event's line.
    let item = item.replace(['\r', '\n'], " ");
    Some(Bytes::from(format!("event: alert\nid: {}-{}\ndata: {item}\n\n", alert.partition, alert.offset)))
}

fn lagged(missed: Option<u64>) -> Bytes {
    let lagged = serde_json::to_string(&Lagged { missed }).unwrap_or_default();
    Bytes::from(format!("event: lagged\ndata: {lagged}\n\n"))
}
