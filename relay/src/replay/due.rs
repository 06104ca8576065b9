//! Which letters the relay replays without anybody asking (`deadLetter.replay`). Pure.

use std::collections::HashSet;
use std::time::Duration;

use crds::dead_letter::{AutomaticReplay, OnAggregate};

use crate::dead_letters::table::WAITING;
use crate::deliver::prepare::fingerprint;
use crate::model::{Micros, SourcePosition};
use crate::ports::{ErrorClass, Reason, Standing};

/// Letters of a slot that may be due, in the order of the log. Whether they are depends on how often they were replayed,
/// which only the letter itself tells.
#[derive(Debug)]
pub(super) struct Due<'a> {
    replay: &'a AutomaticReplay,
    now: Micros,
    /// Aggregates of which a letter stands that is not due (`onAggregate: Hold`).
    stopped: Option<HashSet<u64>>,
    found: Vec<Candidate>,
}

/// A letter that may be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) position: SourcePosition,
    pub(super) aggregate: u64,
    pub(super) last_failed_at: Micros,
}

impl<'a> Due<'a> {
    pub(super) fn new(replay: &'a AutomaticReplay, on_aggregate: OnAggregate, now: Micros) -> Self {
        Self {
            replay,
            now,
            stopped: (on_aggregate == OnAggregate::Hold).then(HashSet::new),
            found: Vec::new(),
        }
    }

    /// The next letter of the slot.
    pub(super) fn see(&mut self, letter: Standing<'_>) {
        let candidate = self.candidate(&letter);
        let Some(stopped) = &mut self.stopped else {
            self.found.extend(candidate);
            return;
        };
        match candidate {
            Some(candidate) if !stopped.contains(&candidate.aggregate) => self.found.push(candidate),
            // One that was only held follows by itself, and stops nobody.
            None if letter.class != Some(Reason::Held.name()) => {
                stopped.insert(fingerprint(letter.aggregate_id, letter.event_id));
            }
            _ => {}
        }
    }

    fn candidate(&self, letter: &Standing<'_>) -> Option<Candidate> {
        let classes = [ErrorClass::Configuration, ErrorClass::Transient];
        let classes = classes.map(|class| Reason::Exhausted(class).name());
        let waits = letter.status.is_none_or(|status| status == WAITING);
        let candidate = Candidate {
            position: letter.position,
            aggregate: fingerprint(letter.aggregate_id, letter.event_id),
            last_failed_at: letter.last_failed_at?,
        };
        let takes = waits && classes.contains(&letter.class?);
        (takes && candidate.due_at(self.replay, 0) <= self.now).then_some(candidate)
    }

    pub(super) fn into_candidates(self) -> Vec<Candidate> {
        self.found
    }
}

impl Candidate {
    /// When it is due if it was replayed so often.
    pub(super) fn due_at(&self, replay: &AutomaticReplay, replays: u32) -> Micros {
        self.last_failed_at
            .saturating_add(micros(replay.backoff(replays)))
    }
}

/// At most 7 days, so it fits.
fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::table::{PENDING, QUARANTINED, REPLAYING, SENDING};
    use crate::model::{CdcTime, SECOND, StreamId};

    const NOW: Micros = 10_000 * SECOND;

    fn position(number: u64) -> SourcePosition {
        SourcePosition {
            stream: StreamId([0; 16]),
            time: CdcTime::min_of(number as i64),
            batch_seq_no: 0,
        }
    }

    /// Class, status and age in seconds of letters of one aggregate; which of them may be due.
    fn due(on_aggregate: OnAggregate, letters: &[(&str, &str, i64)]) -> Vec<usize> {
        let replay = AutomaticReplay::default();
        let mut due = Due::new(&replay, on_aggregate, NOW);
        for (number, (class, status, age)) in letters.iter().enumerate() {
            due.see(Standing {
                position: position(number as u64),
                event_id: &number.to_string(),
                aggregate_id: Some("a"),
                class: Some(class),
                status: Some(status),
                last_failed_at: Some(NOW - age * SECOND),
            });
        }
        let number = |candidate: Candidate| candidate.position.time.micros() as usize;
        due.into_candidates().into_iter().map(number).collect()
    }

    #[test]
    fn what_an_outage_gave_up_is_due_after_its_back_off_and_nothing_else_ever_is() {
        let letters = [
            ("transient", WAITING, 60),
            ("configuration", WAITING, 3_600),
            ("transient", WAITING, 59),
            ("message", WAITING, 3_600),
            ("held", WAITING, 3_600),
            ("reconciled", WAITING, 3_600),
            ("transient", QUARANTINED, 3_600),
            ("transient", REPLAYING, 3_600),
            ("transient", SENDING, 3_600),
            ("transient", PENDING, 3_600),
        ];
        assert_eq!(due(OnAggregate::Continue, &letters), [0, 1]);
    }

    #[test]
    fn none_overtakes_another_letter_of_a_held_aggregate() {
        let letters = [
            ("transient", WAITING, 60),
            ("held", WAITING, 60),
            ("transient", WAITING, 60),
            ("message", WAITING, 60),
            ("transient", WAITING, 60),
        ];
        assert_eq!(due(OnAggregate::Hold, &letters), [0, 2]);
        let replayed = [("transient", REPLAYING, 60), ("transient", WAITING, 60)];
        assert_eq!(due(OnAggregate::Hold, &replayed), [] as [usize; 0]);
    }

    #[test]
    fn a_letter_waits_longer_each_time() {
        let replay = AutomaticReplay::default();
        let candidate = Candidate {
            position: position(0),
            aggregate: 0,
            last_failed_at: NOW,
        };
        let waits = [0, 1, 2, 9].map(|replays| (candidate.due_at(&replay, replays) - NOW) / SECOND);
        assert_eq!(waits, [60, 120, 240, 3600]);
    }
}
