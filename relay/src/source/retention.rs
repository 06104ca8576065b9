//! Where reading starts, and how far it is from losing rows to the log's TTL.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::model::Micros;
use crate::source::tail::SKEW;

/// Changes of the TTL that are remembered. Beyond it the oldest rows count as written with the next one's TTL.
const MAX_ERAS: usize = 16;

/// Where to begin without a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Oldest,
    Now,
    /// With what is readable for certain in the table, and with the log from there on. `settled` is how late a committed
    /// row may become readable.
    Snapshot {
        settled: Micros,
    },
    At(Micros),
}

/// Rows that expired before they were read: everything written in `[from, until)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub from: Micros,
    pub until: Micros,
}

/// Retention of the log. Clones share what is known: an `ALTER TABLE` changes it for reader, status and metrics alike.
/// All times are the source's, by which rows expire; see [`Self::source_time`].
#[derive(Debug, Clone, Default)]
pub struct Retention(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Oldest first. A row keeps the TTL that it was written with.
    eras: Vec<Era>,
    /// How far our wall clock is ahead of the source's.
    ahead: Micros,
}

/// The TTL of rows written from `since` until the next era; None if they never expire (`ttl` 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Era {
    since: Micros,
    ttl: Option<Micros>,
}

impl Retention {
    pub fn new(ttl: Option<Duration>) -> Self {
        let retention = Self::default();
        retention.begin(ttl);
        retention
    }

    /// What the table said before anything was read. Of no effect later.
    pub fn begin(&self, ttl: Option<Duration>) {
        let mut known = self.0.lock();
        if known.eras.is_empty() {
            known.eras.push(Era {
                since: Micros::MIN,
                ttl: ttl.map(micros),
            });
        }
    }

    /// What the source said when our wall clock showed `wall`: its time, and the TTL of what is written now (zero: for
    /// ever). None is not said.
    pub fn hear(&self, time: Option<Micros>, ttl: Option<Duration>, wall: Micros) {
        let mut known = self.0.lock();
        if let Some(time) = time {
            known.ahead = wall - time;
        }
        let now = wall - known.ahead;
        let Some(ttl) = ttl else { return };
        let ttl = Some(micros(ttl)).filter(|ttl| *ttl > 0);
        match known.eras.last() {
            Some(last) if last.ttl == ttl => {}
            Some(_) => known.eras.push(Era { since: now, ttl }),
            None => known.eras.push(Era {
                since: Micros::MIN,
                ttl,
            }),
        }
        let oldest = known.oldest(now);
        while known.eras.len() > 1 && (oldest >= Some(known.eras[1].since) || known.eras.len() > MAX_ERAS) {
            known.eras.remove(0);
        }
    }

    /// The source's time when our wall clock shows `wall`, as far as it is known.
    pub fn source_time(&self, wall: Micros) -> Micros {
        wall - self.0.lock().ahead
    }

    /// How long the log keeps what is written now; None for ever.
    pub fn ttl(&self) -> Option<Duration> {
        let ttl = self.0.lock().eras.last()?.ttl?;
        Some(Duration::from_micros(ttl as u64))
    }

    /// The oldest time of which the log still has every row.
    pub fn oldest(&self, now: Micros) -> Option<Micros> {
        self.0.lock().oldest(now)
    }

    /// The bound of a slot without a checkpoint. `first_set` is the start of the oldest stream set. "Now" is a little
    /// earlier: coordinators' clocks differ, and a row too many is better than one too few.
    pub fn start(&self, from: Start, first_set: Option<Micros>, now: Micros) -> Micros {
        let retained = self.oldest(now).unwrap_or(0).max(first_set.unwrap_or(0));
        match from {
            Start::Oldest => retained,
            Start::Now => now - SKEW,
            Start::Snapshot { settled } => now - settled,
            Start::At(time) => time.max(retained),
        }
    }

    /// Time left until rows that are not yet delivered expire; negative once some have. None if they never do.
    pub fn headroom(&self, bound: Micros, now: Micros) -> Option<Micros> {
        self.oldest(now).map(|oldest| bound - oldest)
    }

    /// What has expired above this bound. None if nothing has.
    pub fn gap(&self, bound: Micros, now: Micros) -> Option<Gap> {
        let until = self.oldest(now)?;
        (bound < until).then_some(Gap { from: bound, until })
    }
}

