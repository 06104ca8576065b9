//! The headers of messages: the relay's own, the configured ones, those of the headers column. Pure.

use std::sync::Arc;

use bytes::Bytes;
use crds::Sink;
use crds::envelope::Envelope;
use crds::sink::message_headers as names;

use super::{EncodeError, Marks};
use crate::decode::{Mapping, OutboxEvent, timestamp};
use crate::model::Micros;

type List = Vec<(Arc<str>, Bytes)>;

/// Makes the headers of one sink's messages.
#[derive(Debug, Clone)]
pub(super) struct Headers {
    configured: Vec<(Arc<str>, HeaderValue)>,
    names: Names,
    envelope: Envelope,
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
    sequence: Arc<str>,
    traceparent: Arc<str>,
    late: Arc<str>,
    reconciled: Arc<str>,
}

impl Headers {
    pub(super) fn new(sink: &Sink, mapping: &Mapping) -> Result<Self, EncodeError> {
        let mut configured = Vec::new();
        for header in &sink.headers {
            let value = match (&header.column, &header.value) {
                (Some(column), _) => {
                    let index = mapping.index(column);
                    HeaderValue::Column(index.ok_or_else(|| EncodeError::Unmapped(column.clone()))?)
                }
                (None, value) => HeaderValue::Fixed(value.clone().unwrap_or_default().into()),
            };
            configured.push((Arc::from(header.name.as_str()), value));
        }
        Ok(Self {
            configured,
            names: Names::new(),
            envelope: sink.envelope,
        })
    }

    /// The relay's own headers, the configured ones, then those of the headers column.
    pub(super) fn all(&self, event: &OutboxEvent, marks: Marks) -> Result<List, EncodeError> {
        let mut headers = self.own(event, marks);
        for (name, value) in &self.configured {
            match value {
                HeaderValue::Fixed(value) => headers.push((Arc::clone(name), value.clone())),
                HeaderValue::Column(index) => {
                    let value = event.column(*index).map_err(|source| EncodeError::Header {
                        name: name.to_string(),
                        source,
                    })?;
                    if let Some(value) = value {
                        headers.push((Arc::clone(name), value.into()));
                    }
                }
            }
        }
        headers.extend(self.of_column(event));
        Ok(headers)
    }

    /// Those that need no more than what could be read of the event: a dead letter has them too.
    pub(super) fn readable(&self, event: &OutboxEvent) -> List {
        let mut headers = self.own(event, Marks::default());
        headers.extend(self.of_column(event));
        headers
    }

    fn own(&self, event: &OutboxEvent, marks: Marks) -> List {
        let own = &self.names;
        let mut headers = Vec::with_capacity(9 + self.configured.len() + event.headers.len());
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
        if let Some(sequence) = &event.sequence {
            put(&own.sequence, sequence.clone().into());
        }
        if let Some(trace_context) = &event.trace_context {
            put(&own.traceparent, trace_context.clone().into());
        }
        let marked = [(marks.late, &own.late), (marks.reconciled, &own.reconciled)];
        for (_, name) in marked.into_iter().filter(|(applies, _)| *applies) {
            put(name, Bytes::from_static(b"true"));
        }
        headers
    }

    /// A name that the relay itself writes is dropped from the column: consumers rely on it.
    fn of_column<'a>(&self, event: &'a OutboxEvent) -> impl Iterator<Item = (Arc<str>, Bytes)> + use<'a> {
        let envelope = self.envelope;
        let own = move |name: &str| names::ALL.contains(&name) || envelope.writes(name);
        event.headers.iter().filter(move |(name, _)| !own(name)).cloned()
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
            sequence: names::SEQUENCE.into(),
            traceparent: names::TRACEPARENT.into(),
            late: names::LATE.into(),
            reconciled: names::RECONCILED.into(),
        }
    }
}

fn rfc3339(at: Micros) -> String {
    timestamp(at.div_euclid(1000))
}
