//! Event to Kafka message.

use std::sync::Arc;

use bytes::Bytes;

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
