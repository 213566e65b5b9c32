//! What is answered when there is no answer: a status, a short name that stays the same between versions, and a sentence.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

/// The body of every error.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// A short name that stays the same between versions.
    error: &'static str,
    /// For a person. It never repeats a token or a value of a payload.
    message: Cow<'static, str>,
    #[serde(skip)]
    status: StatusCode,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

impl Problem {
    fn new(status: StatusCode, error: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { error, message: message.into(), status, retry_after: None }
    }

    /// A parameter is not what it must be.
    pub fn bad_parameter(name: &str, accepted: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_parameter", format!("{name} must be {accepted}"))
    }

    pub fn bad_request(error: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, message)
    }

    pub fn unauthorized(message: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub fn not_found(error: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error, message)
    }

    pub fn conflict(error: &'static str, message: &'static str) -> Self {
        Self::new(StatusCode::CONFLICT, error, message)
    }

    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub fn timed_out(message: &'static str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timed_out", message)
    }

    pub fn unsupported(message: &'static str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported", message)
    }

    /// Not now; the same request may work later.
    pub fn unavailable(error: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, error, message);
        Self { retry_after: Some(Duration::from_secs(1)), ..problem }
    }

    pub fn respond(self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(pause) = self.retry_after {
            response.insert_header((header::RETRY_AFTER, pause.as_secs()));
        }
        response.json(self)
    }
}

/// Nothing is at this path.
pub async fn not_found() -> HttpResponse {
    Problem::not_found("not_found", "there is nothing at this path").respond()
}

/// The answer to a method that a path does not have.
pub fn method_not_allowed(request: &HttpRequest, allowed: &'static str) -> HttpResponse {
    let message = format!("{} is not possible here; {allowed} is", request.method());
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).respond();
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    response
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}
