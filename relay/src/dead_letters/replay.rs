//! Which dead letters may be sent again, and as what. Pure.

use std::sync::Arc;

use bytes::Bytes;
use crds::sink::message_headers::REPLAYED;
use thiserror::Error;

use super::stored::Stored;
use crate::deliver::lane::{Event, Replay};
use crate::deliver::prepare::{fingerprint, made_no_message};
use crate::encode::Message;
use crate::metrics::EventLabel;
use crate::ports::Reason;

/// Why a letter is not sent again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("it is not decided yet: the transaction that gives it up, or sends it, is not committed")]
    Pending,
    #[error("its key is not one that a relay writes")]
    Foreign,
    #[error("no message could be made of its event; have it written anew, then discard this")]
    NoMessage,
    #[error("it has no payload to publish; have its event written anew, then discard this")]
    NoPayload,
    #[error(
        "its payload of {bytes} bytes was too large for the dead-letter topic and was left out there; have its event written \
         anew, then discard this"
    )]
    PayloadOmitted { bytes: u64 },
    #[error("there is no topic {topic}, for which it was meant; create it, or discard this")]
    NoTopic { topic: String },
    #[error("an earlier letter of its aggregate, that of event {event_id}, failed again")]
    Stopped { event_id: String },
    #[error(
        "an earlier letter of its aggregate stands before it, that of event {event_id} (deadLetter.onAggregate: Hold); \
         replay that one with it, as --aggregate does, or discard it first"
    )]
    Behind { event_id: String },
    #[error(
        "it is quarantined: it was replayed {replays} times; accepted: fewer than deadLetter.maxReplays, {max}"
    )]
    Quarantined { replays: u32, max: u32 },
}

/// The message that is sent instead of a letter: the stored one, and how often it was replayed with this time.
///
/// # Errors
/// Why it must not be.
pub fn judge(letter: &Stored, max: u32) -> Result<Message, Refusal> {
    if letter.is_undecided() {
        return Err(Refusal::Pending);
    }
    let (_, position) = letter.place().ok_or(Refusal::Foreign)?;
    let topic = letter.topic.as_deref().filter(|topic| !topic.is_empty());
    let topic = topic.filter(|_| !letter.error_message.as_deref().is_some_and(made_no_message));
    let topic = topic.ok_or(Refusal::NoMessage)?;
    // What was only held had a message, and one without a payload is a tombstone.
    let was_held = letter.error_class.as_deref() == Some(Reason::Held.name());
    if letter.payload.is_none() && !was_held {
        return Err(Refusal::NoPayload);
    }
    let headers = letter.headers.iter().flatten();
    let headers = headers.map(|(name, value)| (Arc::from(name.as_str()), Bytes::from(value.clone())));
    let mut headers: Vec<_> = headers.collect();
    let replays = replays(&headers);
    if replays >= max {
        return Err(Refusal::Quarantined { replays, max });
    }
    headers.retain(|(name, _)| &**name != REPLAYED);
    headers.push((REPLAYED.into(), (replays + 1).to_string().into()));
    Ok(Message {
        topic: topic.into(),
        key: letter.key.clone().map(Bytes::from),
        payload: letter.payload.clone().map(Bytes::from),
        headers,
        timestamp: position.time.micros() / 1000,
    })
}

/// The letter as an event for the lane; None if its key is not one that a relay writes.
pub fn event(letter: Stored, message: Message, label: EventLabel, replay: Replay) -> Option<Event> {
    let (slot, position) = letter.place()?;
    let event_id = letter.event_id.unwrap_or_default();
    Some(Event {
        slot,
        position,
        row_id: position.row_id(),
        aggregate: fingerprint(letter.aggregate_id.as_deref(), &event_id),
        label,
        event_id,
        aggregate_id: letter.aggregate_id,
        event_type: letter.event_type.map(Arc::from),
        created_at: letter.created_at.map(|at| at.0.saturating_mul(1000)),
        message,
        problem: None,
        trace: None,
        replay: Some(replay),
    })
}

