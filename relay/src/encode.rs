//! Outbox event to Kafka message. Pure.

use std::sync::Arc;

use crds::Sink;
use crds::sink::PayloadFormat;
use thiserror::Error;

use crate::decode::{Mapping, OutboxEvent, Unrenderable};
use crate::event::EventOperation;
use crate::route::Route;

mod envelope;
mod headers;
mod message;

use envelope::Envelope;
use headers::Headers;
pub use message::Message;

/// Makes messages of one sink.
#[derive(Debug, Clone)]
pub struct Encoder {
    format: PayloadFormat,
    headers: Headers,
    envelope: Envelope,
}

/// What is known of an event besides its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// Follows a later event of its aggregate.
    pub late: bool,
    /// Found by reconciliation.
    pub reconciled: bool,
}

/// An event that is no valid message: a message error.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    #[error("the payload is null; an event needs one")]
    NullPayload,
    #[error("the payload is not UTF-8 (byte {0}); sink.payloadFormat is Text")]
    NotText(usize),
    #[error("the payload is not JSON ({0}); sink.payloadFormat is Json")]
    NotJson(String),
    #[error("the event type is empty or null; sink.envelope needs one")]
    NoEventType,
    #[error("header {name}: {source}")]
    Header { name: String, source: Unrenderable },
    #[error("column {0} is not mapped")]
    Unmapped(String),
}

impl Encoder {
    /// `mapping` holds the columns of the sink's headers; `outbox`, as in `/keyspace/table`, is the `source` of
    /// CloudEvents unless another one is configured.
    pub fn new(sink: &Sink, mapping: &Mapping, outbox: &str) -> Result<Self, EncodeError> {
        Ok(Self {
            format: sink.payload_format,
            headers: Headers::new(sink, mapping)?,
            envelope: Envelope::new(sink, outbox),
        })
    }

    pub fn encode(&self, event: &OutboxEvent, route: Route, marks: Marks) -> Result<Message, EncodeError> {
        self.check_payload(event)?;
        let message = Message {
            topic: route.topic,
            key: Some(route.key),
            headers: self.headers.all(event, marks)?,
            ..self.unrouted(event)
        };
        self.envelope.wrap(event, message)
    }

    /// The message of an event that cannot be sent: what a dead letter shows of it.
    pub fn unrouted(&self, event: &OutboxEvent) -> Message {
        Message {
            topic: Arc::from(""),
            key: None,
            payload: event.payload.clone(),
            headers: self.headers.readable(event),
            timestamp: event
                .created_at
                .unwrap_or_else(|| event.position.time.micros())
                .div_euclid(1000),
        }
    }

