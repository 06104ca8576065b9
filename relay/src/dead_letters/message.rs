//! A dead letter as a message: the one that would have been sent, with headers that say what went wrong. Pure.

use std::sync::Arc;

use bytes::Bytes;

use super::table::outcome_name;
use crate::decode::timestamp;
use crate::encode::Message;
use crate::model::Micros;
use crate::ports::DeadLetter;

/// Headers of a dead letter, behind those of the message itself.
pub mod headers {
    /// What the last attempt said. The first of them.
    pub const ERROR: &str = "dead-letter-error";
    /// `message`, `configuration`, `transient`, `held` or `reconciled`.
    pub const CLASS: &str = "dead-letter-class";
    /// `not-written` or `unknown`: whether the event may be in its topic all the same.
    pub const OUTCOME: &str = "dead-letter-outcome";
    /// Failed attempts.
    pub const FAILURES: &str = "dead-letter-failures";
    /// The topic that it was meant for.
    pub const TOPIC: &str = "dead-letter-topic";
    /// Its slot.
    pub const SLOT: &str = "dead-letter-slot";
    /// When an attempt failed first, as in `2026-01-31T12:00:00.000Z`.
    pub const FIRST_FAILED_AT: &str = "dead-letter-first-failed-at";
    /// When it was given up.
    pub const LAST_FAILED_AT: &str = "dead-letter-last-failed-at";
    /// Bytes of a payload that the topic does not take; the dead-letter table has it.
    pub const PAYLOAD_OMITTED: &str = "dead-letter-payload-omitted";
}

/// The message for this topic. `bare`: without its payload, which the topic does not take.
pub fn message(letter: &DeadLetter, topic: &Arc<str>, bare: bool) -> Message {
    let meant = &letter.message;
    let own = [
        (headers::ERROR, letter.error.clone()),
        (headers::CLASS, letter.reason.name().to_owned()),
        (headers::OUTCOME, outcome_name(letter.outcome).to_owned()),
        (headers::FAILURES, letter.failures.to_string()),
        (headers::TOPIC, meant.topic.to_string()),
        (headers::SLOT, letter.slot.to_string()),
        (headers::FIRST_FAILED_AT, time(letter.first_failed_at)),
        (headers::LAST_FAILED_AT, time(letter.last_failed_at)),
    ];
    let own = own
        .into_iter()
        .map(|(name, value)| (Arc::from(name), Bytes::from(value)));
    let mut message = Message {
        topic: Arc::clone(topic),
        headers: meant.headers.iter().cloned().chain(own).collect(),
        ..meant.clone()
    };
    if let Some(payload) = message.payload.take_if(|_| bare) {
        let length = payload.len().to_string();
        message
            .headers
            .push((headers::PAYLOAD_OMITTED.into(), length.into()));
    }
    message
}

fn time(at: Micros) -> String {
    timestamp(at.div_euclid(1000))
}
