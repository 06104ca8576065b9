//! What a record of a dead-letter topic says: a letter, or what was done with one. Pure.
//!
//! Nothing can be taken out of a topic, so what is done with a letter is a record of its own: with the letter's key and
//! no payload, so that a topic that is compacted by event forgets both.

use std::sync::Arc;

use bytes::Bytes;
use crds::sink::message_headers as names;
use scylla::value::CqlTimestamp;

use super::super::message::headers;
use super::super::replay::{Refusal, judge, replays, set_replays};
use super::super::stored::Stored;
use crate::encode::Message;
use crate::model::SourcePosition;

/// Headers of a record that says what was done with a letter, beside the `event-id`, `source-position` and, of a replay,
/// `replayed` of its event.
pub mod decision_headers {
    /// `replayed` or `discarded`.
    pub const DECISION: &str = "dead-letter-decision";
    /// Partition of the letter.
    pub const PARTITION: &str = "dead-letter-partition";
    /// Offset up to which letters of the event in that partition are done with: those behind it came later.
    pub const OFFSET: &str = "dead-letter-offset";
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub partition: i32,
    pub offset: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    Letter(Box<Letter>),
    Decision(Decision),
    /// No relay wrote it.
    Foreign,
}

/// A letter as the topic has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    pub stored: Stored,
    /// Bytes of the payload that was left out, because the topic did not take it.
    pub omitted: Option<u64>,
}

/// An event that may have several letters: one that a relay writes twice, or one that was replayed and failed again. The
/// id alone is not enough, because changes of one outbox row share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventKey {
    pub event_id: String,
    pub source_position: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    /// Sent again, for so many times by now.
    Replayed(u32),
    Discarded,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub event: EventKey,
    /// The newest letter that it is about; older ones of the event in this partition are meant too.
    pub until: Place,
    pub decided: Decided,
}

impl Decision {
    /// The record that says so. `key` is that of the letter.
    pub fn message(&self, topic: &Arc<str>, key: Option<Bytes>, timestamp: i64) -> Message {
        let (name, replays) = match self.decided {
            Decided::Replayed(replays) => ("replayed", Some(replays)),
            Decided::Discarded => ("discarded", None),
        };
        let own = [
            (names::EVENT_ID, self.event.event_id.clone()),
            (names::SOURCE_POSITION, self.event.source_position.clone()),
            (decision_headers::DECISION, name.to_owned()),
            (decision_headers::PARTITION, self.until.partition.to_string()),
            (decision_headers::OFFSET, self.until.offset.to_string()),
        ];
        let replays = replays.map(|replays| (names::REPLAYED, replays.to_string()));
        let headers = own.into_iter().chain(replays);
        Message {
            topic: topic.clone(),
            key,
            payload: None,
            headers: headers
                .map(|(name, value)| (Arc::from(name), Bytes::from(value)))
                .collect(),
            timestamp,
        }
    }
}

/// Takes a record apart.
pub fn read(message: Message) -> Record {
    let read = if text(&message.headers, decision_headers::DECISION).is_some() {
        decision(&message.headers).map(Record::Decision)
    } else {
        letter(message).map(|letter| Record::Letter(Box::new(letter)))
    };
    read.unwrap_or(Record::Foreign)
}

fn decision(headers: &[(Arc<str>, Bytes)]) -> Option<Decision> {
    let number = |name| text(headers, name)?.parse().ok();
    let decided = match text(headers, decision_headers::DECISION)? {
        "replayed" => Decided::Replayed(replays(headers)),
        "discarded" => Decided::Discarded,
        _ => return None,
    };
    Some(Decision {
        event: event_key(headers)?,
        until: Place {
            partition: i32::try_from(number(decision_headers::PARTITION)?).ok()?,
            offset: number(decision_headers::OFFSET)?,
        },
        decided,
    })
}

