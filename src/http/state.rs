//! Partitions, statistics and checkpoints.

use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock;
use crate::domain::ids::{Offset, PartitionId};
use crate::http::Options;
use crate::http::parameters::Parameters;
use crate::http::ports::{Checkpoints, NotBegun, Ports};
use crate::http::problem::Problem;
use crate::http::token;
use crate::observe::report::PartitionReport;
use crate::observe::status::StatusBoard;
use crate::state::CheckpointInfo;
use crate::stats::OrderStatsRow;

const HOUR_MS: i64 = 3_600_000;
const ROWS_DEFAULT: usize = 1_000;
const ROWS_MAX: usize = 10_000;

/// The owned partitions.
#[derive(Serialize, ToSchema)]
pub struct PartitionsAnswer {
    /// Ascending.
    partitions: Vec<PartitionReport>,
}

#[utoipa::path(
    get, path = "/api/v1/partitions", tag = "state", summary = "The partitions that this instance owns",
    responses((status = 200, body = PartitionsAnswer), (status = 400, body = Problem, description = "A parameter is wrong"))
)]
pub async fn partitions(request: HttpRequest, board: Data<StatusBoard>) -> HttpResponse {
    match Parameters::read(request.query_string(), &[]) {
        Ok(_) => HttpResponse::Ok().json(PartitionsAnswer { partitions: board.snapshot().partitions }),
        Err(problem) => problem.respond(),
    }
}

/// Rows of the view `order_stats`.
#[derive(Serialize, ToSchema)]
pub struct StatsAnswer {
    /// Window starts from this time on, RFC 3339.
    from: String,
    /// Window starts before this time, RFC 3339.
    to: String,
    /// By window start, merchant and currency.
    rows: Vec<OrderStatsRow>,
    /// There are more rows than `limit`.
    truncated: bool,
}

#[utoipa::path(
    get, path = "/api/v1/stats", tag = "state", summary = "Order statistics per minute, merchant and currency",
    params(
        ("from" = Option<String>, Query, description = "RFC 3339; default an hour before `to`"),
        ("to" = Option<String>, Query, description = "RFC 3339, exclusive; default now"),
        ("limit" = Option<usize>, Query, description = "1 to 10000, default 1000"),
    ),
    responses(
        (status = 200, body = StatsAnswer),
        (status = 400, body = Problem, description = "A parameter is wrong"),
        (status = 404, body = Problem, description = "Statistics are off"),
        (status = 503, body = Problem, description = "The database does not answer"),
    )
)]
pub async fn stats(request: HttpRequest, ports: Data<Ports>, board: Data<StatusBoard>) -> HttpResponse {
    match order_stats(&request, &ports, &board).await {
        Ok(answer) => HttpResponse::Ok().json(answer),
        Err(problem) => problem.respond(),
    }
}

async fn order_stats(request: &HttpRequest, ports: &Ports, board: &StatusBoard) -> Result<StatsAnswer, Problem> {
    let parameters = Parameters::read(request.query_string(), &["from", "to", "limit"])?;
    let limit = parameters.limit("limit", ROWS_DEFAULT, ROWS_MAX)?;
    let to_ms = parameters.time_ms("to")?.unwrap_or_else(clock::wall_clock_ms);
    let from_ms = parameters.time_ms("from")?.unwrap_or(to_ms - HOUR_MS);
    if from_ms >= to_ms {
        return Err(Problem::bad_parameter("from", "before `to`, which is now when it is not given"));
    }
    if !board.snapshot().statistics.enabled {
        return Err(Problem::not_found("statistics_off", "statistics are off (stats.enabled = false)"));
    }
    let not_open = || Problem::unavailable("not_open", "the log is not open yet");
    let statistics = ports.statistics().ok_or_else(not_open)?;
    // One more than asked for, to see whether there are more.
    let rows = statistics.order_stats(from_ms, to_ms, limit + 1).await;
    let mut rows = rows.map_err(|why| Problem::unavailable("database_unavailable", why))?;
    let truncated = rows.len() > limit;
    rows.truncate(limit);
    Ok(StatsAnswer { from: rfc3339(from_ms), to: rfc3339(to_ms), rows, truncated })
}

/// The local snapshots.
#[derive(Serialize, ToSchema)]
pub struct CheckpointsAnswer {
    /// The retained ones, newest first.
    checkpoints: Vec<CheckpointItem>,
    /// How many are retained at most (`checkpoint.retain`).
    retain: usize,
}

