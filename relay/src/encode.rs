//! Outbox event to Kafka message. Pure.

use std::sync::Arc;

use bytes::Bytes;
use crds::Sink;
use crds::sink::{PayloadFormat, message_headers as names};
use thiserror::Error;

use crate::decode::{Mapping, OutboxEvent, Unrenderable, timestamp};
use crate::event::EventOperation;
use crate::model::Micros;
use crate::route::Route;

/// Header of a Kafka record batch, in bytes (magic 2).
const BATCH_OVERHEAD: usize = 61;

/// What goes to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: Arc<str>,
    pub key: Option<Bytes>,
    /// None is a tombstone.
    pub payload: Option<Bytes>,
    pub headers: Vec<(Arc<str>, Bytes)>,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
}

/// Makes messages of one sink.
#[derive(Debug, Clone)]
pub struct Encoder {
    format: PayloadFormat,
    /// Configured headers.
    headers: Vec<(Arc<str>, HeaderValue)>,
    names: Names,
}

/// What is known of an event besides its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// Follows a later event of its aggregate.
    pub late: bool,
    /// A dead letter that is sent again.
    pub replayed: bool,
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
    #[error("header {name}: {source}")]
    Header { name: String, source: Unrenderable },
    #[error("column {0} is not mapped")]
    Unmapped(String),
}

#[derive(Debug, Clone)]
enum HeaderValue {
    Fixed(Bytes),
    Column(usize),
}

/// Header names as they are put on messages, made once.
#[derive(Debug, Clone)]
struct Names {
    event_id: Arc<str>,
    event_type: Arc<str>,
    aggregate_id: Arc<str>,
    aggregate_type: Arc<str>,
    source_position: Arc<str>,
    created_at: Arc<str>,
    traceparent: Arc<str>,
    late: Arc<str>,
    replayed: Arc<str>,
    reconciled: Arc<str>,
}

impl Encoder {
    /// `mapping` holds the columns of the sink's headers.
    pub fn new(sink: &Sink, mapping: &Mapping) -> Result<Self, EncodeError> {
        let mut headers = Vec::new();
        for header in &sink.headers {
            let value = match (&header.column, &header.value) {
                (Some(column), _) => {
                    let index = mapping.index(column);
                    HeaderValue::Column(index.ok_or_else(|| EncodeError::Unmapped(column.clone()))?)
                }
                (None, value) => HeaderValue::Fixed(value.clone().unwrap_or_default().into()),
            };
            headers.push((Arc::from(header.name.as_str()), value));
        }
        Ok(Self {
            format: sink.payload_format,
            headers,
            names: Names::new(),
        })
    }

    pub fn encode(&self, event: &OutboxEvent, route: Route, marks: Marks) -> Result<Message, EncodeError> {
        self.check_payload(event)?;
        Ok(Message {
            topic: route.topic,
            key: Some(route.key),
            headers: self.headers(event, marks)?,
            ..self.unrouted(event)
        })
    }

