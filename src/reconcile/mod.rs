//! The second, independent implementation of what the service does, and the comparison of the two.
//!
//! It promises the semantics of the outside contract, written a second time as plainly as possible: sets of strings, each
//! rule counted by itself, nothing evicted, nothing hashed, nothing shared between windows. It is slow, keeps
//! everything in memory, and is meant to be right at sight.
//!
//! It must never use counting, validation or encoding code of `domain`, `engine` or `protocol`: an error that both
//! sides inherited would be invisible to every test that compares them.
//!
//! Reading order: [`validate`] (what a record is), [`recount`] (what the records add up to), [`compare`] (where
//! something else differs from that). [`json`] and [`rfc3339`] are the strict readers under [`validate`].

pub mod compare;
pub mod json;
pub mod recount;
pub mod rfc3339;
pub mod side_record;
pub mod validate;

#[cfg(test)]
mod compare_tests;
#[cfg(test)]
mod recount_tests;
