//! What a dead-letter topic amounts to: the letters that nobody has decided on. Pure; the order in which partitions are
//! read does not matter.

use std::collections::{BTreeMap, HashMap};

use super::super::table::QUARANTINED;
use super::record::{Decided, Decision, EventKey, Letter, Place, Record};
use crate::model::{CdcTime, StreamId};

/// A letter that is undecided. Its payload is elsewhere: in the topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Without its payload: empty if it has one.
    pub letter: Letter,
    /// Of its newest record.
    pub place: Place,
    /// The newest record of its event in each partition: a decision is about all of them. More than one only if the topic
    /// got more partitions meanwhile, or the letter has no key.
    pub ends: Vec<Place>,
    pub replays: u32,
    /// Of its payload.
    pub bytes: usize,
}

/// What was read so far. An undecided letter takes about a kilobyte, a decided one about 200 bytes.
#[derive(Debug, Default)]
pub struct Fold {
    events: HashMap<EventKey, Event>,
    /// Records that no relay wrote.
    pub foreign: u64,
}

#[derive(Debug, Default)]
struct Event {
    open: Vec<Kept>,
    /// Offset per partition up to which letters are decided.
    decided: BTreeMap<i32, i64>,
    replays: u32,
}

impl Fold {
    pub fn see(&mut self, place: Place, record: Record) {
        match record {
            Record::Letter(letter) => self.letter(place, *letter),
            Record::Decision(decision) => self.decision(decision),
            Record::Foreign => self.foreign += 1,
        }
    }

    fn letter(&mut self, place: Place, mut letter: Letter) {
        let event = self.events.entry(letter.event()).or_default();
        let replays = super::super::replay::replays_of(&letter.stored);
        event.replays = event.replays.max(replays);
        if event.is_decided(place) {
            return;
        }
        let bytes = letter
            .stored
            .payload
            .as_mut()
            .map_or(0, |payload| std::mem::take(payload).len());
        event.open.push(Kept {
            letter,
            place,
            ends: Vec::new(),
            replays,
            bytes,
        });
    }

    fn decision(&mut self, decision: Decision) {
        let event = self.events.entry(decision.event).or_default();
        let Place { partition, offset } = decision.until;
        let until = event.decided.entry(partition).or_insert(offset);
        *until = offset.max(*until);
        if let Decided::Replayed(replays) = decision.decided {
            event.replays = event.replays.max(replays);
        }
        let Event { open, decided, .. } = event;
        open.retain(|kept| !is_decided(decided, kept.place));
    }

    /// One letter per event that is undecided, in the order of the log, so an aggregate's letters are in its order. Those
    /// that were replayed `max` times are quarantined.
    pub fn finish(self, max: u32) -> Vec<Kept> {
        let undecided = self.events.into_values().filter_map(|event| event.finish(max));
        let mut letters: Vec<_> = undecided.collect();
        letters.sort_by_key(Kept::order);
        letters
    }
}

impl Event {
    fn is_decided(&self, place: Place) -> bool {
        is_decided(&self.decided, place)
    }

    /// What was replayed most often, then given up last, says most of it.
    fn finish(mut self, max: u32) -> Option<Kept> {
        let mut ends = BTreeMap::new();
        for kept in &self.open {
            let end = ends.entry(kept.place.partition).or_insert(kept.place.offset);
            *end = kept.place.offset.max(*end);
        }
        let failed_at = |kept: &Kept| kept.letter.stored.last_failed_at.map(|at| at.0);
        self.open
            .sort_by_key(|kept| (kept.replays, failed_at(kept), kept.place));
        let mut kept = self.open.pop()?;
        kept.ends = ends
            .into_iter()
            .map(|(partition, offset)| Place { partition, offset })
            .collect();
        kept.replays = self.replays;
        kept.settle(max);
        Some(kept)
    }
}

fn is_decided(decided: &BTreeMap<i32, i64>, place: Place) -> bool {
    decided
        .get(&place.partition)
        .is_some_and(|until| place.offset <= *until)
}

impl Kept {
    /// Where its event stands in the log.
    pub fn order(&self) -> (CdcTime, StreamId, i32) {
        let stored = &self.letter.stored;
        let stream = <[u8; 16]>::try_from(stored.source_stream.as_slice()).unwrap_or_default();
        (
            CdcTime(stored.source_time.into()),
            StreamId(stream),
            stored.source_seq,
        )
    }

    /// The same letter with what only the topic has, as it was read there again.
    pub fn with(&self, letter: Letter) -> Letter {
        Letter {
            stored: super::super::stored::Stored {
                headers: self.letter.stored.headers.clone(),
                status: self.letter.stored.status.clone(),
                ..letter.stored
            },
            ..letter
        }
    }

