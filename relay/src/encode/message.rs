//! A Kafka message and its size. Pure.

use std::sync::Arc;

use bytes::Bytes;

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

/// Bytes of a length as a zigzag varint (Kafka's record format).
fn varint_size(length: usize) -> usize {
    let bits = usize::BITS - (length << 1).leading_zeros();
    (bits.div_ceil(7) as usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

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
