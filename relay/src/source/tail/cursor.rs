//! The aged cursors: each re-reads every time slice once, after its age.

use crate::model::{Micros, SECOND};
use crate::source::tail::scan::Scan;

const MILLISECOND: Micros = SECOND / 1000;

/// Ages between the fast cursor and the horizon, a factor of about ten apart: a row that surfaces *d* late is found
/// within about 10·*d*.
const AGES: [Micros; 4] = [50 * MILLISECOND, 500 * MILLISECOND, 5 * SECOND, 60 * SECOND];

/// How often the cursor of each age reads, a quarter to a half of its age; the last is the horizon's, whose pace is
/// that of the bounds.
const INTERVALS: [Micros; 5] = [
    25 * MILLISECOND,
    125 * MILLISECOND,
    1250 * MILLISECOND,
    10 * SECOND,
    5 * SECOND,
];

/// How far ahead of our clock rows may be dated (ScyllaDB's `get_generation_leeway`).
pub const SKEW: Micros = 5 * SECOND;

/// Rows that a slice should hold: two pages.
const SLICE_ROWS: usize = 8000;

const SHORTEST_SLICE: Micros = 10 * MILLISECOND;
const LONGEST_SLICE: Micros = 3600 * SECOND;

#[derive(Debug)]
pub(super) struct Cursor {
    /// A slice may be read by a query that starts this long after its end.
    age: Micros,
    interval: Micros,
    /// Everything below was read by a query that started `age` later.
    position: Micros,
    length: Micros,
    pub(super) slice: Option<Slice>,
}

#[derive(Debug)]
pub(super) struct Slice {
    pub(super) scan: Scan,
    from: Micros,
    until: Micros,
}

impl Cursor {
    /// The series, youngest first. The last one sweeps: its age is the horizon and the skew of clocks.
    pub(super) fn series(horizon: Micros, position: Micros) -> Vec<Self> {
        let ages = AGES.into_iter().filter(|age| *age < horizon);
        let last = INTERVALS[AGES.len()].min(horizon / 4).max(MILLISECOND);
        ages.zip(INTERVALS)
            .chain([(horizon + SKEW, last)])
            .map(|(age, interval)| Self {
                age,
                interval,
                position,
                length: LONGEST_SLICE,
                slice: None,
            })
            .collect()
    }

    pub(super) fn age(&self) -> Micros {
        self.age
    }

    pub(super) fn position(&self) -> Micros {
        self.position
    }

    /// Begins again at `position`.
    pub(super) fn reset(&mut self, position: Micros) {
        self.position = position;
        self.slice = None;
    }

    /// What an older cursor has read needs no younger one.
    pub(super) fn at_least(&mut self, position: Micros) {
        if self.position < position {
            self.reset(position);
        }
    }

    /// The next slice, once it is long or full enough. Only what was read before is read again: `read_to`.
    pub(super) fn ready(&self, read_to: Micros, now: Micros) -> Option<(Micros, Micros)> {
        let end = read_to.min(now - self.age);
        let until = end.min(self.position + self.length);
        let whole = until - self.position >= self.interval.min(self.length);
        (whole && until > self.position).then_some((self.position, until))
    }

    /// When [`Self::ready`] may next say yes, as far as time decides.
    pub(super) fn due(&self) -> Micros {
        self.position + self.age + self.interval.min(self.length)
    }

    pub(super) fn begin(&mut self, scan: Scan, (from, until): (Micros, Micros)) {
        self.slice = Some(Slice { scan, from, until });
    }

    /// The slice's pages are all read and its unknown rows handed over.
    pub(super) fn finish(&mut self) {
        let Some(slice) = self.slice.take() else {
            return;
        };
        self.position = self.position.max(slice.until);
        let length = slice.until - slice.from;
        if slice.scan.rows > SLICE_ROWS {
            self.length = length / 2;
        } else if slice.scan.rows < SLICE_ROWS / 4 && length >= self.length {
            self.length *= 2;
        }
        self.length = self.length.clamp(SHORTEST_SLICE, LONGEST_SLICE);
    }

    /// The slice did not succeed: it is read again, in smaller parts.
    pub(super) fn fail(&mut self) {
        if let Some(slice) = self.slice.take() {
            self.length = ((slice.until - slice.from) / 2).max(SHORTEST_SLICE);
        }
    }

    /// Another read of everything in `[from, until)`, started at `started`, counts for this cursor as far as it may.
    pub(super) fn covered(&mut self, from: Micros, until: Micros, started: Micros) {
        if self.position >= from {
            self.position = self.position.max(until.min(started - self.age));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ports::Columns;

    const NOW: Micros = 1_000_000 * SECOND;

    fn last(position: Micros) -> Cursor {
        Cursor::series(180 * SECOND, position).pop().unwrap()
    }

    #[test]
    fn a_slice_waits_for_its_age_and_for_what_was_read() {
        let cursor = last(NOW - 200 * SECOND);
        assert_eq!(
            cursor.ready(NOW, NOW),
            Some((NOW - 200 * SECOND, NOW - 185 * SECOND))
        );
        assert_eq!(
            cursor.ready(NOW - 190 * SECOND, NOW),
            Some((NOW - 200 * SECOND, NOW - 190 * SECOND))
        );
        assert_eq!(cursor.ready(NOW - 200 * SECOND, NOW), None);
        assert_eq!(
            last(NOW - 189 * SECOND).ready(NOW, NOW),
            None,
            "not yet worth a query"
        );
        assert_eq!(last(NOW - 189 * SECOND).due(), NOW + SECOND);
    }

    #[test]
    fn another_read_counts_only_if_it_began_before_the_cursor_and_started_late_enough() {
        let at = NOW - 300 * SECOND;
        let check = |from, until, expected| {
            let mut cursor = last(at);
            cursor.covered(from, until, NOW);
            assert_eq!(cursor.position(), expected, "[{from}, {until})");
        };
        check(at, at + SECOND, at + SECOND);
        check(at, NOW, NOW - 185 * SECOND);
        check(at + 1, NOW, at);
        check(at - SECOND, at - 1, at);
    }

    #[test]
    fn a_failed_slice_is_read_again_in_smaller_parts() {
        let mut cursor = last(NOW - 205 * SECOND);
        let slice = cursor.ready(NOW, NOW).unwrap();
        cursor.begin(
            Scan::new(Arc::from([]), slice.0, Some(slice.1), Columns::Identity),
            slice,
        );
        cursor.fail();
        assert_eq!(
            cursor.ready(NOW, NOW),
            Some((NOW - 205 * SECOND, NOW - 195 * SECOND))
        );
    }
}
