//! Dead letters as they lie in the table, for people: which are meant, and how they are shown.

use std::fmt::Write as _;
use std::time::Duration;

use scylla::DeserializeRow;
use scylla::value::{CqlTimestamp, CqlTimeuuid};
use serde_json::{Value, json};

use super::table::{PENDING, SENDING};
use crate::decode::timestamp;
use crate::model::{CdcTime, Micros, SlotId, SourcePosition, StreamId};

/// One row. A text that the relay could not find out is None.
#[derive(Debug, Clone, PartialEq, DeserializeRow)]
pub struct Stored {
    pub slot: i32,
    pub source_time: CqlTimeuuid,
    pub source_stream: Vec<u8>,
    pub source_seq: i32,
    pub event_id: Option<String>,
    pub aggregate_id: Option<String>,
    pub event_type: Option<String>,
    pub payload: Option<Vec<u8>>,
    pub error_message: Option<String>,
    pub failure_count: Option<i32>,
    pub first_failed_at: Option<CqlTimestamp>,
    pub last_failed_at: Option<CqlTimestamp>,
    pub created_at: Option<CqlTimestamp>,
    pub topic: Option<String>,
    pub key: Option<Vec<u8>>,
    pub headers: Option<Vec<(String, Vec<u8>)>>,
    pub source_position: Option<String>,
    pub error_class: Option<String>,
    pub outcome: Option<String>,
    pub status: Option<String>,
}

/// Columns of [`Stored`], as a SELECT names them.
pub const COLUMNS: &str = "slot, source_time, source_stream, source_seq, event_id, aggregate_id, event_type, payload, \
                           error_message, failure_count, first_failed_at, last_failed_at, created_at, topic, key, headers, \
                           source_position, error_class, outcome, status";

/// Which letters are meant: those that have all that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub event_id: Option<String>,
    pub event_type: Option<String>,
    pub aggregate_id: Option<String>,
    pub class: Option<String>,
    /// Given up at least this long ago.
    pub older_than: Option<Duration>,
}

impl Filter {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `now` in microseconds since the Unix epoch.
    pub fn takes(&self, letter: &Stored, now: Micros) -> bool {
        let is = |asked: &Option<String>, has: &Option<String>| asked.is_none() || asked == has;
        let old_enough = self.older_than.is_none_or(|age| {
            let age = age.as_micros().min(Micros::MAX as u128) as Micros;
            letter
                .last_failed_at
                .is_some_and(|at| at.0.saturating_mul(1000) <= now.saturating_sub(age))
        });
        is(&self.event_id, &letter.event_id)
            && is(&self.event_type, &letter.event_type)
            && is(&self.aggregate_id, &letter.aggregate_id)
            && is(&self.class, &letter.error_class)
            && old_enough
    }
}

impl Stored {
    /// The transaction that gives its event up, or sends it again, may or may not be committed.
    pub fn is_undecided(&self) -> bool {
        matches!(self.status.as_deref(), Some(PENDING | SENDING))
    }

    /// Where it lies; None if its key is not one that a relay writes.
    pub fn place(&self) -> Option<(SlotId, SourcePosition)> {
        let slot = SlotId::new(u8::try_from(self.slot).ok()?)?;
        let stream = <[u8; 16]>::try_from(self.source_stream.as_slice()).ok()?;
        let position = SourcePosition {
            stream: StreamId(stream),
            time: CdcTime(self.source_time.into()),
            batch_seq_no: self.source_seq,
        };
        Some((slot, position))
    }

    /// What is left when a letter is removed while somebody asks for it.
    pub fn is_remnant(&self) -> bool {
        self.event_id.is_none() && self.error_class.is_none()
    }

    /// One line of a list.
    pub fn line(&self) -> String {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let error = text(&self.error_message);
        let error = error.lines().next().unwrap_or_default();
        format!(
            "{}  {:36}  {:20}  {:36}  {:13}  {error}",
            time(self.last_failed_at).unwrap_or_else(|| "-".to_owned()),
            text(&self.event_id),
            text(&self.event_type),
            text(&self.aggregate_id),
            text(&self.error_class),
        )
    }

