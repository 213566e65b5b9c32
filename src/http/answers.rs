//! What each path answers.

use actix_web::http::header::{self, ContentType};
use actix_web::{HttpResponse, web};
use serde::Serialize;

use crate::http::page as html;
use crate::observe::metrics::MetricsPage;
use crate::observe::status::StatusBoard;

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Serialize)]
struct Health {
    alive: bool,
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<String>,
}

#[derive(Serialize)]
struct Problem {
    /// A short name that stays the same between versions.
    error: &'static str,
    message: &'static str,
}

/// The process answers; that is all this says.
pub async fn health() -> HttpResponse {
    HttpResponse::Ok().json(Health { alive: true })
}

pub async fn readiness(board: web::Data<StatusBoard>) -> HttpResponse {
    let report = board.snapshot();
    let mut response = if report.ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(Readiness { ready: report.ready, reasons: report.reasons })
}

pub async fn metrics(board: web::Data<StatusBoard>, metrics: web::Data<MetricsPage>) -> HttpResponse {
    HttpResponse::Ok().content_type(PROMETHEUS_TEXT).body(metrics.render(&board.snapshot()))
}

pub async fn status(board: web::Data<StatusBoard>) -> HttpResponse {
    HttpResponse::Ok().json(board.snapshot())
}

pub async fn page(board: web::Data<StatusBoard>) -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::html()).body(html::render(&board.snapshot()))
}

pub async fn not_found() -> HttpResponse {
    HttpResponse::NotFound().json(Problem { error: "not_found", message: "there is nothing at this path" })
}

pub async fn method_not_allowed() -> HttpResponse {
    HttpResponse::MethodNotAllowed()
        .insert_header((header::ALLOW, "GET, HEAD"))
        .json(Problem { error: "method_not_allowed", message: "this path can only be read" })
}
