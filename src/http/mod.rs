//! The interface of an instance over HTTP (contract §9): health, metrics, state, alerts, a dashboard, and, with the token,
//! checkpoints on demand and transactions for the embedded log.
//!
//! Promises: health, status and metrics are answered from memory, also when Kafka, the database or the engine are stuck;
//! `/healthz` says that the process lives, `/readyz` that it does its work; whatever asks another part waits for a
//! bounded time, on behalf of a bounded number of clients. Needs a status board that the engine feeds, the [`Ports`] that
//! it fills in, and a runtime that drives the returned server. It must never show a secret or log a payload, send text
//! into a page unescaped, or change anything for a request without the token. Errors are JSON.
//!
//! `answers`, `state`, `users`, `alerts`, `transactions` are the paths; `openapi` describes them; `page` is the dashboard.

mod alert_hub;
mod alerts;
mod answers;
mod lines;
mod openapi;
mod page;
mod parameters;
mod ports;
mod problem;
mod state;
mod token;
mod transactions;
mod users;

use std::io;
use std::net::SocketAddr;

use actix_web::dev::Server;
use actix_web::http::header;
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, HttpRequest, HttpServer, Resource, Route, guard, web};

use crate::config::Secret;
use crate::domain::duration::Millis;
use crate::observe::metrics::MetricsPage;
use crate::observe::status::StatusBoard;
pub use alert_hub::LISTENERS_MAX;
pub use lines::{Accepts, Body, append as append_lines};
pub use ports::{Answering, Checkpoints, NotBegun, Ports, Statistics, UserInPartition, Users};
pub use transactions::{BODY_BYTES_MAX, REQUESTS_MAX};

/// Only what this server itself serves is loaded or run, and no other site may frame the page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                       img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// How long a request that is under way may take when the server is asked to stop gracefully.
const SHUTDOWN_S: u64 = 1;
const READS: &str = "GET, HEAD";

/// What the configuration says about this interface.
#[derive(Clone)]
pub struct Options {
    /// Without a token the administrative calls are off.
    pub admin_token: Option<Secret>,
    /// The log takes transactions over HTTP (`source.kind = "embedded"`).
    pub takes_transactions: bool,
    /// `time.max_future_skew`.
    pub max_future_skew: Millis,
    /// `checkpoint.retain`.
    pub checkpoints_retained: usize,
}

/// What is served.
#[derive(Clone)]
pub struct Served {
    pub board: StatusBoard,
    pub metrics: MetricsPage,
    pub ports: Ports,
    pub options: Options,
}

/// Binds the address and makes the server; the caller drives it (`actix::spawn`) and stops it by its handle. Gives the
/// address too, because port 0 stands for any free one.
///
/// # Errors
/// The address cannot be listened on; the text says why in words, for the setting `http.listen`.
pub fn serve(listen: SocketAddr, served: Served) -> io::Result<(Server, SocketAddr)> {
    let Served { board, metrics, ports, options } = served;
    let hub = web::Data::new(alert_hub::AlertHub::new(ports.clone()));
    let (board, metrics, ports) = (web::Data::new(board), web::Data::new(metrics), web::Data::new(ports));
    let (options, places) = (web::Data::new(options), web::Data::new(transactions::Places::default()));
    let document = web::Data::new(openapi::Document::write()?);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(board.clone())
            .app_data(metrics.clone())
            .app_data(ports.clone())
            .app_data(hub.clone())
            .app_data(options.clone())
            .app_data(places.clone())
            .app_data(document.clone())
            .wrap(
                DefaultHeaders::new()
                    .add((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
                    .add((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
                    .add((header::REFERRER_POLICY, "no-referrer"))
                    .add((header::CACHE_CONTROL, "no-store")),
            )
            .configure(paths)
            .default_service(web::to(problem::not_found))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(SHUTDOWN_S)
    .bind(listen)
    .map_err(in_words)?;
    let address = server.addrs().first().copied().unwrap_or(listen);
    Ok((server.run(), address))
}

fn paths(config: &mut web::ServiceConfig) {
    config
        .service(read_only("/", web::to(page::dashboard)))
        .service(read_only("/dashboard.js", web::to(page::script)))
        .service(read_only("/dashboard.css", web::to(page::style)))
        .service(read_only("/healthz", web::to(answers::health)))
        .service(read_only("/readyz", web::to(answers::readiness)))
        .service(read_only("/metrics", web::to(answers::metrics)))
        .service(read_only("/api/v1/openapi.json", web::to(openapi::openapi)))
        .service(read_only("/api/v1/status", web::to(answers::status)))
        .service(read_only("/api/v1/partitions", web::to(state::partitions)))
        .service(read_only("/api/v1/users/{id}", web::to(users::windows)))
        .service(read_only("/api/v1/alerts", web::to(alerts::newest)))
        .service(read_only("/api/v1/alerts/stream", web::to(alerts::stream)))
        .service(read_only("/api/v1/stats", web::to(state::stats)))
        .service(
            web::resource("/api/v1/checkpoints")
                .route(reading(web::to(state::checkpoints)))
                .route(web::post().to(state::begin_checkpoint))
                .default_service(refusing("GET, HEAD, POST")),
        )
        .service(
            web::resource("/api/v1/transactions")
                .route(web::post().to(transactions::append))
                .default_service(refusing("POST")),
        );
}

/// A path that can be read, and nothing else.
fn read_only(path: &str, answer: Route) -> Resource {
    web::resource(path).route(reading(answer)).default_service(refusing(READS))
}

fn reading(answer: Route) -> Route {
    answer.guard(guard::Any(guard::Get()).or(guard::Head()))
}

fn refusing(allowed: &'static str) -> Route {
    web::to(move |request: HttpRequest| async move { problem::method_not_allowed(&request, allowed) })
}

fn in_words(error: io::Error) -> io::Error {
    let words = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens on this address already",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        io::ErrorKind::PermissionDenied => "listening on this port needs more rights",
        _ => return error,
    };
    io::Error::new(error.kind(), words)
}