    /// Everything that is known of it. Bytes that are UTF-8 are text, others `{"hex": ...}`.
    pub fn json(&self) -> Value {
        let headers = self.headers.iter().flatten();
        let headers: Vec<_> = headers.map(|(name, value)| json!([name, bytes(value)])).collect();
        json!({
            "eventId": self.event_id,
            "eventType": self.event_type,
            "aggregateId": self.aggregate_id,
            "status": self.status.as_deref().unwrap_or("waiting"),
            "class": self.error_class,
            "error": self.error_message,
            "outcome": self.outcome,
            "failures": self.failure_count,
            "firstFailedAt": time(self.first_failed_at),
            "lastFailedAt": time(self.last_failed_at),
            "topic": self.topic,
            "key": self.key.as_deref().map(bytes),
            "headers": headers,
            "payload": self.payload.as_deref().map(bytes),
            "sourcePosition": self.source_position,
            "slot": self.slot,
        })
    }
}

fn time(at: Option<CqlTimestamp>) -> Option<String> {
    at.map(|at| timestamp(at.0))
}

fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `90s`, `15m`, `1h`, `7d`.
///
/// # Errors
/// What is accepted.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    let accepted = || format!("\"{text}\" is no age; accepted: a number with s, m, h or d, as in 1h");
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let number: u64 = number.parse().map_err(|_| accepted())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(accepted()),
    };
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(accepted)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::SECOND;

    pub(crate) fn letter() -> Stored {
        Stored {
            slot: 3,
            source_time: CqlTimeuuid::from_bytes([0; 16]),
            source_stream: vec![1; 16],
            source_seq: 0,
            event_id: Some("e-1".into()),
            aggregate_id: Some("a-1".into()),
            event_type: Some("OrderCreated".into()),
            payload: Some(b"{}".to_vec()),
            error_message: Some("MessageSizeTooLarge: refused\nsecond line".into()),
            failure_count: Some(1),
            first_failed_at: Some(CqlTimestamp(1_000)),
            last_failed_at: Some(CqlTimestamp(2_000)),
            created_at: None,
            topic: Some("orders".into()),
            key: Some(vec![0xff, 0x01]),
            headers: Some(vec![("event-id".into(), b"e-1".to_vec())]),
            source_position: None,
            error_class: Some("message".into()),
            outcome: Some("not-written".into()),
            status: None,
        }
    }

    #[test]
    fn a_filter_takes_what_has_all_that_is_asked_for() {
        let some = |text: &str| Some(text.to_owned());
        let takes = |filter: &Filter, now| filter.takes(&letter(), now);
        assert!(takes(&Filter::default(), 0) && Filter::default().is_empty());
        for (event_type, class, expected) in [
            (some("OrderCreated"), None, true),
            (some("OrderCreated"), some("message"), true),
            (some("OrderCreated"), some("transient"), false),
            (some("OrderShipped"), None, false),
        ] {
            let filter = Filter {
                event_type,
                class,
                ..Filter::default()
            };
            assert_eq!(takes(&filter, 0), expected, "{filter:?}");
            assert!(!filter.is_empty());
        }
        let old = Filter {
            older_than: Some(Duration::from_secs(60)),
            ..Filter::default()
        };
        assert!(!takes(&old, 61 * SECOND) && takes(&old, 62 * SECOND));
    }

    #[test]
    fn ages_are_read_and_wrong_ones_named() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(seconds)));
        }
        for wrong in [
            "",
            "h",
            "1",
            "1w",
            "-1h",
            "1.5h",
            "99999999999999999999d",
            "18446744073709551615d",
            "1µ",
        ] {
            let error = parse_age(wrong).unwrap_err();
            assert!(
                error.contains(&format!("\"{wrong}\"")) && error.contains("accepted"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_letter_is_shown_with_bytes_as_text_where_they_are_text() {
        let shown = letter().json();
        assert_eq!(
            (&shown["payload"], &shown["key"]["hex"]),
            (&json!("{}"), &json!("ff01"))
        );
        assert_eq!(
            (&shown["status"], &shown["lastFailedAt"]),
            (&json!("waiting"), &json!("1970-01-01T00:00:02.000Z"))
        );
        assert!(
            letter().line().ends_with("MessageSizeTooLarge: refused"),
            "{}",
            letter().line()
        );
    }
}
