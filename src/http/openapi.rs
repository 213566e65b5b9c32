//! The description of the interface, generated from the code that answers.

use actix_web::HttpResponse;
use actix_web::web::Data;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::http::{alerts, answers, page, state, transactions, users};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tallyguard",
        description = "State, alerts and administration of one instance. Errors are a Problem. A path that is unknown is \
                       answered with 404, a method that a path does not have with 405."
    ),
    paths(
        page::dashboard, openapi,
        answers::health, answers::readiness, answers::metrics, answers::status,
        state::partitions, state::stats, state::checkpoints, state::begin_checkpoint,
        users::windows, alerts::newest, alerts::stream, transactions::append,
    ),
    components(schemas(alerts::AlertItem, alerts::Lagged)),
    modifiers(&Token)
)]
struct Interface;

struct Token;

impl Modify for Token {
    fn modify(&self, interface: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let bearer = bearer.description(Some("The token of http.admin_token_file"));
        let components = interface.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer.build()));
    }
}

/// The document, written once per process.
#[derive(Clone)]
pub struct Document(pub String);

impl Document {
    /// # Errors
    /// Never: the document is plain data.
    pub fn write() -> std::io::Result<Self> {
        Ok(Self(Interface::openapi().to_json()?))
    }
}

#[utoipa::path(
    get, path = "/api/v1/openapi.json", tag = "operation", summary = "This document",
    responses((status = 200, content_type = "application/json", body = Object))
)]
pub async fn openapi(document: Data<Document>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(document.0.clone())
}
