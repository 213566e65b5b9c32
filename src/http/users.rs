//! What is counted of one user at the moment.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::ids::PartitionId;
use crate::domain::lookup::OpenCount;
use crate::http::parameters::Parameters;
use crate::http::ports::{Ports, UserInPartition};
use crate::http::problem::Problem;

/// The path up to the id.
const PREFIX: &str = "/api/v1/users/";
const ID_ACCEPTED: &str = "a user id of 1 to 128 bytes of UTF-8, percent-encoded";

/// The open windows of one user.
#[derive(Serialize, ToSchema)]
pub struct UserAnswer {
    user_id: String,
    /// By partition; within one, windows of one size oldest first.
    windows: Vec<UserWindow>,
    /// Partitions that did not answer in time: the user may have windows there too.
    #[schema(value_type = Vec<i32>)]
    silent_partitions: Vec<PartitionId>,
}

/// One user's counter in one open window, as one rule sees it.
#[derive(Serialize, ToSchema)]
pub struct UserWindow {
    #[schema(value_type = i32)]
    partition: PartitionId,
    rule_id: String,
    rule_version: u32,
    /// RFC 3339.
    window_start: String,
    window_end: String,
    /// Transactions that count so far.
    count: u32,
    /// More than this raise the alert.
    max_transactions: u32,
    /// The one alert of this rule, user and window was raised.
    alerted: bool,
}

impl UserWindow {
    fn of(partition: PartitionId, count: OpenCount) -> Self {
        Self {
            partition,
            rule_id: count.rule_id,
            rule_version: count.rule_version,
            window_start: count.window_start.to_string(),
            window_end: count.window_end.to_string(),
            count: count.transactions,
            max_transactions: count.max_transactions,
            alerted: count.has_alerted,
        }
    }
}

#[utoipa::path(
    get, path = "/api/v1/users/{id}", tag = "state", summary = "Open windows and counts of one user",
    description = "Counts are those of records that were taken in, which may be ahead of the last commit.",
    params(("id" = String, Path, description = "The user id, percent-encoded")),
    responses(
        (status = 200, body = UserAnswer),
        (status = 400, body = Problem, description = "The id is wrong"),
        (status = 404, body = Problem, description = "The user has no open window in the partitions that run here"),
        (status = 503, body = Problem, description = "The log is not open yet, or a partition did not answer in time"),
    )
)]
pub async fn windows(request: HttpRequest, ports: Data<Ports>) -> HttpResponse {
    match look_up(&request, &ports).await {
        Ok(answer) => HttpResponse::Ok().json(answer),
        Err(problem) => problem.respond(),
    }
}

async fn look_up(request: &HttpRequest, ports: &Ports) -> Result<UserAnswer, Problem> {
    Parameters::read(request.query_string(), &[])?;
    let raw = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
    let user_id = percent_decoded(raw).filter(|id| (1..=128).contains(&id.len()));
    let user_id = user_id.ok_or_else(|| Problem::bad_parameter("id", ID_ACCEPTED))?;
    let users = ports.users().ok_or_else(|| Problem::unavailable("not_open", "the log is not open yet"))?;
    let answers = users.look_up(&user_id).await;
    let running = answers.iter().map(|one| one.partition.to_string()).collect::<Vec<_>>().join(", ");
    let (mut windows, mut silent_partitions) = (Vec::new(), Vec::new());
    for UserInPartition { partition, counts } in answers {
        match counts {
            Some(counts) => windows.extend(counts.into_iter().map(|count| UserWindow::of(partition, count))),
            None => silent_partitions.push(partition),
        }
    }
    match (windows.is_empty(), silent_partitions.is_empty()) {
        (true, false) => {
            let silent: Vec<_> = silent_partitions.iter().map(ToString::to_string).collect();
            let message = format!("partitions {} did not answer in time", silent.join(", "));
            Err(Problem::unavailable("no_answer", message))
        }
        (true, true) => {
            let place = if running.is_empty() { "no partition runs here".to_owned() } else { running };
            let message = format!("this user has no open window in the partitions that run here: {place}");
            Err(Problem::not_found("no_open_window", message))
        }
        _ => Ok(UserAnswer { user_id, windows, silent_partitions }),
    }
}

/// `None` when an escape is broken or the bytes are not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' { hex(rest.next()?)? << 4 | hex(rest.next()?)? } else { byte });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
