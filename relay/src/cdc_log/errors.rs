//! What a driver error means for a reader.

use std::time::Duration;

use scylla::errors::{DbError, ExecutionError, PrepareError, RequestAttemptError};

use crate::ports::LogError;

/// Beyond ScyllaDB's own read time-out (5 s by default), so that its answer comes first.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Anything that is not known to need a person is worth retrying: the safe verdict for a growing set of errors.
pub(crate) fn executing(error: &ExecutionError) -> LogError {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(kind, _)) => {
            database(kind, error.to_string())
        }
        ExecutionError::PrepareError(error) => preparing(error),
        ExecutionError::BadQuery(_) => LogError::Configuration(error.to_string()),
        _ => LogError::Transient(error.to_string()),
    }
}

pub(crate) fn preparing(error: &PrepareError) -> LogError {
    match error {
        PrepareError::AllAttemptsFailed {
            first_attempt: RequestAttemptError::DbError(kind, _),
        } => database(kind, error.to_string()),
        _ => LogError::Transient(error.to_string()),
    }
}

fn database(kind: &DbError, text: String) -> LogError {
    match kind {
        DbError::SyntaxError
        | DbError::Invalid
        | DbError::ConfigError
        | DbError::Unauthorized
        | DbError::AuthenticationError => LogError::Configuration(text),
        DbError::Overloaded | DbError::RateLimitReached { .. } => LogError::Overloaded(text),
        _ => LogError::Transient(text),
    }
}
