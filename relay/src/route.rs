//! Outbox event to topic and key. Pure.

use std::sync::Arc;

use bytes::Bytes;
use crds::Sink;
use crds::sink::Key;
use thiserror::Error;

use crate::decode::{Mapping, OutboxEvent, Unrenderable};

/// Kafka's longest topic name (`Topic.MAX_NAME_LENGTH`).
const TOPIC_MAX_LENGTH: usize = 249;

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
    #[error("sink.topic {0:?}: expected a name, or a template as in ${{aggregate_type}}-events")]
    Template(String),
    #[error("sink.topic {0:?}: {1}")]
    Name(String, &'static str),
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
    #[error("topic {topic:?}: {why}")]
    TopicName { topic: String, why: &'static str },
    #[error("{0} is null; the message key is made of it")]
    Key(String),
    #[error("column {column}: {source}")]
    Unrenderable { column: String, source: Unrenderable },
}

/// The columns that topic, key and headers need, beside those with a meaning of their own.
pub fn extra_columns(sink: &Sink) -> Vec<String> {
    let topic = parse(&sink.topic).unwrap_or_default();
    let topic = topic.into_iter().filter_map(|piece| match piece {
        Piece::Column(name) => Some(name.to_owned()),
        Piece::Literal(_) => None,
    });
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
        let pieces = parse(&sink.topic).ok_or_else(|| RouterError::Template(sink.topic.clone()))?;
        let topic = match pieces.as_slice() {
            [Piece::Literal(name)] => {
                check_topic(name).map_err(|why| RouterError::Name(sink.topic.clone(), why))?;
                Topic::Fixed(Arc::from(*name))
            }
            pieces => {
                let parts = pieces.iter().map(|piece| match piece {
                    Piece::Literal(text) => Ok(Part::Literal((*text).to_owned())),
                    Piece::Column(name) => indexed(name).map(|index| Part::Column {
                        index,
                        name: (*name).to_owned(),
                    }),
                });
                Topic::Template(parts.collect::<Result<_, _>>()?)
            }
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
        match check_topic(&topic) {
            Ok(()) => Ok(Arc::from(topic)),
            Err(why) => Err(RouteError::TopicName { topic, why }),
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

#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Literal(&'a str),
    Column(&'a str),
}

/// Cuts a template into its pieces; None if a `${` is not closed, names nothing, or the template is empty.
fn parse(template: &str) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(start) = rest.find("${") {
        if start > 0 {
            pieces.push(Piece::Literal(&rest[..start]));
        }
        let (name, after) = rest[start + 2..].split_once('}')?;
        if name.is_empty() || name.contains("${") {
            return None;
        }
        pieces.push(Piece::Column(name));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest));
    }
    (!pieces.is_empty()).then_some(pieces)
}

/// Kafka's rules for topic names (`org.apache.kafka.common.internals.Topic`).
fn check_topic(name: &str) -> Result<(), &'static str> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name {
        "" => Err("a topic name is not empty"),
        "." | ".." => Err("a topic name is not . or .."),
        _ if name.len() > TOPIC_MAX_LENGTH => Err("a topic name has at most 249 characters"),
        _ if !name.chars().all(legal) => {
            Err("a topic name consists of ASCII letters, digits, '.', '_' and '-'")
        }
        _ => Ok(()),
    }
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
            token: 0,
            values,
            operation: EventOperation::Insert,
            late: false,
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
            "topic \"a b-events\": a topic name consists of ASCII letters, digits, '.', '_' and '-'",
        );
        check(
            template(),
            vec![Some(CqlValue::Text("x".repeat(249)))],
            &format!(
                "topic \"{}-events\": a topic name has at most 249 characters",
                "x".repeat(249)
            ),
        );
        check(
            sink("t", Key::Column, Some("region")),
            vec![None],
            "region is null; the message key is made of it",
        );
    }

    #[test]
    fn a_template_is_cut_into_pieces_or_refused() {
        let check = |template: &str, expected: Option<Vec<Piece<'_>>>| {
            assert_eq!(parse(template), expected, "{template}")
        };
        check("t", Some(vec![Piece::Literal("t")]));
        check("${a}", Some(vec![Piece::Column("a")]));
        check(
            "x${a}${b}y",
            Some(vec![
                Piece::Literal("x"),
                Piece::Column("a"),
                Piece::Column("b"),
                Piece::Literal("y"),
            ]),
        );
        check("", None);
        check("${a", None);
        check("${}", None);
        check("${a${b}}", None);
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