fn letter(message: Message) -> Option<Letter> {
    // The message's own headers may have any name, but ours come behind them.
    let error = |(name, _): &(Arc<str>, Bytes)| &**name == headers::ERROR;
    let at = message.headers.iter().rposition(error)?;
    let (meant, own) = message.headers.split_at(at);
    let event = event_key(meant)?;
    let position = SourcePosition::parse(&event.source_position)?;
    let owned = |headers, name| text(headers, name).map(str::to_owned);
    let time = |headers, name| Some(CqlTimestamp(milliseconds(text(headers, name)?)?));
    let stored = Stored {
        slot: text(own, headers::SLOT)?.parse().ok()?,
        source_time: position.time.0.into(),
        source_stream: position.stream.0.to_vec(),
        source_seq: position.batch_seq_no,
        event_id: Some(event.event_id),
        aggregate_id: owned(meant, names::AGGREGATE_ID),
        event_type: owned(meant, names::EVENT_TYPE),
        payload: message.payload.map(Vec::from),
        error_message: owned(own, headers::ERROR),
        failure_count: text(own, headers::FAILURES).and_then(|count| count.parse().ok()),
        first_failed_at: time(own, headers::FIRST_FAILED_AT),
        last_failed_at: time(own, headers::LAST_FAILED_AT),
        created_at: time(meant, names::CREATED_AT),
        topic: owned(own, headers::TOPIC),
        key: message.key.map(Vec::from),
        headers: Some(
            meant
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_vec()))
                .collect(),
        ),
        source_position: Some(event.source_position),
        error_class: owned(own, headers::CLASS),
        outcome: owned(own, headers::OUTCOME),
        status: None,
    };
    let omitted = text(own, headers::PAYLOAD_OMITTED).map(|bytes| bytes.parse().unwrap_or(0));
    Some(Letter { stored, omitted })
}

impl Letter {
    pub fn event(&self) -> EventKey {
        EventKey {
            event_id: self.stored.event_id.clone().unwrap_or_default(),
            source_position: self.stored.source_position.clone().unwrap_or_default(),
        }
    }

    /// See [`judge`].
    ///
    /// # Errors
    /// Why it must not be sent.
    pub fn judge(&self, max: u32) -> Result<Message, Refusal> {
        match self.omitted {
            Some(bytes) => Err(Refusal::PayloadOmitted { bytes }),
            None => judge(&self.stored, max),
        }
    }

    /// Notes how often its event was replayed, as the headers of a letter of the table say.
    pub fn replayed(&mut self, replays: u32) {
        set_replays(self.stored.headers.get_or_insert_default(), replays);
    }
}

/// The relay's own headers come first, so the first one of a name is its.
fn text<'a>(headers: &'a [(Arc<str>, Bytes)], wanted: &str) -> Option<&'a str> {
    let (_, value) = headers.iter().find(|(name, _)| &**name == wanted)?;
    std::str::from_utf8(value).ok()
}

fn event_key(headers: &[(Arc<str>, Bytes)]) -> Option<EventKey> {
    Some(EventKey {
        event_id: text(headers, names::EVENT_ID)?.to_owned(),
        source_position: text(headers, names::SOURCE_POSITION)?.to_owned(),
    })
}

