//! What the operator reports of a resource.

use crate::relay_status::{BreakerState, Phase, Totals};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Condition types, all of which are present from the first visit on.
pub mod condition {
    /// Every slot is owned, read, and able to be delivered.
    pub const READY: &str = "Ready";
    /// The children are not yet as the specification wants them (kstatus).
    pub const RECONCILING: &str = "Reconciling";
    /// Nothing more will happen without a change by a person (kstatus).
    pub const STALLED: &str = "Stalled";
    /// All relays read ScyllaDB.
    pub const SOURCE_CONNECTED: &str = "SourceConnected";
    /// All relays reach Kafka.
    pub const SINK_CONNECTED: &str = "SinkConnected";
    /// No relay has its circuit open.
    pub const CIRCUIT_CLOSED: &str = "CircuitClosed";
    /// No dead letter waits for a decision.
    pub const DEAD_LETTERS_EMPTY: &str = "DeadLettersEmpty";
    /// No unresolved row is close to the end of the log's retention.
    pub const RETENTION_SAFE: &str = "RetentionSafe";
    /// The table's key keeps an aggregate in one partition.
    pub const ORDER_PRESERVED: &str = "OrderPreserved";
    /// The last audit that was recorded found nothing wrong, and is not old.
    pub const DELIVERY_AUDITED: &str = "DeliveryAudited";
}

/// What was seen of the relays of a resource. Counters are sums over its relays since each started.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OutboxRelayStatus {
    /// Generation of the specification that this status is about; -1 until an operator has reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled, SourceConnected, SinkConnected, CircuitClosed, DeadLettersEmpty, RetentionSafe,
    /// OrderPreserved and DeliveryAudited.
    pub conditions: Vec<Condition>,
    /// In one word, what the relays do: the least advanced of their phases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Shares that exist; with placement Sidecar, pods with a sidecar.
    pub shares: u32,
    /// Shares whose relay is ready.
    pub ready_shares: u32,
    /// Label selector of the relays' pods, as text, for autoscalers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Counters.
    pub totals: Totals,
    /// Age of the oldest event that is read and not resolved, over all shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<u64>,
    /// Age of the oldest checkpoint, over all shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_age_seconds: Option<u64>,
    /// Open if any circuit is open, else HalfOpen if any is, else Closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerState>,
    /// Dead letters that wait for a decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters_pending: Option<u64>,
    /// One entry per share, or per sidecar; at most 64.
    pub share_statuses: Vec<ShareStatus>,
}

/// What was seen of one share.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ShareStatus {
    /// The share as the relay names it, as in `2/4`; of a sidecar the name of its pod.
    pub share: String,
    /// What its relay does; absent when it cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Whether it owns its slots, reads them and is able to deliver.
    pub ready: bool,
    /// Slots that it owns.
    pub owned_slots: u32,
    /// Age of its oldest event that is read and not resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<u64>,
    /// Version of its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Random id of its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Number of the newest data event of this process that became a Kubernetes Event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_sequence: Option<u64>,
}
