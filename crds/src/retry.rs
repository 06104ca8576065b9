//! How often and how fast a failed publish is tried again.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Attempts of one event and the back-off between them. The delay before attempt *n* + 1 is
/// `initialBackoff` * (`multiplierPercent` / 100)^(*n* - 1), at most `maxBackoff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in all, the first one included.
    pub max_attempts: u32,
    /// Delay after the first failed attempt.
    pub initial_backoff_milliseconds: u32,
    /// Upper end of the delay; at least initialBackoffMilliseconds.
    pub max_backoff_milliseconds: u32,
    /// Growth of the delay from one attempt to the next: 200 doubles it, 100 keeps it.
    pub multiplier_percent: u32,
    /// None: exactly the computed delay. Full: a random part of it, so that many relays do not return at once.
    pub jitter: Jitter,
    /// An attempt without any progress for this long has failed.
    pub attempt_timeout_milliseconds: u32,
}

/// Whether a delay is randomised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum Jitter {
    /// The computed delay, exactly.
    None,
    /// Uniform between zero and the computed delay.
    #[default]
    Full,
}

impl Retry {
    /// Delay after the first failed attempt.
    pub fn initial_backoff(&self) -> Duration {
        Duration::from_millis(self.initial_backoff_milliseconds.into())
    }

    /// Upper end of the delay.
    pub fn max_backoff(&self) -> Duration {
        Duration::from_millis(self.max_backoff_milliseconds.into())
    }

    /// How long an attempt may go without progress.
    pub fn attempt_timeout(&self) -> Duration {
        Duration::from_millis(self.attempt_timeout_milliseconds.into())
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial_backoff_milliseconds: 100,
            max_backoff_milliseconds: 500,
            multiplier_percent: 200,
            jitter: Jitter::default(),
            attempt_timeout_milliseconds: 10_000,
        }
    }
}
