//! The ScyllaDB table that the relay tails, and how.

use crate::secrets::{Credentials, CredentialsSecretRef, Tls};
use crate::timestamp::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The outbox table and the way its CDC log is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Source {
    /// ScyllaDB nodes to start from, `host` or `host:port` (port 9042 unless given); the others are discovered.
    pub contact_points: Vec<String>,
    /// Datacenter whose nodes are queried; that of the first contact point that answers unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_datacenter: Option<String>,
    /// Keyspace of the outbox table. Immutable.
    pub keyspace: String,
    /// The outbox table; its CDC log is enabled. Immutable.
    pub table: String,
    /// Secret with user name and password; without it the relay connects without authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<CredentialsSecretRef>,
    /// User name and password; without them the relay connects without authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// TLS to the ScyllaDB nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Which columns of the outbox table mean what.
    pub columns: Columns,
    /// Streaming: the table's CDC log is read, and events are delivered within milliseconds of their commit. Polling: the
    /// table itself is looked through, without CDC, also on other CQL databases. Needs cleanup Delete, onChange Ignore,
    /// sink.guarantee AtLeastOnce and a consistency of LocalQuorum, Quorum or All.
    pub mode: Mode,
    /// How often the table is looked through, with mode Polling.
    pub poll_interval_milliseconds: u32,
    /// Where to begin when there is no checkpoint: Oldest (the oldest row that the log still has), Now, Snapshot (all rows of
    /// the outbox table, then the log; needs mode Streaming and sink.guarantee AtLeastOnce), or a time as in
    /// 2026-01-31T12:00:00Z.
    #[cfg_attr(feature = "kubernetes", schemars(with = "String"))]
    pub start_from: StartFrom,
    /// Consistency level of log reads; together with that of the writers it must overlap on every replica set.
    pub consistency: Consistency,
    /// How late a committed row may become readable and still be delivered in time.
    pub horizon_seconds: u32,
    /// A second log row with the same event id within this time is not delivered again; 0 turns this off.
    pub duplicate_window_seconds: u32,
    /// How much the relay may ask of ScyllaDB.
    pub load: Load,
    /// What to do when rows expired from the log before they were read. Stop: wait for a decision. Continue: go on with
    /// what is left, and report the gap.
    pub on_retention_gap: OnRetentionGap,
    /// What to do with updates and deletes of outbox rows. Ignore: count them. Forward: deliver updates like inserts and
    /// deletes as tombstones.
    pub on_change: OnChange,
    /// What becomes of outbox rows. Keep: nothing, they are the application's. Delete: the relay deletes a row once its
    /// event is delivered or a dead letter, and a checkpoint says so; no delete of a row is an event then.
    pub cleanup: Cleanup,
    /// With this section outbox rows that are still there long after they were written are found: their log rows never
    /// came, or came too late. They are delivered with the header `reconciled`; with sink.guarantee ExactlyOnce they
    /// become dead letters. Needs cleanup Delete and onChange Ignore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconcile: Option<Reconcile>,
}

/// How rows are found whose log rows never came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Reconcile {
    /// How often the table is looked through.
    pub interval_seconds: u32,
    /// How much longer than horizonSeconds ago a row must have been written.
    pub margin_seconds: u32,
    /// Rows of the table that are read per second, at most, per relay process.
    pub rows_per_second: u32,
}

/// Names of the outbox table's columns. A column that is named must exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Columns {
    /// The event's id.
    pub id: String,
    /// The aggregate that the event belongs to.
    pub aggregate_id: String,
    /// Kind of aggregate; `aggregate_type` if the table has it, unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate_type: Option<String>,
    /// The event's type.
    pub event_type: String,
    /// The event's body.
    pub payload: String,
    /// When the event was created; `created_at` if the table has it, unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Position of the event within its aggregate: goes into the header `sequence`, by which consumers can tell gaps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// Message headers, a `map<text, text>` or `map<text, blob>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<String>,
    /// W3C trace context (`traceparent`) of the writer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_context: Option<String>,
}

/// How events are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum Mode {
    /// In the table's CDC log, continuously.
    #[default]
    Streaming,
    /// In the table itself, which holds what is not delivered yet.
    Polling,
}

/// Where reading begins when there is no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StartFrom {
    /// With the oldest row that the log still has.
    #[default]
    Oldest,
    /// With rows written after the start.
    Now,
    /// With all rows of the outbox table, then with rows written after the start.
    Snapshot,
    /// With rows written at this time.
    At(Timestamp),
}

/// Consistency level of log reads, by ScyllaDB's names. EACH_QUORUM is for writes only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum Consistency {
    /// One replica: only for writers at All.
    One,
    /// A majority of all replicas.
    Quorum,
    /// A majority of the replicas in the local datacenter.
    #[default]
    LocalQuorum,
    /// One replica in the local datacenter: only for writers at All.
    LocalOne,
    /// Every replica: for writers at One.
    All,
}

