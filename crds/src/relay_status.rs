//! What a relay process answers on `/status`: the operator, the command line and people read it.
//!
//! A reader accepts documents of later versions as long as `schemaVersion` is one that it knows: fields are only added
//! within a version, and kinds of data events that it does not know become [`DataEventKind::Other`].

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// Version of this document. It rises when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// Data events that a relay remembers. A reader that asks once a minute misses none at one event per second.
pub const MAX_DATA_EVENTS: usize = 64;

/// Retention is at risk when less than this part of it is left until the oldest unresolved row expires.
pub const HEADROOM_AT_RISK_PERCENT: u8 = 25;

/// Slots that are listed one by one: those that lag most. The others are only counted.
pub const MAX_LISTED_SLOTS: usize = 8;

/// The whole document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayStatus {
    /// Version of this document; see [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Key of all state, as configured.
    pub identity: String,
    /// The share as `run --share` names it: `2/4`, or `auto`.
    pub share: String,
    /// Version of the program.
    pub version: String,
    /// SHA-256 of the configuration that it runs with, written as YAML with all defaults: whether it is the wanted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// Random id of this process, so that a restart is seen.
    pub process: String,
    /// When the process started.
    pub started: Timestamp,
    /// When this document was made.
    pub time: Timestamp,
    /// What the relay is doing.
    pub phase: Phase,
    /// Whether it owns slots, reads them and is able to deliver; the same as `/readyz`.
    pub ready: bool,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready_because: Option<String>,
    /// What it owns.
    pub slots: Slots,
    /// Health of its parts.
    pub components: Vec<Component>,
    /// The circuit breaker.
    pub breaker: Breaker,
    /// Counters since the start.
    pub totals: Totals,
    /// How far delivery is behind.
    pub lag: Lag,
    /// How close the log is to losing rows that were not delivered.
    pub retention: Retention,
    /// Age of the oldest checkpoint among the owned slots; absent before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_age_milliseconds: Option<u64>,
    /// Dead letters that wait for a decision.
    pub dead_letters_pending: u64,
    /// Whether events of one aggregate keep their order.
    pub order: Order,
    /// The last audit that was recorded, as the process sees it that owns slot 0; absent in the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
    /// What happened to the data, oldest first, at most [`MAX_DATA_EVENTS`].
    #[serde(default)]
    pub data_events: Vec<DataEvent>,
}

/// What a relay is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum Phase {
    /// Connects, or reads its checkpoints.
    #[default]
    Starting,
    /// Owns no slot: all are held by others.
    Standby,
    /// Reads what was written while it was away.
    CatchingUp,
    /// Reads and delivers as rows are written.
    Streaming,
    /// Attempts nothing, because the circuit is open.
    CircuitOpen,
    /// Waits for a decision of its operator, as after a retention gap.
    Stopped,
    /// Delivers what is in flight, then exits.
    Draining,
}

/// The slots that a process owns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slots {
    /// How many slots the process should own: all of its share; for `auto`, a fair part.
    pub wanted: u16,
    /// How many it owns.
    pub owned: u16,
    /// The owned slots as ranges, each from the first to the last one, both included.
    pub ranges: Vec<[u16; 2]>,
    /// The owned slots that lag most, at most [`MAX_LISTED_SLOTS`].
    pub slowest: Vec<Slot>,
}

/// Progress of one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    /// Number of the slot.
    pub slot: u16,
    /// Everything written before this time is read and resolved.
    pub bound: Timestamp,
    /// Now minus the oldest event that is read and not resolved; 0 when there is none.
    pub lag_milliseconds: u64,
    /// How often the slot has changed hands.
    pub epoch: u64,
}

/// Health of one part of the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Name of the part: `source`, `sink`, `state`, `dead_letters`, `cleanup`.
    pub name: String,
    /// How it does.
    pub health: Health,
    /// Category of what is wrong, a stable CamelCase name: `SourceCredentials`, `TableUnfit`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it is not healthy. Never holds a secret or a payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How often it was restarted.
    #[serde(default)]
    pub restarts: u64,
    /// Since when it has been so.
    pub since: Timestamp,
}

/// How a part of the relay does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Health {
    /// It works.
    Healthy,
    /// It starts, or connects.
    Starting,
    /// It works, but not fully.
    Degraded,
    /// It does not work.
    Failed,
}

/// The circuit breaker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// Whether events are attempted.
    pub state: BreakerState,
    /// Failed attempts in a row.
    pub consecutive_failures: u32,
    /// Since when the state has been so; absent before the first change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// State of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum BreakerState {
    /// Events are attempted.
    #[default]
    Closed,
    /// Nothing is attempted.
    Open,
    /// Single events are attempted.
    HalfOpen,
}

