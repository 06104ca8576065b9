//! Outbox event to topic and key. Pure.

use std::sync::Arc;

use bytes::Bytes;
use crds::Sink;
use crds::names::{TOPIC, is_topic};
use crds::sink::Key;
use crds::topic_template::{Part as TemplatePart, TemplateError, TopicTemplate};
use thiserror::Error;

use crate::decode::{Mapping, OutboxEvent, Unrenderable};

/// Decides on topic and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Router {
    topic: Topic,
    key: KeyFrom,
}

/// Where an event goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub topic: Arc<str>,
    pub key: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Topic {
    Fixed(Arc<str>),
    Template(Vec<Part>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Column { index: usize, name: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum KeyFrom {
    AggregateId,
    EventId,
    Column { index: usize, name: String },
}

/// A configuration that validation should have refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RouterError {
    #[error("sink.topic {0:?}; accepted: {1}")]
    Topic(String, TemplateError),
    #[error("sink.key Column needs sink.keyColumn")]
    KeyColumn,
    #[error("column {0} is not mapped")]
    Unmapped(String),
}

/// An event that cannot be routed: a message error.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RouteError {
    #[error("column {0} is null; the topic depends on it")]
    TopicColumn(String),
    #[error("topic {0:?}; accepted: {TOPIC}")]
    TopicName(String),
    #[error("{0} is null; the message key is made of it")]
    Key(String),
    #[error("column {column}: {source}")]
    Unrenderable { column: String, source: Unrenderable },
}

/// The columns that topic, key and headers need, beside those with a meaning of their own.
pub fn extra_columns(sink: &Sink) -> Vec<String> {
    let topic = TopicTemplate::parse(&sink.topic).ok();
    let topic = topic.iter().flat_map(TopicTemplate::columns).map(str::to_owned);
    let headers = sink.headers.iter().filter_map(|header| header.column.clone());
    topic.chain(sink.key_column.clone()).chain(headers).collect()
}

impl Router {
    /// `mapping` holds the sink's [`extra_columns`].
    pub fn new(sink: &Sink, mapping: &Mapping) -> Result<Self, RouterError> {
        let indexed = |name: &str| {
            mapping
                .index(name)
                .ok_or_else(|| RouterError::Unmapped(name.to_owned()))
        };
        let template = TopicTemplate::parse(&sink.topic)
            .map_err(|error| RouterError::Topic(sink.topic.clone(), error))?;
        let part = |part: &TemplatePart| match part {
            TemplatePart::Text(text) => Ok(Part::Literal(text.clone())),
            TemplatePart::Column(name) => indexed(name).map(|index| Part::Column {
                index,
                name: name.clone(),
            }),
        };
        let topic = match template.fixed() {
            Some(name) => Topic::Fixed(Arc::from(name)),
            None => Topic::Template(template.parts().iter().map(part).collect::<Result<_, _>>()?),
        };
        let key = match sink.key {
            Key::AggregateId => KeyFrom::AggregateId,
            Key::EventId => KeyFrom::EventId,
            Key::Column => {
                let name = sink.key_column.clone().ok_or(RouterError::KeyColumn)?;
                KeyFrom::Column {
                    index: indexed(&name)?,
                    name,
                }
            }
        };
        Ok(Self { topic, key })
    }

    /// The one topic, if it does not depend on the event.
    pub fn fixed_topic(&self) -> Option<&Arc<str>> {
        match &self.topic {
            Topic::Fixed(name) => Some(name),
            Topic::Template(_) => None,
        }
    }

    pub fn topic(&self, event: &OutboxEvent) -> Result<Arc<str>, RouteError> {
        let parts = match &self.topic {
            Topic::Fixed(name) => return Ok(Arc::clone(name)),
            Topic::Template(parts) => parts,
        };
        let mut topic = String::new();
        for part in parts {
            match part {
                Part::Literal(text) => topic.push_str(text),
                Part::Column { index, name } => {
                    let value = column(event, *index, name)?;
                    topic.push_str(&value.ok_or_else(|| RouteError::TopicColumn(name.clone()))?);
                }
            }
        }
        if is_topic(&topic) {
            Ok(Arc::from(topic))
        } else {
            Err(RouteError::TopicName(topic))
        }
    }

    pub fn key(&self, event: &OutboxEvent) -> Result<Bytes, RouteError> {
        let (key, name) = match &self.key {
            KeyFrom::AggregateId => (event.aggregate_id.clone(), "the aggregate id"),
            KeyFrom::EventId => (Some(event.id.clone()), "the event id"),
            KeyFrom::Column { index, name } => (column(event, *index, name)?, name.as_str()),
        };
        key.map(Bytes::from)
            .ok_or_else(|| RouteError::Key(name.to_owned()))
    }

    pub fn route(&self, event: &OutboxEvent) -> Result<Route, RouteError> {
        Ok(Route {
            topic: self.topic(event)?,
            key: self.key(event)?,
        })
    }
}

fn column(event: &OutboxEvent, index: usize, name: &str) -> Result<Option<String>, RouteError> {
    event.column(index).map_err(|source| RouteError::Unrenderable {
        column: name.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use crds::source::Columns;
    use scylla::value::CqlValue;

    use super::*;
    use crate::event::{EventOperation, SourceEvent};
    use crate::model::{CdcTime, RowId, SlotId, SourcePosition, StreamId};

    fn sink(topic: &str, key: Key, key_column: Option<&str>) -> Sink {
        Sink {
            topic: topic.into(),
            key,
            key_column: key_column.map(str::to_owned),
            ..Sink::default()
        }
    }

    /// id 7, aggregate `a-1`, and the sink's extra columns with the given values.
    fn route(sink: &Sink, extra: Vec<Option<CqlValue>>) -> Result<Route, String> {
        let names = extra_columns(sink);
        let mapping = Mapping::new(&Columns::default(), names.iter().map(String::as_str), |_| false);
        let position = SourcePosition {
            stream: StreamId([0; 16]),
            time: CdcTime::min_of(0),
            batch_seq_no: 0,
        };
        let fixed = [
            CqlValue::Int(7),
            CqlValue::Text("a-1".into()),
            CqlValue::Text("T".into()),
        ];
        let mut values: Vec<_> = fixed.into_iter().map(Some).collect();
        values.push(Some(CqlValue::Text("{}".into())));
        values.extend(extra);
        let event = SourceEvent {
            position,
            row_id: RowId(0),
            slot: SlotId::of_token(0),
            ownership: 0,
            token: 0,
            values,
            operation: EventOperation::Insert,
            late: false,
            reconciled: false,
        };
        let router = Router::new(sink, &mapping).map_err(|error| error.to_string())?;
        router
            .route(&mapping.decode(event).0)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn topics_and_keys_follow_the_configuration() {
        let check = |sink: Sink, extra: Vec<Option<CqlValue>>, topic: &str, key: &str| {
            let routed = route(&sink, extra).unwrap();
            assert_eq!((&*routed.topic, &*routed.key), (topic, key.as_bytes()));
        };
        let text = |value: &str| Some(CqlValue::Text(value.into()));
        check(sink("orders", Key::AggregateId, None), vec![], "orders", "a-1");
        check(sink("orders", Key::EventId, None), vec![], "orders", "7");
        check(
            sink("orders", Key::Column, Some("region")),
            vec![text("eu")],
            "orders",
            "eu",
        );
        check(
            sink("${kind}-events", Key::AggregateId, None),
            vec![text("order")],
            "order-events",
            "a-1",
        );
        check(
            sink("x.${kind}", Key::AggregateId, None),
            vec![Some(CqlValue::Int(3))],
            "x.3",
            "a-1",
        );
        check(
            sink("${event_type}.${aggregate_id}", Key::AggregateId, None),
            vec![],
            "T.a-1",
            "a-1",
        );
    }

    #[test]
    fn what_cannot_be_routed_is_named() {
        let check = |sink: Sink, extra: Vec<Option<CqlValue>>, expected: &str| {
            assert_eq!(route(&sink, extra), Err(expected.to_owned()));
        };
        let template = || sink("${kind}-events", Key::AggregateId, None);
        check(
            template(),
            vec![None],
            "column kind is null; the topic depends on it",
        );
        check(
            template(),
            vec![Some(CqlValue::Text("a b".into()))],
            "topic \"a b-events\"; accepted: 1 to 249 letters, digits, dots, underscores and dashes",
        );
        check(
            template(),
            vec![Some(CqlValue::Text("x".repeat(249)))],
            &format!("topic \"{}-events\"; accepted: {TOPIC}", "x".repeat(249)),
        );
        check(
            sink("t", Key::Column, Some("region")),
            vec![None],
            "region is null; the message key is made of it",
        );
    }

    #[test]
    fn illegal_fixed_names_are_refused_at_start() {
        for name in ["", ".", "..", "a b", "ä", "${a"] {
            assert!(
                route(&sink(name, Key::AggregateId, None), vec![]).is_err(),
                "{name:?}"
            );
        }
    }
}
