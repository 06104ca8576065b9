//! What a topic holds, and whether it is what was promised.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::message::{BorrowedMessage, Headers, Message as _};

#[derive(Debug, Default)]
pub(crate) struct Messages(Vec<Message>);

#[derive(Debug)]
pub(crate) struct Message {
    /// The row's number, which is its event id.
    pub(crate) number: u64,
    pub(crate) aggregate: u64,
    pub(crate) partition: i32,
    /// Its length.
    pub(crate) payload: Option<usize>,
    headers: BTreeMap<String, String>,
}

impl Message {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

impl Messages {
    pub(crate) fn push(&mut self, message: &BorrowedMessage<'_>) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers: BTreeMap<_, _> = message
            .headers()
            .expect("every message has headers")
            .iter()
            .map(|header| (header.key.to_owned(), text(header.value.unwrap())))
            .collect();
        self.0.push(Message {
            number: headers["event-id"].parse().unwrap(),
            aggregate: text(message.key().unwrap()).parse().unwrap(),
            partition: message.partition(),
            payload: message.payload().map(<[u8]>::len),
            headers,
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn all(&self) -> &[Message] {
        &self.0
    }

    pub(crate) fn numbers(&self) -> BTreeSet<u64> {
        self.0.iter().map(|message| message.number).collect()
    }

    pub(crate) fn of_aggregate(&self, aggregate: u64) -> Vec<&Message> {
        self.0
            .iter()
            .filter(|message| message.aggregate == aggregate)
            .collect()
    }

    /// Each aggregate's messages in order, none twice.
    pub(crate) fn in_order_once(&self, aggregates: u64) {
        for aggregate in 0..aggregates {
            let numbers: Vec<_> = self
                .of_aggregate(aggregate)
                .iter()
                .map(|message| message.number)
                .collect();
            let rising = numbers.windows(2).all(|pair| pair[0] < pair[1]);
            assert!(rising, "aggregate {aggregate}: {numbers:?}");
        }
    }

    /// All numbers below `count` are there, and the first appearances of each aggregate are in order.
    pub(crate) fn in_order_at_least_once(&self, aggregates: u64, count: u64) {
        self.in_order_exactly(aggregates, 0..count);
    }

    /// These numbers and no others are there, and the first appearances of each aggregate are in order.
    pub(crate) fn in_order_exactly(&self, aggregates: u64, expected: impl IntoIterator<Item = u64>) {
        let (seen, expected) = (self.numbers(), expected.into_iter().collect::<BTreeSet<_>>());
        let missing: Vec<_> = expected.difference(&seen).collect();
        let foreign: Vec<_> = seen.difference(&expected).collect();
        assert!(
            missing.is_empty() && foreign.is_empty(),
            "missing {missing:?}, foreign {foreign:?}"
        );
        for aggregate in 0..aggregates {
            let mut newest = None;
            let mut known = BTreeSet::new();
            for message in self.of_aggregate(aggregate) {
                if known.insert(message.number) {
                    assert!(
                        newest < Some(message.number),
                        "{} after {newest:?}",
                        message.number
                    );
                    newest = Some(message.number);
                }
            }
        }
    }
}
