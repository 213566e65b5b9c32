//! tmp
pub fn serve(listen: std::net::SocketAddr, _b: crate::observe::status::StatusBoard, _m: ()) -> std::io::Result<(actix_web::dev::Server, std::net::SocketAddr)> {
    let s = actix_web::HttpServer::new(|| actix_web::App::new().route("/readyz", actix_web::web::get().to(|| async { "ok" }))).workers(1).disable_signals().bind(listen)?;
    let a = s.addrs()[0];
    Ok((s.run(), a))
}
