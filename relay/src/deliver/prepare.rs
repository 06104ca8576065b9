//! From a source event to what the lane delivers: decode, route, encode, and check what can be known before sending.
//! Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use crds::{Sink, Source, Tracing};
use thiserror::Error;

use crate::decode::{Mapping, OutboxEvent};
use crate::deliver::lane::Event;
use crate::encode::{EncodeError, Encoder, Marks};
use crate::event::SourceEvent;
use crate::metrics::EventLabel;
use crate::ports::{DeliveryError, ErrorClass, Outcome, TopicInfo};
use crate::route::{Router, RouterError, extra_columns};
use crate::spans::Trace;

/// Makes messages of one outbox table for one sink.
#[derive(Debug, Clone)]
pub struct Preparer {
    mapping: Mapping,
    router: Router,
    encoder: Encoder,
    /// Percent of the events without a trace context that are traced; None traces none at all.
    traced: Option<u32>,
}

/// Codes of what is wrong with an event of which no message could be made: what its dead letter holds is not what would
/// have been sent.
const UNDECODABLE: &str = "Undecodable";
const UNROUTABLE: &str = "Unroutable";
const UNENCODABLE: &str = "Unencodable";

/// Whether the error of a dead letter says that no message could be made of its event.
pub fn made_no_message(error: &str) -> bool {
    let code = error.split(':').next();
    code.is_some_and(|code| [UNDECODABLE, UNROUTABLE, UNENCODABLE].contains(&code))
}

/// A configuration that no message can be made with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PrepareError {
    #[error(transparent)]
    Router(#[from] RouterError),
    #[error("sink.headers: {0}")]
    Headers(#[from] EncodeError),
}

/// What is known of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicKnowledge {
    Exists(TopicInfo),
    /// Live brokers say that there is no such topic.
    Missing(DeliveryError),
    /// Nobody could be asked: the producer will find out.
    Unasked,
}

impl TopicKnowledge {
    /// Whether it makes an event of this size, as a record batch, unusable.
    pub(super) fn refuses(&self, size: usize) -> bool {
        match self {
            Self::Missing(_) => true,
            Self::Exists(info) => info.max_uncompressed_bytes.is_some_and(|limit| size > limit),
            Self::Unasked => false,
        }
    }
}

impl Preparer {
    /// `has` says whether the outbox table has a column.
    ///
    /// # Errors
    /// What validation should have refused.
    pub fn new(source: &Source, sink: &Sink, has: impl Fn(&str) -> bool) -> Result<Self, PrepareError> {
        let extra = extra_columns(sink);
        let mapping = Mapping::new(&source.columns, extra.iter().map(String::as_str), has);
        let outbox = format!("/{}/{}", source.keyspace, source.table);
        Ok(Self {
            router: Router::new(sink, &mapping)?,
            encoder: Encoder::new(sink, &mapping, &outbox)?,
            mapping,
            traced: None,
        })
    }

    /// Decides which events are traced.
    #[must_use]
    pub fn traced(self, tracing: Option<&Tracing>) -> Self {
        let traced = tracing.map(|tracing| tracing.sample_percent);
        Self { traced, ..self }
    }

    /// The columns that the log has to be opened with.
    pub fn columns(&self) -> &[String] {
        self.mapping.names()
    }

    /// The one topic, if it does not depend on the event.
    pub fn fixed_topic(&self) -> Option<&str> {
        self.router.fixed_topic().map(|topic| &**topic)
    }

    /// `label` gives the metric label of an event type.
    pub fn prepare(&self, source: SourceEvent, label: impl Fn(Option<&str>) -> EventLabel) -> Event {
        let (slot, row_id) = (source.slot, source.row_id);
        let marks = Marks {
            late: source.late,
            reconciled: source.reconciled,
        };
        let (event, decoded) = self.mapping.decode(source);
        let message = decoded
            .map_err(|error| unusable(UNDECODABLE, error.to_string()))
            .and_then(|()| {
                let route = self.router.route(&event);
                route.map_err(|error| unusable(UNROUTABLE, error.to_string()))
            })
            .and_then(|route| {
                let message = self.encoder.encode(&event, route, marks);
                message.map_err(|error| unusable(UNENCODABLE, error.to_string()))
            });
        let (message, problem) = match message {
            Ok(message) => (message, None),
            Err(problem) => (self.as_far_as_known(&event), Some(problem)),
        };
        let trace = self.traced.and_then(|percent| {
            let number = fingerprint(None, &event.id);
            Trace::of(event.trace_context.as_deref(), number, percent)
        });
        Event {
            slot,
            position: event.position,
            row_id,
            aggregate: fingerprint(event.aggregate_id.as_deref(), &event.id),
            label: label(event.event_type.as_deref()),
            event_id: event.id,
            aggregate_id: event.aggregate_id,
            event_type: event.event_type,
            created_at: event.created_at,
            message,
            problem,
            trace,
            replay: None,
        }
    }

    fn as_far_as_known(&self, event: &OutboxEvent) -> crate::encode::Message {
        let unrouted = self.encoder.unrouted(event);
        crate::encode::Message {
            topic: self.router.topic(event).unwrap_or(unrouted.topic),
            key: self.router.key(event).ok(),
            ..unrouted
        }
    }
}

