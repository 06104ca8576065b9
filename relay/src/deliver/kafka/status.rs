//! Whether a failed message may be in the topic: librdkafka knows, its Rust wrapper does not pass it on.
#![allow(unsafe_code, reason = "one call of librdkafka that rdkafka does not wrap")]

use rdkafka::bindings::{rd_kafka_message_status, rd_kafka_msg_status_t};
use rdkafka::message::BorrowedMessage;

use crate::ports::Outcome;

pub(super) fn outcome(message: &BorrowedMessage<'_>) -> Outcome {
    // SAFETY: the pointer is that of a message borrowed from the delivery report event, alive and not written to for
    // as long as the borrow lasts; `rd_kafka_message_status` only reads it.
    let status = unsafe { rd_kafka_message_status(message.ptr()) };
    match status {
        rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Outcome::NotWritten,
        _ => Outcome::Unknown,
    }
}