/// How often a letter was replayed.
pub fn replays_of(letter: &Stored) -> u32 {
    let headers = letter.headers.iter().flatten();
    let count = headers.filter(|(name, _)| name == REPLAYED);
    let count = count.map(|(_, value)| (Arc::from(REPLAYED), Bytes::from(value.clone())));
    replays(&count.collect::<Vec<_>>())
}

/// Notes in a letter's headers how often it was replayed.
pub(super) fn set_replays(headers: &mut Vec<(String, Vec<u8>)>, replays: u32) {
    headers.retain(|(name, _)| name != REPLAYED);
    headers.push((REPLAYED.to_owned(), replays.to_string().into_bytes()));
}

/// How often a message with these headers was replayed.
pub(super) fn replays(headers: &[(Arc<str>, Bytes)]) -> u32 {
    let header = headers.iter().find(|(name, _)| &**name == REPLAYED);
    // A header that is no number is not ours; it counts as one replay.
    header.map_or(0, |(_, value)| {
        let text = std::str::from_utf8(value).ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::stored::tests::letter;
    use crate::dead_letters::table::PENDING;

    fn replayed(count: &str) -> Stored {
        let mut headers = vec![("event-id".to_owned(), b"e-1".to_vec())];
        headers.push((REPLAYED.to_owned(), count.as_bytes().to_vec()));
        Stored {
            headers: Some(headers),
            ..letter()
        }
    }

    #[test]
    fn the_stored_message_is_sent_and_says_how_often() {
        let message = judge(&letter(), 5).unwrap();
        assert_eq!(
            (
                &*message.topic,
                message.key.as_deref(),
                message.payload.as_deref()
            ),
            ("orders", Some([0xff, 0x01].as_slice()), Some(b"{}".as_slice()))
        );
        let names: Vec<_> = message.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(
            (names, replays(&message.headers)),
            (vec!["event-id", REPLAYED], 1)
        );
        let again = judge(&replayed("3"), 5).unwrap();
        assert_eq!((again.headers.len(), replays(&again.headers)), (2, 4));
    }

    #[test]
    fn what_cannot_be_sent_is_refused_for_its_reason() {
        let check = |letter: Stored, expected: Refusal| assert_eq!(judge(&letter, 5), Err(expected));
        let pending = Some(PENDING.to_owned());
        check(
            Stored {
                status: pending,
                ..letter()
            },
            Refusal::Pending,
        );
        check(
            Stored {
                payload: None,
                ..letter()
            },
            Refusal::NoPayload,
        );
        check(
            Stored {
                topic: Some(String::new()),
                ..letter()
            },
            Refusal::NoMessage,
        );
        let unusable = Some("Unencodable: the payload is not JSON".to_owned());
        check(
            Stored {
                error_message: unusable,
                ..letter()
            },
            Refusal::NoMessage,
        );
        check(Stored { slot: 64, ..letter() }, Refusal::Foreign);
        check(
            Stored {
                source_stream: vec![1],
                ..letter()
            },
            Refusal::Foreign,
        );
        check(replayed("5"), Refusal::Quarantined { replays: 5, max: 5 });
        assert!(judge(&replayed("4"), 5).is_ok() && judge(&replayed("5"), 6).is_ok());
    }

    #[test]
    fn its_event_stands_where_the_letter_is_and_in_the_order_of_its_aggregate() {
        let message = judge(&letter(), 5).unwrap();
        let event = event(letter(), message, EventLabel::default(), Replay::default()).unwrap();
        assert_eq!(
            (
                event.slot.index(),
                event.event_id.as_str(),
                event.replay.is_some()
            ),
            (3, "e-1", true)
        );
        assert_eq!(event.row_id, event.position.row_id());
        assert_eq!(event.aggregate, fingerprint(Some("a-1"), "another"));
    }
}
