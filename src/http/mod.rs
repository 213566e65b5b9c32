//! Health, metrics and status over HTTP (contract §9).
//!
//! Promises: answers from memory, so it answers when Kafka, the database or the engine are stuck; `/healthz` says that
//! the process lives, `/readyz` that it does its work. Needs a status board that the engine feeds, and a runtime that
//! drives the returned server. It must never change anything, show a secret or payload, or send text into a page
//! unescaped. Everything here is read-only; errors are JSON.

mod answers;
mod page;
mod ports;

use std::io;
use std::net::SocketAddr;

use actix_web::dev::Server;
use actix_web::http::header;
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, HttpServer, Resource, Route, guard, web};

use crate::observe::metrics::MetricsPage;
use crate::observe::status::StatusBoard;
pub use ports::Ports;

/// Nothing is loaded from anywhere, nothing runs, and no other site may frame the page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                                       form-action 'none'; frame-ancestors 'none'";
/// How long a request that is under way may take when the server is asked to stop gracefully.
const SHUTDOWN_S: u64 = 1;

/// Binds the address and makes the server; the caller drives it (`actix::spawn`) and stops it by its handle. Gives the
/// address too, because port 0 stands for any free one.
///
/// # Errors
/// The address cannot be listened on; the text says why in words, for the setting `http.listen`.
pub fn serve(listen: SocketAddr, board: StatusBoard, metrics: MetricsPage) -> io::Result<(Server, SocketAddr)> {
    let board = web::Data::new(board);
    let metrics = web::Data::new(metrics);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(board.clone())
            .app_data(metrics.clone())
            .wrap(
                DefaultHeaders::new()
                    .add((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
                    .add((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
                    .add((header::REFERRER_POLICY, "no-referrer"))
                    .add((header::CACHE_CONTROL, "no-store")),
            )
            .service(read_only("/", web::to(answers::page)))
            .service(read_only("/healthz", web::to(answers::health)))
            .service(read_only("/readyz", web::to(answers::readiness)))
            .service(read_only("/metrics", web::to(answers::metrics)))
            .service(read_only("/api/v1/status", web::to(answers::status)))
            .default_service(web::to(answers::not_found))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(SHUTDOWN_S)
    .bind(listen)
    .map_err(in_words)?;
    let address = server.addrs().first().copied().unwrap_or(listen);
    Ok((server.run(), address))
}

/// A path that can be read, and nothing else.
fn read_only(path: &str, answer: Route) -> Resource {
    let reads = guard::Any(guard::Get()).or(guard::Head());
    web::resource(path).route(answer.guard(reads)).default_service(web::to(answers::method_not_allowed))
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