    fn settle(&mut self, max: u32) {
        if self.replays > 0 {
            self.letter.replayed(self.replays);
        }
        if self.replays >= max {
            self.letter.stored.status = Some(QUARANTINED.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{as_letter, given_up};
    use super::*;
    use crate::dead_letters::message::message;

    const TWICE: u32 = 2;

    fn at(partition: i32, offset: i64) -> Place {
        Place { partition, offset }
    }

    /// A letter that was given up at this second, after so many replays.
    fn letter(second: i64, failed_at: i64, replays: u32) -> Record {
        let mut letter = as_letter(message(&given_up(second, failed_at), &"letters".into(), false));
        if replays > 0 {
            letter.replayed(replays);
        }
        Record::Letter(Box::new(letter))
    }

    fn decision(second: i64, until: Place, decided: Decided) -> Record {
        let Record::Letter(letter) = letter(second, 0, 0) else {
            unreachable!("it is one")
        };
        let event = letter.event();
        Record::Decision(Decision {
            event,
            until,
            decided,
        })
    }

    fn fold(records: Vec<(Place, Record)>) -> Vec<Kept> {
        let mut fold = Fold::default();
        records
            .into_iter()
            .for_each(|(place, record)| fold.see(place, record));
        fold.finish(TWICE)
    }

    fn places(kept: &[Kept]) -> Vec<(Place, u32)> {
        kept.iter().map(|kept| (kept.place, kept.replays)).collect()
    }

    #[test]
    fn letters_stand_in_the_order_of_the_log_without_their_payloads() {
        let kept = fold(vec![
            (at(0, 4), letter(3, 10, 0)),
            (at(1, 2), letter(1, 30, 0)),
            (at(0, 5), letter(2, 20, 0)),
        ]);
        assert_eq!(places(&kept), [(at(1, 2), 0), (at(0, 5), 0), (at(0, 4), 0)]);
        assert!(
            kept.iter()
                .all(|kept| (kept.bytes, kept.letter.stored.payload.as_deref()) == (2, Some(&[][..])))
        );
    }

    #[test]
    fn what_was_decided_is_gone_and_what_came_later_is_not() {
        let replayed = |until| decision(1, until, Decided::Replayed(1));
        // A relay that has crashed writes its letter again: before the decision, or after it.
        let twice = vec![(at(0, 4), letter(1, 10, 0)), (at(0, 7), letter(1, 20, 0))];
        let mut decided = twice.clone();
        decided.push((at(0, 8), replayed(at(0, 7))));
        assert_eq!(places(&fold(decided.clone())), []);
        decided.push((at(0, 9), letter(1, 30, 0)));
        assert_eq!(places(&fold(decided)), [(at(0, 9), 1)], "it was replayed once");
        let mut raced = twice.clone();
        raced.push((at(0, 8), replayed(at(0, 4))));
        assert_eq!(
            places(&fold(raced)),
            [(at(0, 7), 1)],
            "nobody who decided had seen it"
        );
        // Of another partition, which may be read first.
        let elsewhere = vec![(at(1, 0), replayed(at(0, 7))), twice[0].clone(), twice[1].clone()];
        assert_eq!(places(&fold(elsewhere)), []);
        let other = vec![(at(0, 4), letter(2, 10, 0)), (at(0, 8), replayed(at(0, 4)))];
        assert_eq!(places(&fold(other)), [(at(0, 4), 0)], "another event's");
    }

    #[test]
    fn letters_of_one_event_are_one_wherever_they_are() {
        let kept = fold(vec![
            (at(0, 4), letter(1, 10, 0)),
            (at(2, 3), letter(1, 50, 1)),
            (at(2, 9), letter(1, 90, 0)),
        ]);
        assert_eq!(places(&kept), [(at(2, 3), 1)], "the one that was replayed");
        assert_eq!(
            kept[0].ends,
            [at(0, 4), at(2, 9)],
            "a decision is about all of them"
        );
        assert_eq!(kept[0].letter.judge(TWICE).map(|_| ()), Ok(()));
    }

    #[test]
    fn what_was_replayed_as_often_as_is_accepted_is_quarantined() {
        let kept = fold(vec![
            (at(0, 4), letter(1, 10, 0)),
            (at(0, 5), decision(1, at(0, 4), Decided::Replayed(2))),
            (at(0, 6), letter(1, 10, 0)),
            (at(0, 7), letter(2, 10, 1)),
        ]);
        let statuses: Vec<_> = kept
            .iter()
            .map(|kept| kept.letter.stored.status.as_deref())
            .collect();
        assert_eq!(statuses, [Some(QUARANTINED), None]);
        assert!(kept[0].letter.judge(TWICE).is_err());
    }
}
