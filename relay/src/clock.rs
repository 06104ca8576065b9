//! The clocks of production.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::Micros;
use crate::ports::Clock;

/// The system's wall clock, and tokio's monotonic one, so that a paused runtime has virtual time.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl SystemClock {
    /// Elapsed time counts from here. Call it within a runtime.
    pub fn start() -> Self {
        Self {
            start: tokio::time::Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as Micros)
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