/// Counters since the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Totals {
    /// Events delivered: acknowledged by the broker.
    pub processed: u64,
    /// Events that failed for good.
    pub failed: u64,
    /// Attempts after the first one of an event.
    pub retries: u64,
    /// Events written to the dead letters.
    pub dead_lettered: u64,
    /// Events delivered after a later one of their aggregate.
    pub late: u64,
    /// Second log rows of an event that were not delivered again.
    pub duplicates_suppressed: u64,
    /// Updates and deletes of outbox rows that were ignored.
    pub changes_ignored: u64,
}

/// How far delivery is behind the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lag {
    /// Age of the oldest event that is not resolved, or of the oldest part of the log that is not read.
    pub milliseconds: u64,
    /// Write time of the oldest event that is read and not resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_unresolved: Option<Timestamp>,
    /// Events read and not resolved.
    pub in_flight: u64,
}

/// How close the log is to losing rows that were not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// How long the log keeps a row; absent when it keeps rows for ever, or before the table was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Time until the oldest unresolved row expires; negative when it has expired already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headroom_seconds: Option<i64>,
}

/// Whether events of one aggregate keep their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// True when the table's key keeps an aggregate in one partition.
    pub preserved: bool,
    /// Why order cannot be promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `outbox-relay audit --record` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// When it began.
    pub time: Timestamp,
    /// Events written from then on were looked at.
    pub from: Timestamp,
    /// Events written before then were.
    pub to: Timestamp,
    /// How many there are.
    pub events: u64,
    /// Of them: not found, and no relay says that it is done with them.
    pub not_yet_due: u64,
    /// Not found, although a relay is done with them.
    pub missing: u64,
    /// Delivered after a later event of their aggregate, and not marked.
    pub reordered: u64,
    /// Messages that repeat another one, and are not allowed to.
    pub repeated: u64,
}

/// Something that happened to the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataEvent {
    /// Rises by one from event to event of a process, from 1 on: a reader sees what it missed.
    pub sequence: u64,
    /// When it happened.
    pub time: Timestamp,
    /// What happened.
    pub kind: DataEventKind,
    /// For people. Never holds a secret or a payload.
    pub message: String,
}

/// What happened to the data; the names are the reasons of Kubernetes Events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataEventKind {
    /// Failures in a row opened the circuit.
    CircuitOpened,
    /// Delivery was resumed.
    CircuitClosed,
    /// Events became dead letters.
    DeadLettered,
    /// The log has a new generation of streams.
    GenerationSwitched,
    /// Tablets were split or merged, so the log has another set of streams.
    StreamsChanged,
    /// Unresolved rows come close to the end of the log's retention.
    RetentionAtRisk,
    /// Rows expired from the log before they were read.
    RetentionGap,
    /// Checkpoints are not getting through.
    CheckpointStalled,
    /// Slots were taken over from another process that had stopped renewing.
    SlotsTaken,
    /// Slots were lost to another process.
    OwnershipLost,
    /// Events were delivered after later ones of their aggregate.
    LateEvents,
    /// The table's key does not keep an aggregate in one partition.
    OrderNotPreserved,
    /// A kind that this reader does not know.
    #[serde(other)]
    Other,
}

impl Lag {
    /// Whole seconds of the lag, rounded down.
    pub fn seconds(&self) -> u64 {
        self.milliseconds / 1000
    }
}

impl Audit {
    /// Whether what was promised was kept, as far as it was due.
    pub fn is_clean(&self) -> bool {
        self.missing == 0 && self.reordered == 0 && self.repeated == 0
    }
}

impl Retention {
    /// Whether unresolved rows come close to the end of the log's retention; see [`HEADROOM_AT_RISK_PERCENT`].
    pub fn is_at_risk(&self) -> bool {
        match (self.ttl_seconds, self.headroom_seconds) {
            (Some(ttl), Some(headroom)) => {
                i128::from(headroom) * 100 < i128::from(ttl) * i128::from(HEADROOM_AT_RISK_PERCENT)
            }
            _ => false,
        }
    }
}

impl Slots {
    /// Ranges of consecutive slots, from an ascending list of slots.
    pub fn ranges_of(ascending: impl IntoIterator<Item = u16>) -> Vec<[u16; 2]> {
        let mut ranges: Vec<[u16; 2]> = Vec::new();
        for slot in ascending {
            match ranges.last_mut() {
                Some([_, last]) if *last + 1 == slot => *last = slot,
                _ => ranges.push([slot, slot]),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_neighbours() {
        for (slots, ranges) in [
            (vec![], vec![]),
            (vec![7], vec![[7, 7]]),
            (vec![0, 1, 2, 5, 63], vec![[0, 2], [5, 5], [63, 63]]),
        ] {
            assert_eq!(Slots::ranges_of(slots.clone()), ranges, "{slots:?}");
        }
    }

    #[test]
    fn a_reader_survives_kinds_and_fields_of_a_later_program() {
        let event = r#"{"sequence": 3, "time": "2026-01-31T12:00:00Z", "kind": "Teleported", "message": "m", "by": 1}"#;
        let event: DataEvent = serde_json::from_str(event).unwrap();
        assert_eq!((event.sequence, event.kind), (3, DataEventKind::Other));
    }
}
