//! How the program ends: the exit codes that scripts and supervisors can rely on.

use std::process::ExitCode;

/// The reason why a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done. Also the end of the service by SIGTERM or SIGINT after a clean hand-over.
    Done,
    /// Anything that no other code names. A restart is safe.
    Failed,
    /// Wrong usage or configuration. A restart changes nothing.
    Usage,
    /// Continuing would lose or repeat data; the log says what the operator can do.
    Refused,
    /// Another instance with the same id has taken over; it stays, this one leaves. Do not restart this one.
    Fenced,
    /// Kafka stayed unreachable or refused access, or the source topic does not exist, for `kafka.startup_timeout`.
    KafkaUnreachable,
    /// A reconciliation found differences, and some of them remain.
    DifferencesRemain,
}

impl Exit {
    /// The number that the process ends with.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Fenced => 4,
            Self::KafkaUnreachable => 5,
            Self::DifferencesRemain => 10,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