/// A retained checkpoint.
#[derive(Serialize, ToSchema)]
pub struct CheckpointItem {
    sequence: u64,
    /// RFC 3339.
    created_at: String,
    /// Size of its files; most of them are shared with the others.
    bytes: u64,
    partitions: Vec<CheckpointPartition>,
}

#[derive(Serialize, ToSchema)]
pub struct CheckpointPartition {
    #[schema(value_type = i32)]
    partition: PartitionId,
    /// The next record to be taken.
    #[schema(value_type = i64)]
    offset: Offset,
}

impl From<CheckpointInfo> for CheckpointItem {
    fn from(info: CheckpointInfo) -> Self {
        let partitions = info.partitions.into_iter();
        Self {
            sequence: info.sequence,
            created_at: rfc3339(info.created_at_ms),
            bytes: info.bytes,
            partitions: partitions.map(|(partition, offset)| CheckpointPartition { partition, offset }).collect(),
        }
    }
}

/// A checkpoint was begun.
#[derive(Serialize, ToSchema)]
pub struct CheckpointBegun {
    message: &'static str,
    /// Where it will be seen.
    visible_at: &'static str,
}

#[utoipa::path(
    get, path = "/api/v1/checkpoints", tag = "state", summary = "The retained local checkpoints",
    responses(
        (status = 200, body = CheckpointsAnswer),
        (status = 400, body = Problem, description = "A parameter is wrong"),
        (status = 503, body = Problem, description = "The log is not open yet, or the folder cannot be read"),
    )
)]
pub async fn checkpoints(request: HttpRequest, ports: Data<Ports>, options: Data<Options>) -> HttpResponse {
    match list_checkpoints(&request, &ports, &options).await {
        Ok(answer) => HttpResponse::Ok().json(answer),
        Err(problem) => problem.respond(),
    }
}

async fn list_checkpoints(
    request: &HttpRequest,
    ports: &Ports,
    options: &Options,
) -> Result<CheckpointsAnswer, Problem> {
    Parameters::read(request.query_string(), &[])?;
    let port = std::sync::Arc::clone(port(ports)?);
    let listed = web::block(move || port.list()).await.map_err(|error| error.to_string());
    let listed = listed.and_then(|listed| listed).map_err(|why| Problem::unavailable("checkpoints_unreadable", why))?;
    let checkpoints = listed.into_iter().rev().map(CheckpointItem::from).collect();
    Ok(CheckpointsAnswer { checkpoints, retain: options.checkpoints_retained })
}

#[utoipa::path(
    post, path = "/api/v1/checkpoints", tag = "administration", summary = "Store a checkpoint now",
    security(("token" = [])),
    responses(
        (status = 202, body = CheckpointBegun, description = "It has begun"),
        (status = 400, body = Problem, description = "A parameter is wrong"),
        (status = 401, body = Problem, description = "Without the token, or none is configured"),
        (status = 409, body = Problem, description = "One is under way, or no partition runs here"),
        (status = 503, body = Problem, description = "The engine does not answer"),
    )
)]
pub async fn begin_checkpoint(request: HttpRequest, ports: Data<Ports>, options: Data<Options>) -> HttpResponse {
    match begin(&request, &ports, &options).await {
        Ok(begun) => HttpResponse::Accepted().json(begun),
        Err(problem) => problem.respond(),
    }
}

async fn begin(request: &HttpRequest, ports: &Ports, options: &Options) -> Result<CheckpointBegun, Problem> {
    token::check(request, options.admin_token.as_ref())?;
    Parameters::read(request.query_string(), &[])?;
    match port(ports)?.begin().await {
        Ok(()) => Ok(CheckpointBegun {
            message: "a checkpoint has begun; it is stored after the next commit, unless nothing was taken in since the \
                      last one",
            visible_at: "/api/v1/checkpoints; checkpoints.last_success_at_ms in /api/v1/status",
        }),
        Err(NotBegun::UnderWay) => Err(Problem::conflict("under_way", "a checkpoint is under way")),
        Err(NotBegun::NothingRuns) => {
            Err(Problem::conflict("nothing_runs", "no partition runs here, so there is nothing to store"))
        }
        Err(NotBegun::NoAnswer) => {
            Err(Problem::unavailable("no_answer", "the engine did not answer in time; it may be begun still"))
        }
    }
}

fn port(ports: &Ports) -> Result<&std::sync::Arc<dyn Checkpoints>, Problem> {
    ports.checkpoints().ok_or_else(|| Problem::unavailable("not_open", "the log is not open yet"))
}

fn rfc3339(epoch_ms: i64) -> String {
    DateTime::from_timestamp_millis(epoch_ms)
        .map_or_else(|| "unknown".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}