fn milliseconds(text: &str) -> Option<i64> {
    let time: crds::Timestamp = text.parse().ok()?;
    i64::try_from(time.milliseconds()).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dead_letters::message::message;
    use crate::model::{CdcTime, SlotId, StreamId};
    use crate::ports::{DeadLetter, Outcome, Reason};

    /// A letter of an event that was written in this second, with two headers of its writer's that look like ours.
    pub(in crate::dead_letters::topic) fn given_up(second: i64, failed_at: i64) -> DeadLetter {
        let position = SourcePosition {
            stream: StreamId([7; 16]),
            time: CdcTime::min_of(second * 1_000_000),
            batch_seq_no: 2,
        };
        let header = |name: &str, value: &str| (Arc::from(name), Bytes::from(value.to_owned()));
        DeadLetter {
            slot: SlotId::new(9).unwrap(),
            position,
            event_id: format!("e-{second}"),
            aggregate_id: Some("a".to_owned()),
            event_type: Some("T".into()),
            created_at: Some(1_000_000),
            message: Message {
                topic: "orders".into(),
                key: Some("a".into()),
                payload: Some("{}".into()),
                headers: vec![
                    header(names::EVENT_ID, &format!("e-{second}")),
                    header(names::EVENT_TYPE, "T"),
                    header(names::AGGREGATE_ID, "a"),
                    header(names::SOURCE_POSITION, &position.to_string()),
                    header(names::CREATED_AT, "1970-01-01T00:00:01.000Z"),
                    header(headers::ERROR, "the writer's own"),
                    header(headers::PAYLOAD_OMITTED, "1"),
                ],
                timestamp: 1_000,
            },
            reason: Reason::Rejected,
            pending: None,
            error: "MessageSizeTooLarge: refused".to_owned(),
            outcome: Outcome::NotWritten,
            failures: 2,
            first_failed_at: failed_at * 1_000_000,
            last_failed_at: failed_at * 1_000_000,
        }
    }

    pub(in crate::dead_letters::topic) fn as_letter(message: Message) -> Letter {
        match read(message) {
            Record::Letter(letter) => *letter,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_letter_is_read_as_the_message_that_was_meant() {
        let letter = given_up(5, 60);
        let read = as_letter(message(&letter, &"letters".into(), false));
        let sent = read.judge(5).unwrap();
        let mut headers = letter.message.headers.clone();
        headers.push((names::REPLAYED.into(), "1".into()));
        let expected = Message {
            headers,
            // As of a letter of the table: the time of its write.
            timestamp: 5_000,
            ..letter.message.clone()
        };
        assert_eq!((sent, read.omitted), (expected, None));
        let stored = &read.stored;
        assert_eq!(stored.place(), Some((letter.slot, letter.position)));
        let texts = [
            &stored.event_id,
            &stored.aggregate_id,
            &stored.event_type,
            &stored.error_class,
        ];
        assert_eq!(
            texts.map(|text| text.as_deref().unwrap()),
            ["e-5", "a", "T", "message"]
        );
        let times = (stored.created_at, stored.first_failed_at, stored.last_failed_at);
        let at = |second: i64| Some(CqlTimestamp(second * 1000));
        assert_eq!((times, stored.failure_count), ((at(1), at(60), at(60)), Some(2)));
        assert_eq!(stored.outcome.as_deref(), Some("not-written"));
    }

    #[test]
    fn a_letter_without_its_payload_is_not_sent() {
        let held = DeadLetter {
            reason: Reason::Held,
            ..given_up(5, 60)
        };
        let bare = as_letter(message(&held, &"letters".into(), true));
        assert_eq!(bare.judge(5), Err(Refusal::PayloadOmitted { bytes: 2 }));
    }

    #[test]
    fn decisions_are_read_as_they_were_written_and_what_nobody_wrote_is_foreign() {
        let topic: Arc<str> = "letters".into();
        for decided in [Decided::Replayed(3), Decided::Discarded] {
            let decision = Decision {
                event: as_letter(message(&given_up(5, 60), &topic, false)).event(),
                until: Place {
                    partition: 2,
                    offset: 1 << 40,
                },
                decided,
            };
            let written = decision.message(&topic, Some("a".into()), 7);
            assert_eq!(
                (&written.payload, written.key.as_deref()),
                (&None, Some(b"a".as_slice()))
            );
            assert_eq!(read(written.clone()), Record::Decision(decision));
            let mut unheard_of = written;
            unheard_of.headers[2].1 = "postponed".into();
            assert_eq!(read(unheard_of), Record::Foreign);
        }
        assert_eq!(
            read(given_up(5, 60).message),
            Record::Foreign,
            "an event is no letter"
        );
        let mut nowhere = message(&given_up(5, 60), &topic, false);
        nowhere.headers[3].1 = "elsewhere".into();
        assert_eq!(read(nowhere), Record::Foreign);
    }
}
