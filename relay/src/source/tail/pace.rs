//! How often a group's young rows are read, and how far back each read reaches.

use crate::model::{Micros, SECOND};

const MILLISECOND: Micros = SECOND / 1000;

/// Pause after a read that found something.
const BUSY_INTERVAL: Micros = 3 * MILLISECOND;

/// How far a read reaches behind the newest row, at most and at least: what surfaces within this time is found by the
/// very next read; what takes longer, by the aged cursors.
const OVERLAP: (Micros, Micros) = (100 * MILLISECOND, 20 * MILLISECOND);

/// Weight of the last read in the estimate of the rate.
const RATE_WEIGHT: f64 = 0.2;

#[derive(Debug, Default)]
pub(super) struct Pace {
    due: Micros,
    interval: Micros,
    blocked_until: Micros,
    last: Option<Micros>,
    /// New rows per microsecond.
    rate: f64,
}

impl Pace {
    /// Rows that each read may see again on account of the overlap.
    pub(super) const REREAD_ROWS: f64 = 8.0;

    pub(super) fn due(&self) -> Micros {
        self.due
    }

    pub(super) fn blocked_until(&self) -> Micros {
        self.blocked_until
    }

    pub(super) fn hurry(&mut self) {
        self.due = 0;
    }

    /// A pass ended that found `new` rows. `behind`: there is more to read at once.
    pub(super) fn passed(&mut self, new: usize, behind: bool, now: Micros, idle: Micros) {
        if let Some(last) = self.last.replace(now) {
            let rate = new as f64 / (now - last).max(1) as f64;
            self.rate += (rate - self.rate) * RATE_WEIGHT;
        }
        self.interval = match new {
            _ if behind => 0,
            0 => (self.interval * 2).clamp(BUSY_INTERVAL, idle),
            _ => BUSY_INTERVAL,
        };
        self.due = now + self.interval;
    }

    pub(super) fn blocked(&mut self, until: Micros) {
        self.blocked_until = until;
    }

    pub(super) fn overlap(&self) -> Micros {
        let most = (Self::REREAD_ROWS / self.rate.max(f64::MIN_POSITIVE)).min(OVERLAP.0 as f64);
        (most as Micros).max(OVERLAP.1)
    }

    /// Rows to expect in a time of this length.
    pub(super) fn rows_within(&self, length: Micros) -> f64 {
        self.rate * length as f64
    }
}