    /// The message of an event that cannot be sent: what a dead letter shows of it.
    pub fn unrouted(&self, event: &OutboxEvent) -> Message {
        Message {
            topic: Arc::from(""),
            key: None,
            payload: event.payload.clone(),
            headers: event.headers.clone(),
            timestamp: event.created_at.unwrap_or_else(|| event.position.time.micros()) / 1000,
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

    /// The relay's own headers, the configured ones, then those of the headers column. A name that the relay itself
    /// writes is dropped from the column: consumers rely on it.
    fn headers(&self, event: &OutboxEvent, marks: Marks) -> Result<Vec<(Arc<str>, Bytes)>, EncodeError> {
        let own = &self.names;
        let mut headers = Vec::with_capacity(8 + self.headers.len() + event.headers.len());
        let mut put = |name: &Arc<str>, value: Bytes| headers.push((Arc::clone(name), value));
        put(&own.event_id, event.id.clone().into());
        if let Some(event_type) = &event.event_type {
            put(&own.event_type, Bytes::copy_from_slice(event_type.as_bytes()));
        }
        if let Some(aggregate_id) = &event.aggregate_id {
            put(&own.aggregate_id, aggregate_id.clone().into());
        }
        if let Some(aggregate_type) = &event.aggregate_type {
            put(&own.aggregate_type, aggregate_type.clone().into());
        }
        put(&own.source_position, event.position.to_string().into());
        if let Some(created_at) = event.created_at {
            put(&own.created_at, rfc3339(created_at).into());
        }
        if let Some(trace_context) = &event.trace_context {
            put(&own.traceparent, trace_context.clone().into());
        }
        let marked = [
            (marks.late, &own.late),
            (marks.replayed, &own.replayed),
            (marks.reconciled, &own.reconciled),
        ];
        for (_, name) in marked.into_iter().filter(|(applies, _)| *applies) {
            put(name, Bytes::from_static(b"true"));
        }
        for (name, value) in &self.headers {
            match value {
                HeaderValue::Fixed(value) => put(name, value.clone()),
                HeaderValue::Column(index) => {
                    let value = event.column(*index).map_err(|source| EncodeError::Header {
                        name: name.to_string(),
                        source,
                    })?;
                    if let Some(value) = value {
                        put(name, value.into());
                    }
                }
            }
        }
        let from_column = event
            .headers
            .iter()
            .filter(|(name, _)| !names::ALL.contains(&&**name));
        headers.extend(from_column.cloned());
        Ok(headers)
    }
}

impl Message {
    /// Bytes of a record batch that holds this message alone, uncompressed: what a broker compares with
    /// `max.message.bytes`.
    pub fn batch_size(&self) -> usize {
        let field = |length: usize| length + varint_size(length);
        let nullable = |bytes: &Option<Bytes>| bytes.as_ref().map_or(1, |bytes| field(bytes.len()));
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| field(name.len()) + field(value.len()))
            .sum();
        // Attributes, timestamp delta and offset delta take one byte each in a batch of one.
        let record =
            3 + nullable(&self.key) + nullable(&self.payload) + varint_size(self.headers.len()) + headers;
        BATCH_OVERHEAD + field(record)
    }

    /// Bytes that the message occupies while it waits: what the limit on bytes in flight counts.
    pub fn weight(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let body = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        headers + body(&self.key) + body(&self.payload)
    }
}

impl Names {
    fn new() -> Self {
        Self {
            event_id: names::EVENT_ID.into(),
            event_type: names::EVENT_TYPE.into(),
            aggregate_id: names::AGGREGATE_ID.into(),
            aggregate_type: names::AGGREGATE_TYPE.into(),
            source_position: names::SOURCE_POSITION.into(),
            created_at: names::CREATED_AT.into(),
            traceparent: names::TRACEPARENT.into(),
            late: names::LATE.into(),
            replayed: names::REPLAYED.into(),
            reconciled: names::RECONCILED.into(),
        }
    }
}

fn rfc3339(at: Micros) -> String {
    timestamp(at.div_euclid(1000))
}

/// Bytes of a length as a zigzag varint (Kafka's record format).
fn varint_size(length: usize) -> usize {
    let bits = usize::BITS - (length << 1).leading_zeros();
    (bits.div_ceil(7) as usize).max(1)
}

#[cfg(test)]
mod tests {
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
            token: 0,
            values,
            operation,
            late: false,
        };
        let (event, problem) = mapping.decode(event);
        assert_eq!(problem, Ok(()));
        let route = Route {
            topic: "t".into(),
            key: "a-1".into(),
        };
        Encoder::new(&sink(format), &mapping)?.encode(&event, route, marks)
    }

    fn blob(bytes: &[u8]) -> Option<CqlValue> {
        Some(CqlValue::Blob(bytes.to_vec()))
    }

    #[test]
    fn every_message_says_what_it_is_and_where_it_comes_from() {
        let marks = Marks {
            late: true,
            replayed: false,
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
        message = Encoder::new(&Sink::default(), &mapping).unwrap().unrouted(&event);
        assert_eq!(message.timestamp, 5_000);
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
            token: 0,
            values: vec![None; 4],
            operation: EventOperation::Insert,
            late: false,
        };
        mapping.decode(event).0
    }

    #[test]
    fn the_size_is_that_of_kafkas_record_format() {
        let message = |key: usize, payload: Option<usize>, header: usize| Message {
            topic: "t".into(),
            key: Some(vec![0; key].into()),
            payload: payload.map(|length| vec![0; length].into()),
            headers: vec![("h".into(), vec![0; header].into())],
            timestamp: 0,
        };
        // Record: attributes, deltas (3), key, payload, header count (1), header name (1+1) and value, each with its
        // length as a varint; then the record's own length and the batch header.
        let check = |message: Message, expected: usize| assert_eq!(message.batch_size(), expected);
        check(message(1, Some(1), 0), 61 + 1 + (3 + 2 + 2 + 1 + 2 + 1));
        check(message(1, None, 0), 61 + 1 + (3 + 2 + 1 + 1 + 2 + 1));
        check(message(63, Some(64), 5), 61 + 2 + (3 + 64 + 66 + 1 + 2 + 6));
        check(
            message(0, Some(100_000), 0),
            61 + 3 + (3 + 1 + 100_003 + 1 + 2 + 1),
        );
    }
}
