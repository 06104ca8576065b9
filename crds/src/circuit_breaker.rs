//! When the relay stops trying, and how it starts again.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// After `failureThreshold` failures in a row nothing is attempted for `openSeconds`; then single events probe the
/// broker, and `successThreshold` successes in a row resume delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CircuitBreaker {
    /// Failed attempts in a row that open the circuit.
    pub failure_threshold: u32,
    /// How long the open circuit attempts nothing.
    pub open_seconds: u32,
    /// Probes in a row that must succeed to close the circuit.
    pub success_threshold: u32,
}

impl CircuitBreaker {
    /// How long the open circuit attempts nothing.
    pub fn open(&self) -> Duration {
        Duration::from_secs(self.open_seconds.into())
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            open_seconds: 30,
            success_threshold: 3,
        }
    }
}
