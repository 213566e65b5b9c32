//! The shell: threads, actors and queues that carry out what `domain` and `protocol` decide.
//!
//! ```text
//! main thread      actix system: HTTP, signals, supervision
//! tallyguard-io    owns the log; feeds the actors, commits, answers the group
//! arbiters         one thread per core: partition actors, which host the user actors
//! -recovery        finds out how an assigned partition begins; may wait
//! -stats           writes statistics to the database; may wait
//! -snapshot        writes snapshots to disk; may wait
//! ```
//! Whatever may wait has a thread of its own. Whoever cannot go on tells the [`supervisor`], and the process leaves.

pub mod actor;
mod assembly;
mod directory;
mod handover;
pub mod hosts;
mod inbox;
pub mod io;
mod launch;
pub mod monitor;
pub mod outputs;
mod ownership;
pub mod parking;
pub mod recovery;
mod requests;
pub mod snapshots;
mod startup;
pub mod statistics;
pub mod supervisor;
mod transport;

pub use launch::run;
