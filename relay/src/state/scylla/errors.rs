//! What a driver error means for a conditional statement.

use scylla::errors::{DbError, ExecutionError, PrepareError, RequestAttemptError};

use crate::ports::StateError;

/// Whether the statement may have been applied decides what to do next.
pub(super) enum Failure {
    /// It was not applied; worth retrying.
    Unavailable(String),
    /// It may have been applied.
    Unknown(String),
    /// It never will be until somebody acts.
    Configuration(String),
}

impl Failure {
    pub(super) fn into_error(self, action: &'static str) -> StateError {
        match self {
            Self::Unavailable(detail) | Self::Unknown(detail) => StateError::Unavailable { action, detail },
            Self::Configuration(detail) => StateError::Configuration { action, detail },
        }
    }
}

/// Everything that is not known to have stopped before execution is unknown: the safe verdict for a foreign,
/// growing set of errors.
pub(super) fn failure(error: &ExecutionError) -> Failure {
    let text = error.to_string();
    match error {
        ExecutionError::BadQuery(_) => Failure::Configuration(text),
        ExecutionError::EmptyPlan | ExecutionError::ConnectionPoolError(_) => Failure::Unavailable(text),
        ExecutionError::PrepareError(error) => preparing(error),
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => database(error, text),
        _ => Failure::Unknown(text),
    }
}

pub(super) fn preparing(error: &PrepareError) -> Failure {
    let text = error.to_string();
    match error {
        PrepareError::AllAttemptsFailed {
            first_attempt: RequestAttemptError::DbError(error, _),
        } => database(error, text),
        _ => Failure::Unavailable(text),
    }
}

fn database(error: &DbError, text: String) -> Failure {
    match error {
        DbError::SyntaxError
        | DbError::Invalid
        | DbError::Unauthorized
        | DbError::AuthenticationError
        | DbError::ConfigError
        | DbError::AlreadyExists { .. } => Failure::Configuration(text),
        DbError::Unavailable { .. }
        | DbError::Overloaded
        | DbError::IsBootstrapping
        | DbError::RateLimitReached { .. }
        | DbError::Unprepared { .. } => Failure::Unavailable(text),
        _ => Failure::Unknown(text),
    }
}
