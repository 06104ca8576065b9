//! What the operator reports of a resource.

use crate::relay_status::{BreakerState, Phase, Totals};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
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
    /// The request of deadLetter.replayRequest that was taken up last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayStatus>,
    /// One entry per share, or per sidecar; at most 64.
    pub share_statuses: Vec<ShareStatus>,
}

/// What became of a replay that was asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplayStatus {
    /// Id of the request.
    pub id: String,
    /// How far it is.
    pub phase: ReplayPhase,
    /// The Job that carries it out; it is removed an hour after its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// When the Job was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// Dead letters that were asked for. This and the other counts are there once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub letters: Option<u64>,
    /// Of these, letters that were delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed: Option<u64>,
    /// Of these, letters that failed again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    /// Of these, letters that no relay has carried out; they stay asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
    /// Letters that the filter names and that cannot be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
    /// What it waits for, or why not all letters were delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far a replay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ReplayPhase {
    /// It has no Job yet.
    #[default]
    Pending,
    /// Its Job runs.
    Running,
    /// All letters that the request names were delivered; also if there was none.
    Succeeded,
    /// Not all of them were, or it could not be carried out.
    Failed,
}

impl ReplayPhase {
    /// Whether nothing more happens.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
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
