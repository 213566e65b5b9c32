//! The statistics writer on a real MariaDB server and on a file of SQLite: what is in the tables afterwards, and what was said meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests watch a real server and need the real clock")]

mod support;

#[path = "statistics_writer/both.rs"]
mod both;
#[path = "statistics_writer/file.rs"]
mod file;
#[path = "statistics_writer/fixture.rs"]
mod fixture;
#[path = "statistics_writer/outages.rs"]
mod outages;
#[path = "statistics_writer/reading.rs"]
mod reading;
#[path = "statistics_writer/rows.rs"]
mod rows;
#[path = "statistics_writer/schema.rs"]
mod schema;
