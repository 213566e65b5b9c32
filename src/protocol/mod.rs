//! When a result may be believed: the commit metadata, the recovery decision, and the commit cycle.
//!
//! Pure state machines: inputs in, decisions out. No I/O, no clock (the caller says what time it is), no threads, so
//! that the very same code runs against a real broker and against a simulated one. `docs/PROTOCOL.md` argues why it is
//! exact.

pub mod cycle;
pub mod metadata;
pub mod output;
pub mod recovery;
pub mod refusal;
