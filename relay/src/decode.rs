//! Log row to outbox event: which column means what, and what its value says. Pure.

mod text;

use std::sync::Arc;

use bytes::Bytes;
use crds::source::Columns;
use scylla::value::CqlValue;
use thiserror::Error;
use uuid::Uuid;

use crate::event::{EventOperation, SourceEvent};
use crate::model::{Micros, SourcePosition};

pub(crate) use text::timestamp;
pub use text::{Unrenderable, text};

/// Namespace of the ids that are derived from a source position, when a row has no readable event id. Fixed for
/// ever: a dead letter that is written twice must get the same id.
const POSITION_NAMESPACE: Uuid = Uuid::from_u128(0x6f75_7462_6f78_5265_8c61_7920_706f_7331);

/// Used when the table has a column of this name and the configuration names none.
const DEFAULT_AGGREGATE_TYPE: &str = "aggregate_type";
const DEFAULT_CREATED_AT: &str = "created_at";

/// The columns that are read from the log, in order, and what each of them means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    names: Vec<String>,
    id: usize,
    aggregate_id: usize,
    event_type: usize,
    payload: usize,
    aggregate_type: Option<usize>,
    created_at: Option<usize>,
    sequence: Option<usize>,
    headers: Option<usize>,
    trace_context: Option<usize>,
}

/// What an outbox row says. Fields that could not be read are None.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxEvent {
    pub position: SourcePosition,
    pub operation: EventOperation,
    /// The event id; a UUIDv5 of the source position if it could not be read.
    pub id: String,
    pub aggregate_id: Option<String>,
    pub aggregate_type: Option<String>,
    pub event_type: Option<Arc<str>>,
    /// None is null.
    pub payload: Option<Bytes>,
    /// Microseconds since the Unix epoch.
    pub created_at: Option<Micros>,
    pub sequence: Option<String>,
    pub headers: Vec<(Arc<str>, Bytes)>,
    pub trace_context: Option<String>,
    /// In the order of the mapped columns; the payload has been moved out.
    values: Vec<Option<CqlValue>>,
}

/// Why a row is no event that could be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error("column {0} is null; an event needs it")]
    Null(String),
    #[error("column {column}: {source}")]
    Unrenderable { column: String, source: Unrenderable },
    #[error("column {column} holds {found}; message headers are a map<text, text> or a map<text, blob>")]
    Headers { column: String, found: &'static str },
}

impl Mapping {
    /// `extra` are the columns that topic, key and headers need. `has` says whether the table has a column, which
    /// decides on the optional ones that are not named.
    pub fn new<'a>(
        columns: &Columns,
        extra: impl IntoIterator<Item = &'a str>,
        has: impl Fn(&str) -> bool,
    ) -> Self {
        let mut names = Vec::new();
        let mut add = |name: &str| -> usize {
            let at = names.iter().position(|known| known == name);
            at.unwrap_or_else(|| {
                names.push(name.to_owned());
                names.len() - 1
            })
        };
        let or_default = |named: &Option<String>, default: &str| {
            named.clone().or_else(|| has(default).then(|| default.to_owned()))
        };
        let mapping = Self {
            id: add(&columns.id),
            aggregate_id: add(&columns.aggregate_id),
            event_type: add(&columns.event_type),
            payload: add(&columns.payload),
            aggregate_type: or_default(&columns.aggregate_type, DEFAULT_AGGREGATE_TYPE)
                .map(|name| add(&name)),
            created_at: or_default(&columns.created_at, DEFAULT_CREATED_AT).map(|name| add(&name)),
            sequence: columns.sequence.as_deref().map(&mut add),
            headers: columns.headers.as_deref().map(&mut add),
            trace_context: columns.trace_context.as_deref().map(&mut add),
            names: Vec::new(),
        };
        for name in extra {
            add(name);
        }
        Self { names, ..mapping }
    }

    /// Names of the mapped columns: [`SourceEvent::values`] come in this order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Where a column stands among the mapped ones.
    pub fn index(&self, column: &str) -> Option<usize> {
        self.names.iter().position(|name| name == column)
    }

    /// Reads what can be read. The error is the first field that cannot; the event then is good for a dead letter
    /// only.
    pub fn decode(&self, event: SourceEvent) -> (OutboxEvent, Result<(), DecodeError>) {
        let mut fields = Fields {
            mapping: self,
            values: event.values,
            error: None,
        };
        // A delete carries the primary key only; which of its columns the message needs, routing knows.
        let whole = event.operation != EventOperation::Delete;
        let id = fields.text(self.id, whole);
        let decoded = OutboxEvent {
            position: event.position,
            operation: event.operation,
            id: id.unwrap_or_else(|| position_id(&event.position).to_string()),
            aggregate_id: fields.text(self.aggregate_id, whole),
            event_type: fields.text(self.event_type, whole).map(Arc::from),
            aggregate_type: self.aggregate_type.and_then(|at| fields.text(at, false)),
            created_at: self.created_at.and_then(|at| created_at(fields.value(at)?)),
            sequence: self.sequence.and_then(|at| fields.text(at, false)),
            headers: self.headers.map(|at| fields.headers(at)).unwrap_or_default(),
            trace_context: self.trace_context.and_then(|at| fields.text(at, false)),
            payload: fields.payload(),
            values: Vec::new(),
        };
        let decoded = OutboxEvent {
            values: fields.values,
            ..decoded
        };
        (decoded, fields.error.map_or(Ok(()), Err))
    }
}

