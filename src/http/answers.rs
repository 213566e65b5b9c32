//! Health, readiness, metrics and status.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::Serialize;
use utoipa::ToSchema;

use crate::observe::metrics::MetricsPage;
use crate::observe::report::StatusReport;
use crate::observe::status::StatusBoard;

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Serialize, ToSchema)]
pub struct Health {
    alive: bool,
}

#[derive(Serialize, ToSchema)]
pub struct Readiness {
    ready: bool,
    /// Why not; empty when ready.
    reasons: Vec<String>,
}

/// The process answers; that is all this says.
#[utoipa::path(
    get, path = "/healthz", tag = "operation", summary = "The process is alive",
    responses((status = 200, body = Health))
)]
pub async fn health() -> HttpResponse {
    HttpResponse::Ok().json(Health { alive: true })
}

#[utoipa::path(
    get, path = "/readyz", tag = "operation", summary = "Every owned partition is restored and commits succeed",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness, description = "Not ready, and why"))
)]
pub async fn readiness(board: Data<StatusBoard>) -> HttpResponse {
    let report = board.snapshot();
    let mut response = if report.ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(Readiness { ready: report.ready, reasons: report.reasons })
}

#[utoipa::path(
    get, path = "/metrics", tag = "operation", summary = "Metrics in the text format of Prometheus",
    responses((status = 200, content_type = "text/plain", body = String))
)]
pub async fn metrics(board: Data<StatusBoard>, metrics: Data<MetricsPage>) -> HttpResponse {
    HttpResponse::Ok().content_type(PROMETHEUS_TEXT).body(metrics.render(&board.snapshot()))
}

#[utoipa::path(
    get, path = "/api/v1/status", tag = "operation", summary = "Everything that the instance says of itself",
    responses((status = 200, body = StatusReport))
)]
pub async fn status(board: Data<StatusBoard>) -> HttpResponse {
    HttpResponse::Ok().json(board.snapshot())
}