/// Limits of the load on ScyllaDB, per relay process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Load {
    /// Queries in flight at once, at most; fewer while latency or errors rise.
    pub max_concurrent_queries: u32,
    /// Queries per second, at most.
    pub queries_per_second: u32,
    /// Time after a start in which the limits rise from a tenth to their full size.
    pub ramp_seconds: u32,
    /// Outbox rows deleted per second, at most, with cleanup Delete. No more events than that are delivered for long.
    pub deletes_per_second: u32,
    /// Rows of the outbox table read per second, at most, with startFrom Snapshot.
    pub snapshot_rows_per_second: u32,
}

/// What to do when rows expired from the log before they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum OnRetentionGap {
    /// Wait for a decision.
    #[default]
    Stop,
    /// Go on with what is left, and report the gap.
    Continue,
}

/// What to do with updates and deletes of outbox rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum OnChange {
    /// Count them.
    #[default]
    Ignore,
    /// Deliver updates like inserts, and deletes as tombstones.
    Forward,
}

/// What becomes of outbox rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum Cleanup {
    /// They stay.
    #[default]
    Keep,
    /// They are deleted once their events are done with.
    Delete,
}

impl Source {
    /// How late a committed row may become readable and still be delivered in time.
    pub fn horizon(&self) -> Duration {
        Duration::from_secs(self.horizon_seconds.into())
    }

    /// How often the table is looked through; None unless it is.
    pub fn poll_interval(&self) -> Option<Duration> {
        let interval = Duration::from_millis(self.poll_interval_milliseconds.into());
        (self.mode == Mode::Polling).then_some(interval)
    }

    /// Time within which a second log row with the same event id is suppressed; `None` when that is off.
    pub fn duplicate_window(&self) -> Option<Duration> {
        (self.duplicate_window_seconds > 0).then(|| Duration::from_secs(self.duplicate_window_seconds.into()))
    }
}

impl Reconcile {
    /// How often the table is looked through.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_seconds.into())
    }
}

impl Load {
    /// Time after a start in which the limits rise to their full size.
    pub fn ramp(&self) -> Duration {
        Duration::from_secs(self.ramp_seconds.into())
    }
}

impl Default for Source {
    fn default() -> Self {
        Self {
            contact_points: Vec::new(),
            local_datacenter: None,
            keyspace: String::new(),
            table: String::new(),
            credentials_secret_ref: None,
            credentials: None,
            tls: None,
            columns: Columns::default(),
            mode: Mode::default(),
            poll_interval_milliseconds: 5000,
            start_from: StartFrom::default(),
            consistency: Consistency::default(),
            horizon_seconds: 180,
            duplicate_window_seconds: 60,
            load: Load::default(),
            on_retention_gap: OnRetentionGap::default(),
            on_change: OnChange::default(),
            cleanup: Cleanup::default(),
            reconcile: None,
        }
    }
}

impl Default for Reconcile {
    fn default() -> Self {
        // What cleanup leaves is little, but a scan also passes the tombstones of what it deleted.
        Self {
            interval_seconds: 3600,
            margin_seconds: 60,
            rows_per_second: 1000,
        }
    }
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            id: "id".to_owned(),
            aggregate_id: "aggregate_id".to_owned(),
            aggregate_type: None,
            event_type: "event_type".to_owned(),
            payload: "payload".to_owned(),
            created_at: None,
            sequence: None,
            headers: None,
            trace_context: None,
        }
    }
}

impl Default for Load {
    fn default() -> Self {
        // 32 queries of a few milliseconds saturate neither one shard nor the driver; 2 000/s is what polling a few
        // hundred hot streams within milliseconds takes. A delete costs what a write does, so 5,000/s are as many writes
        // more as three small nodes take beside their own.
        Self {
            max_concurrent_queries: 32,
            queries_per_second: 2000,
            ramp_seconds: 5,
            deletes_per_second: 5000,
            // A page of 250 rows each quarter of a second: less than the reader of the log asks for at rest.
            snapshot_rows_per_second: 1000,
        }
    }
}

impl TryFrom<String> for StartFrom {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "Oldest" => Ok(Self::Oldest),
            "Now" => Ok(Self::Now),
            "Snapshot" => Ok(Self::Snapshot),
            time => time.parse().map(Self::At).map_err(|_| {
                "expected Oldest, Now, Snapshot or a time as in 2026-01-31T12:00:00Z".to_owned()
            }),
        }
    }
}

impl From<StartFrom> for String {
    fn from(start: StartFrom) -> Self {
        match start {
            StartFrom::Oldest => "Oldest".to_owned(),
            StartFrom::Now => "Now".to_owned(),
            StartFrom::Snapshot => "Snapshot".to_owned(),
            StartFrom::At(time) => time.to_string(),
        }
    }
}
