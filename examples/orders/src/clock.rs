//! The one clock of every measurement.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch. Load and verifier run on one machine, so its wall clock serves both.
pub fn now_us() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX)
}