/// Finds the event unusable if its topic is known not to take it.
pub fn check_topic(event: &mut Event, known: &TopicKnowledge) {
    if event.problem.is_some() {
        return;
    }
    event.problem = match known {
        TopicKnowledge::Unasked => None,
        TopicKnowledge::Missing(error) => Some(error.clone()),
        TopicKnowledge::Exists(info) => {
            let size = event.message.batch_size();
            let limit = info.max_uncompressed_bytes.filter(|limit| size > *limit);
            limit.map(|limit| {
                let topic = &event.message.topic;
                unusable(
                    "MessageSizeTooLarge",
                    format!(
                        "{size} bytes as a record batch; topic {topic} takes {limit} (max.message.bytes)"
                    ),
                )
            })
        }
    };
}

/// The unit of order that an event belongs to, as a number. The same throughout a process; never written down.
pub fn fingerprint(aggregate_id: Option<&str>, event_id: &str) -> u64 {
    aggregate_id.map_or_else(|| hash(&(1, event_id)), fingerprint_of)
}

/// What an aggregate's events have in [`Event::aggregate`].
pub fn fingerprint_of(aggregate_id: &str) -> u64 {
    hash(&(0, aggregate_id))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn unusable(code: &str, detail: String) -> DeliveryError {
    DeliveryError {
        class: ErrorClass::Message,
        code: code.to_owned(),
        detail,
        outcome: Outcome::NotWritten,
    }
}

#[cfg(test)]
mod tests {
    use scylla::value::CqlValue;

    use super::*;
    use crate::event::EventOperation;
    use crate::model::{CdcTime, RowId, SlotId, SourcePosition, StreamId};

    fn prepare(sink: &Sink, values: [Option<&str>; 4]) -> Event {
        let preparer = Preparer::new(&Source::default(), sink, |_| false).unwrap();
        let source = SourceEvent {
            position: SourcePosition {
                stream: StreamId([1; 16]),
                time: CdcTime::min_of(1),
                batch_seq_no: 0,
            },
            row_id: RowId(3),
            slot: SlotId::of_token(0),
            ownership: 0,
            token: 0,
            values: values
                .map(|value| value.map(|text| CqlValue::Text(text.into())))
                .to_vec(),
            operation: EventOperation::Insert,
            late: true,
            reconciled: false,
        };
        preparer.prepare(source, |_| EventLabel::default())
    }

    fn sink() -> Sink {
        Sink {
            topic: "orders".into(),
            ..Sink::default()
        }
    }

    #[test]
    fn a_good_row_becomes_a_message() {
        let event = prepare(&sink(), [Some("e"), Some("a"), Some("T"), Some("{}")]);
        assert_eq!(event.problem, None);
        assert_eq!(
            (&*event.message.topic, event.message.key.as_deref()),
            ("orders", Some(b"a".as_slice()))
        );
        assert!(
            event
                .message
                .headers
                .iter()
                .any(|(name, value)| &**name == "late" && value == "true")
        );
    }

    #[test]
    fn a_bad_row_keeps_what_is_known_of_it() {
        let check = |sink: &Sink, values, expected: &str, topic: &str, key: Option<&[u8]>| {
            let event = prepare(sink, values);
            let problem = event.problem.expect("it is unusable");
            assert_eq!(
                (problem.to_string().as_str(), problem.class),
                (expected, ErrorClass::Message)
            );
            assert_eq!(
                (&*event.message.topic, event.message.key.as_deref()),
                (topic, key)
            );
        };
        check(
            &sink(),
            [Some("e"), None, Some("T"), Some("{}")],
            "Undecodable: column aggregate_id is null; an event needs it",
            "orders",
            None,
        );
        check(
            &sink(),
            [Some("e"), Some("a"), Some("T"), None],
            "Unencodable: the payload is null; an event needs one",
            "orders",
            Some(b"a"),
        );
        let templated = Sink {
            topic: "${event_type}".into(),
            ..sink()
        };
        check(
            &templated,
            [Some("e"), Some("a"), Some("a b"), Some("{}")],
            "Unroutable: topic \"a b\"; accepted: 1 to 249 letters, digits, dots, underscores and dashes",
            "",
            Some(b"a"),
        );
    }

    fn there(max_uncompressed_bytes: Option<usize>) -> TopicKnowledge {
        TopicKnowledge::Exists(TopicInfo {
            partitions: 3,
            max_uncompressed_bytes,
        })
    }

    #[test]
    fn a_topic_that_cannot_take_it_makes_it_unusable() {
        let event = || prepare(&sink(), [Some("e"), Some("a"), Some("T"), Some("0123456789")]);
        let size = event().message.batch_size();
        let check = |known: TopicKnowledge, expected: Option<String>| {
            let mut event = event();
            check_topic(&mut event, &known);
            assert_eq!(event.problem.map(|problem| problem.to_string()), expected);
        };
        check(TopicKnowledge::Unasked, None);
        check(there(None), None);
        check(there(Some(size)), None);
        let too_large = format!(
            "MessageSizeTooLarge: {size} bytes as a record batch; topic orders takes {} (max.message.bytes)",
            size - 1
        );
        check(there(Some(size - 1)), Some(too_large));
        let missing = unusable("UnknownTopic", "gone".into());
        check(
            TopicKnowledge::Missing(missing),
            Some("UnknownTopic: gone".into()),
        );
    }

    #[test]
    fn events_of_one_aggregate_share_a_fingerprint() {
        let of = |id, aggregate| prepare(&sink(), [Some(id), aggregate, Some("T"), Some("{}")]).aggregate;
        assert_eq!(of("1", Some("a")), of("2", Some("a")));
        assert_eq!(of("1", Some("a")), fingerprint_of("a"));
        assert_ne!(of("1", Some("a")), of("1", Some("b")));
        assert_ne!(
            of("1", None),
            of("2", None),
            "without an aggregate each stands alone"
        );
        assert_ne!(of("a", None), of("x", Some("a")));
    }
}