    fn check_payload(&self, event: &OutboxEvent) -> Result<(), EncodeError> {
        let Some(payload) = &event.payload else {
            let tombstone = event.operation == EventOperation::Delete;
            return if tombstone {
                Ok(())
            } else {
                Err(EncodeError::NullPayload)
            };
        };
        match self.format {
            PayloadFormat::Raw => Ok(()),
            PayloadFormat::Text => std::str::from_utf8(payload)
                .map(drop)
                .map_err(|error| EncodeError::NotText(error.valid_up_to())),
            PayloadFormat::Json => serde_json::from_slice::<serde::de::IgnoredAny>(payload)
                .map(drop)
                .map_err(|error| EncodeError::NotJson(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use crds::sink::Header;
    use crds::source::Columns;
    use scylla::value::{CqlTimestamp, CqlValue};

    use super::*;
    use crate::event::SourceEvent;
    use crate::model::{CdcTime, RowId, SlotId, SourcePosition, StreamId};

    fn sink(format: PayloadFormat) -> Sink {
        let header = |name: &str, column: Option<&str>, value: Option<&str>| Header {
            name: name.into(),
            column: column.map(str::to_owned),
            value: value.map(str::to_owned),
        };
        Sink {
            payload_format: format,
            headers: vec![
                header("team", None, Some("blue")),
                header("region", Some("region"), None),
            ],
            ..Sink::default()
        }
    }

    fn encode(
        format: PayloadFormat,
        operation: EventOperation,
        payload: Option<CqlValue>,
        marks: Marks,
    ) -> Result<Message, EncodeError> {
        let columns = Columns {
            headers: Some("headers".into()),
            ..Columns::default()
        };
        let mapping = Mapping::new(&columns, ["region"], |name| name == "created_at");
        let text = |value: &str| Some(CqlValue::Text(value.into()));
        let pair = |name: &str| (CqlValue::Text(name.into()), CqlValue::Text("column".into()));
        let values = vec![
            text("e-1"),
            text("a-1"),
            text("OrderCreated"),
            payload,
            Some(CqlValue::Timestamp(CqlTimestamp(1_000))),
            Some(CqlValue::Map(vec![pair("event-id"), pair("own")])),
            text("eu"),
        ];
        let event = SourceEvent {
            position: SourcePosition {
                stream: StreamId([0; 16]),
                time: CdcTime::min_of(5_000_000),
                batch_seq_no: 1,
            },
            row_id: RowId(0),
            slot: SlotId::of_token(0),
            ownership: 0,
            token: 0,
            values,
            operation,
            late: false,
            reconciled: false,
        };
        let (event, problem) = mapping.decode(event);
        assert_eq!(problem, Ok(()));
        let route = Route {
            topic: "t".into(),
            key: "a-1".into(),
        };
        Encoder::new(&sink(format), &mapping, "/ks/outbox")?.encode(&event, route, marks)
    }

    fn blob(bytes: &[u8]) -> Option<CqlValue> {
        Some(CqlValue::Blob(bytes.to_vec()))
    }

    #[test]
    fn every_message_says_what_it_is_and_where_it_comes_from() {
        let marks = Marks {
            late: true,
            reconciled: true,
        };
        let message = encode(PayloadFormat::Raw, EventOperation::Insert, blob(b"{}"), marks).unwrap();
        let headers: Vec<_> = message
            .headers
            .iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
            .collect();
        let position = message
            .headers
            .iter()
            .find(|(name, _)| &**name == "source-position")
            .unwrap();
        let expected = [
            "event-id=e-1",
            "event-type=OrderCreated",
            "aggregate-id=a-1",
            &format!("source-position={}", String::from_utf8_lossy(&position.1)),
            "created-at=1970-01-01T00:00:01.000Z",
            "late=true",
            "reconciled=true",
            "team=blue",
            "region=eu",
            "own=column",
        ];
        assert_eq!(headers, expected);
        assert_eq!((&*message.topic, message.timestamp), ("t", 1_000));
        assert_eq!(message.key.as_deref(), Some(b"a-1".as_slice()));
    }

    #[test]
    fn payloads_are_checked_as_declared() {
        use EventOperation::{Delete, Insert, Update};
        use PayloadFormat::{Json, Raw, Text};
        let check = |format, operation, payload: Option<CqlValue>, expected: Result<Option<&[u8]>, &str>| {
            let result = encode(format, operation, payload.clone(), Marks::default());
            let result = result
                .map(|message| message.payload)
                .map_err(|error| error.to_string());
            let expected = expected
                .map(|body| body.map(Bytes::copy_from_slice))
                .map_err(str::to_owned);
            assert_eq!(result, expected, "{format:?} {operation:?} {payload:?}");
        };
        check(Raw, Insert, blob(&[0xff]), Ok(Some(&[0xff])));
        check(Raw, Insert, blob(&[]), Ok(Some(&[])));
        check(Text, Insert, blob(b"a"), Ok(Some(b"a")));
        check(
            Text,
            Insert,
            blob(&[b'a', 0xff]),
            Err("the payload is not UTF-8 (byte 1); sink.payloadFormat is Text"),
        );
        check(Json, Insert, blob(b" {\"a\": [1]} "), Ok(Some(b" {\"a\": [1]} ")));
        check(
            Json,
            Insert,
            blob(b"{\"a\":"),
            Err(
                "the payload is not JSON (EOF while parsing a value at line 1 column 5); sink.payloadFormat is Json",
            ),
        );
        check(Raw, Insert, None, Err("the payload is null; an event needs one"));
        check(Raw, Update, None, Err("the payload is null; an event needs one"));
        check(Json, Delete, None, Ok(None));
    }

    #[test]
    fn without_a_creation_time_the_write_dates_the_message() {
        let mut message = encode(
            PayloadFormat::Raw,
            EventOperation::Insert,
            blob(b"x"),
            Marks::default(),
        )
        .unwrap();
        assert_eq!(message.timestamp, 1_000);
        let mapping = Mapping::new(&Columns::default(), [], |_| false);
        let mut event = decoded(&mapping);
        event.created_at = None;
        message = Encoder::new(&Sink::default(), &mapping, "")
            .unwrap()
            .unrouted(&event);
        assert_eq!(message.timestamp, 5_000);
    }

    #[test]
    fn an_event_that_cannot_be_sent_still_says_which_it_is() {
        let mapping = Mapping::new(&Columns::default(), [], |_| false);
        let message = Encoder::new(&Sink::default(), &mapping, "")
            .unwrap()
            .unrouted(&decoded(&mapping));
        let names: Vec<_> = message.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["event-id", "source-position"]);
    }

    fn decoded(mapping: &Mapping) -> OutboxEvent {
        let event = SourceEvent {
            position: SourcePosition {
                stream: StreamId([0; 16]),
                time: CdcTime::min_of(5_000_000),
                batch_seq_no: 0,
            },
            row_id: RowId(0),
            slot: SlotId::of_token(0),
            ownership: 0,
            token: 0,
            values: vec![None; 4],
            operation: EventOperation::Insert,
            late: false,
            reconciled: false,
        };
        mapping.decode(event).0
    }
}