impl OutboxEvent {
    /// A mapped column as text; None is null.
    pub fn column(&self, index: usize) -> Result<Option<String>, Unrenderable> {
        self.values
            .get(index)
            .and_then(Option::as_ref)
            .map(|value| text(value).map(String::from))
            .transpose()
    }
}

/// The id of an event whose own id cannot be read.
pub fn position_id(position: &SourcePosition) -> Uuid {
    Uuid::new_v5(&POSITION_NAMESPACE, position.to_string().as_bytes())
}

/// Reads fields and remembers the first that could not be read.
struct Fields<'a> {
    mapping: &'a Mapping,
    values: Vec<Option<CqlValue>>,
    error: Option<DecodeError>,
}

impl Fields<'_> {
    fn value(&self, at: usize) -> Option<&CqlValue> {
        self.values.get(at).and_then(Option::as_ref)
    }

    fn text(&mut self, at: usize, needed: bool) -> Option<String> {
        let Some(value) = self.value(at) else {
            if needed {
                self.fail(DecodeError::Null(self.mapping.names[at].clone()));
            }
            return None;
        };
        match text(value) {
            Ok(text) => Some(text.into()),
            Err(source) => {
                let column = self.mapping.names[at].clone();
                self.fail(DecodeError::Unrenderable { column, source });
                None
            }
        }
    }

    /// Moves the payload out: it is the largest value, and nothing else needs it.
    fn payload(&mut self) -> Option<Bytes> {
        let at = self.mapping.payload;
        match self.values.get_mut(at).and_then(Option::take)? {
            CqlValue::Blob(bytes) => Some(Bytes::from(bytes)),
            CqlValue::Text(text) | CqlValue::Ascii(text) => Some(Bytes::from(text)),
            other => match text(&other) {
                Ok(text) => Some(Bytes::from(String::from(text))),
                Err(source) => {
                    let column = self.mapping.names[at].clone();
                    self.fail(DecodeError::Unrenderable { column, source });
                    None
                }
            },
        }
    }

    fn headers(&mut self, at: usize) -> Vec<(Arc<str>, Bytes)> {
        let found = match self.value(at) {
            None => return Vec::new(),
            Some(CqlValue::Map(entries)) => {
                match entries.iter().map(|(key, value)| header(key, value)).collect() {
                    Some(headers) => return headers,
                    None => "a map of other types",
                }
            }
            Some(_) => "another type",
        };
        let column = self.mapping.names[at].clone();
        self.fail(DecodeError::Headers { column, found });
        Vec::new()
    }

    fn fail(&mut self, error: DecodeError) {
        self.error.get_or_insert(error);
    }
}

fn header(key: &CqlValue, value: &CqlValue) -> Option<(Arc<str>, Bytes)> {
    let key = match key {
        CqlValue::Text(key) | CqlValue::Ascii(key) => Arc::from(key.as_str()),
        _ => return None,
    };
    let value = match value {
        CqlValue::Text(value) | CqlValue::Ascii(value) => Bytes::copy_from_slice(value.as_bytes()),
        CqlValue::Blob(value) => Bytes::copy_from_slice(value),
        _ => return None,
    };
    Some((key, value))
}

/// A timestamp, a timeuuid, milliseconds, or RFC 3339 text. Anything else says nothing about time; the event is
/// delivered all the same, dated by its write.
fn created_at(value: &CqlValue) -> Option<Micros> {
    let milliseconds = match value {
        CqlValue::Timestamp(at) => at.0,
        CqlValue::BigInt(at) => *at,
        CqlValue::Timeuuid(at) => {
            return Some(crate::model::CdcTime(Uuid::from_bytes(*at.as_bytes())).micros());
        }
        CqlValue::Text(at) => at.parse::<crds::Timestamp>().ok()?.milliseconds() as i64,
        _ => return None,
    };
    milliseconds.checked_mul(1000)
}

#[cfg(test)]
mod tests;