impl Known {
    fn oldest(&self, now: Micros) -> Option<Micros> {
        let ends = self.eras.iter().skip(1).map(|era| era.since);
        let ends = ends.chain([Micros::MAX]);
        let expired = self.eras.iter().zip(ends).filter_map(|(era, end)| {
            let until = (now - era.ttl?).min(end);
            (until > era.since).then_some(until)
        });
        expired.max()
    }
}

fn micros(ttl: Duration) -> Micros {
    ttl.as_micros() as Micros
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SECOND;

    fn keeping(ttl: Option<u64>) -> Retention {
        Retention::new(ttl.map(Duration::from_micros))
    }

    #[test]
    fn starts_with_the_oldest_row_that_is_retained() {
        let check = |ttl, from, first_set, expected| {
            let start = keeping(ttl).start(from, first_set, 1000);
            assert_eq!(start, expected, "{ttl:?} {from:?} {first_set:?}");
        };
        check(Some(300), Start::Oldest, Some(10), 700);
        check(Some(300), Start::Oldest, Some(900), 900);
        check(None, Start::Oldest, Some(10), 10);
        check(None, Start::Oldest, None, 0);
        check(Some(300), Start::Now, Some(10), 1000 - SKEW);
        check(Some(300), Start::At(800), Some(10), 800);
        check(Some(300), Start::At(5), Some(10), 700);
    }

    #[test]
    fn a_clock_that_runs_ahead_skips_nothing() {
        let retention = keeping(Some(300));
        let (time, wall) = (1_000 * SECOND, 1_600 * SECOND);
        retention.hear(Some(time), None, wall);
        let start = retention.start(Start::Now, None, retention.source_time(wall + 7));
        assert_eq!(start, time + 7 - SKEW);
    }

    #[test]
    fn a_gap_is_what_expired_above_the_bound() {
        let retention = keeping(Some(300));
        assert_eq!(retention.headroom(750, 1000), Some(50));
        assert_eq!(retention.gap(750, 1000), None);
        assert_eq!(retention.headroom(600, 1000), Some(-100));
        assert_eq!(
            retention.gap(600, 1000),
            Some(Gap {
                from: 600,
                until: 700
            })
        );
        let forever = keeping(None);
        assert_eq!((forever.headroom(0, 1000), forever.gap(0, 1000)), (None, None));
    }

    /// A row expires by the TTL that it was written with.
    #[test]
    fn a_changed_ttl_holds_for_what_is_written_from_then_on() {
        let altered = |from: Option<u64>, to: u64| {
            let retention = keeping(from);
            retention.hear(Some(1000), Some(Duration::from_micros(to)), 1000);
            assert_eq!(
                retention.ttl(),
                (to > 0).then_some(Duration::from_micros(to)),
                "{from:?} {to}"
            );
            retention
        };
        let check = |retention: &Retention, expected: &[(Micros, Option<Micros>)]| {
            for (now, oldest) in expected {
                assert_eq!(retention.oldest(*now), *oldest, "at {now}");
            }
        };
        let longer = altered(Some(300), 900);
        check(
            &longer,
            &[
                (1000, Some(700)),
                (1200, Some(900)),
                (1500, Some(1000)),
                (2000, Some(1100)),
            ],
        );
        let shorter = altered(Some(900), 300);
        check(
            &shorter,
            &[
                (1000, Some(100)),
                (1200, Some(300)),
                (1301, Some(1001)),
                (1500, Some(1200)),
            ],
        );
        check(&altered(Some(300), 0), &[(1000, Some(700)), (9000, Some(1000))]);
        check(
            &altered(None, 300),
            &[(1000, None), (1300, None), (1400, Some(1100))],
        );
    }

    #[test]
    fn what_is_remembered_of_changes_is_bounded() {
        let retention = keeping(Some(1000));
        for change in 0..100 {
            retention.hear(
                Some(change),
                Some(Duration::from_micros(1000 + change as u64 % 2)),
                change,
            );
        }
        assert!(retention.0.lock().eras.len() <= MAX_ERAS);
        retention.hear(Some(90_000), Some(Duration::from_micros(7)), 90_000);
        retention.hear(Some(90_010), Some(Duration::from_micros(7)), 90_010);
        assert_eq!(retention.0.lock().eras.len(), 1);
    }
}
