//! How long this process may act as an owner, and the heartbeat that prolongs it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::view::{BEAT, KeeperView};
use crate::ports::{Clock, Placement, ProcessRow, StateError, StateStore};

/// Heartbeats within one lease: some may fail before it is over.
const BEATS_PER_LEASE: u32 = 5;

/// Heartbeat intervals that one renewal may take: a lost answer must not cost the lease.
const INTERVALS_PER_ANSWER: u32 = 2;

/// Until when this process may hand events to the producer, on its monotonic clock.
///
/// If the heartbeat was not renewed in time there was a *gap*, in which others may have decided to take what is ours.
/// After one, a renewal alone does not bring the right back: ownership has to be confirmed first.
#[derive(Debug, Clone, Default)]
pub struct Deadline(Arc<Mutex<Term>>);

#[derive(Debug, Default)]
struct Term {
    /// Heartbeats are fresh until here.
    until: Duration,
    /// What is held has been ours without a gap.
    confirmed: bool,
    gaps: u64,
}

impl Deadline {
    pub fn get(&self) -> Duration {
        let term = self.0.lock();
        if term.confirmed {
            term.until
        } else {
            Duration::ZERO
        }
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.0.lock().confirmed
    }

    /// A heartbeat that was `sent` has been `answered`; it is good for `length`.
    fn renewed(&self, sent: Duration, answered: Duration, length: Duration) {
        let mut term = self.0.lock();
        if answered >= term.until {
            term.confirmed = false;
            term.gaps += 1;
        }
        term.until = sent + length;
    }

    /// The gap after which ownership has to be confirmed, once heartbeats are fresh again.
    pub(super) fn unconfirmed(&self, now: Duration) -> Option<u64> {
        let term = self.0.lock();
        (!term.confirmed && now < term.until).then_some(term.gaps)
    }

    /// What is held is ours in spite of the gap; of no effect if there was another one since.
    pub(super) fn confirm(&self, gap: u64) {
        let mut term = self.0.lock();
        term.confirmed = term.gaps == gap;
    }

    /// Nothing more is handed over, ever.
    pub(super) fn end(&self) {
        *self.0.lock() = Term::default();
    }
}

/// A beat: larger the later it is, also after this process's parts were started anew.
pub(super) fn beat_at(elapsed: Duration) -> i64 {
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX - 1) + 1
}

pub(super) struct Heartbeat<S, C> {
    pub(super) store: Arc<S>,
    pub(super) clock: Arc<C>,
    pub(super) deadline: Deadline,
    pub(super) view: KeeperView,
    pub(super) lease: Duration,
}

impl<S: StateStore, C: Clock> Heartbeat<S, C> {
    /// Renews for ever. The deadline counts from when a successful renewal was sent, with a margin before others may
    /// act; to them it counts from when they saw it, which is later.
    pub(super) async fn run(self, process: String, placement: Placement) {
        let interval = self.lease / BEATS_PER_LEASE;
        let mut row = ProcessRow {
            process,
            beat: 0,
            placement,
        };
        loop {
            let sent = self.clock.elapsed();
            row.beat = beat_at(sent).max(row.beat + 1);
            let answer = tokio::time::timeout(interval * INTERVALS_PER_ANSWER, self.store.beat(&row)).await;
            let answered = self.clock.elapsed();
            match answer.unwrap_or_else(|_| Err(no_answer())) {
                Ok(()) => {
                    self.deadline.renewed(sent, answered, self.lease - interval);
                    self.view.well(BEAT);
                }
                Err(error) => self.view.troubled(BEAT, &error),
            }
            // At least a tenth of the interval, or a store that fails at once would be asked without pause.
            let pause = interval.saturating_sub(answered.saturating_sub(sent));
            tokio::time::sleep(pause.max(interval / 10)).await;
        }
    }
}

fn no_answer() -> StateError {
    StateError::Unavailable {
        action: "renew the heartbeat",
        detail: "no answer in time".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_renewal_after_a_gap_counts_only_once_ownership_is_confirmed() {
        let deadline = Deadline::default();
        assert_eq!(deadline.get(), Duration::ZERO);
        deadline.renewed(secs(0), secs(0), secs(8));
        let first = deadline.unconfirmed(secs(0)).unwrap();
        deadline.confirm(first);
        assert_eq!(deadline.get(), secs(8), "it counts from when it was sent");
        deadline.renewed(secs(2), secs(3), secs(8));
        assert_eq!((deadline.get(), deadline.unconfirmed(secs(3))), (secs(10), None));
        deadline.renewed(secs(4), secs(10), secs(8));
        assert_eq!(deadline.get(), Duration::ZERO, "answered when the right was over");
        let second = deadline.unconfirmed(secs(11)).unwrap();
        deadline.renewed(secs(20), secs(20), secs(8));
        deadline.confirm(second);
        assert_eq!(deadline.get(), Duration::ZERO, "there was another gap meanwhile");
        assert_eq!(deadline.unconfirmed(secs(28)), None, "heartbeats are not fresh");
        deadline.confirm(deadline.unconfirmed(secs(21)).unwrap());
        assert_eq!(deadline.get(), secs(28));
        deadline.end();
        assert_eq!(deadline.get(), Duration::ZERO);
    }
}
