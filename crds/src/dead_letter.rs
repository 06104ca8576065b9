//! Where events go that cannot be delivered.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::replay::ReplayRequest;

/// Dead letters are durable before the event counts as resolved; if they cannot be written, the circuit opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeadLetter {
    /// Table: a ScyllaDB table. Topic: a Kafka topic. Both: the table and the topic.
    pub target: DeadLetterTarget,
    /// Table for dead letters, `table` in the state keyspace or `keyspace.table`; `dead_letters` in the state
    /// keyspace unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Topic for dead letters; required by the targets Topic and Both, and never a topic that events go to. It should
    /// take larger messages (max.message.bytes): one that is too large for it stops delivery until it takes it; with
    /// Both it is written there without its payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Which events become dead letters. Rejected: only those that the broker can never accept; any other event is
    /// kept and waits for the broker. Exhausted: also those whose attempts are used up.
    pub when: DeadLetterWhen,
    /// What happens to later events of the aggregate of a dead letter. Continue: they are delivered. Hold: they become
    /// dead letters too, in order, as long as the table has dead letters of the aggregate; needs the target Table or
    /// Both. With more than 65536 such aggregates nothing is delivered until there are fewer.
    pub on_aggregate: OnAggregate,
    /// How often a dead letter may be replayed. One that fails the last time is quarantined: no further replay of it is
    /// accepted until this is raised.
    pub max_replays: u32,
    /// With this section the relay itself replays dead letters of the classes `configuration` and `transient`: those whose
    /// attempts were used up (when Exhausted) by an outage, a missing topic or a missing right. Never those that the broker
    /// refused for what they are, nor quarantined ones. Only while the circuit is closed, so after the cause is gone. Needs
    /// the target Table or Both. Empty for the defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<AutomaticReplay>,
    /// A replay that is carried out once, by a Job that runs `outbox-relay dead-letters replay`; what became of it is told in
    /// status.replay. No relay restarts for it. Taking it out again changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_request: Option<ReplayRequest>,
}

/// How dead letters are replayed without anybody asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AutomaticReplay {
    /// How long after it failed a letter is replayed the first time, at the earliest. Each further replay of it waits twice
    /// as long as the one before.
    pub initial_backoff_seconds: u32,
    /// The longest wait; at least initialBackoffSeconds.
    pub max_backoff_seconds: u32,
    /// How many letters a relay process asks for per second, on average.
    pub letters_per_second: u32,
}

impl Default for AutomaticReplay {
    /// A minute is twice the time that a circuit stays open. The 5 replays of a letter then span half an hour; ten letters
    /// a second are a small part of what a broker that has just come back takes.
    fn default() -> Self {
        Self {
            initial_backoff_seconds: 60,
            max_backoff_seconds: 3600,
            letters_per_second: 10,
        }
    }
}

impl AutomaticReplay {
    /// How long a letter that was replayed so often waits for the next time.
    pub fn backoff(&self, replays: u32) -> Duration {
        let seconds = u64::from(self.initial_backoff_seconds).saturating_mul(1 << replays.min(32));
        Duration::from_secs(seconds.min(self.max_backoff_seconds.into()))
    }
}

impl Default for DeadLetter {
    fn default() -> Self {
        Self {
            target: DeadLetterTarget::default(),
            table: None,
            topic: None,
            when: DeadLetterWhen::default(),
            on_aggregate: OnAggregate::default(),
            max_replays: 5,
            replay: None,
            replay_request: None,
        }
    }
}

/// Where dead letters are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum DeadLetterTarget {
    /// A ScyllaDB table.
    #[default]
    Table,
    /// A Kafka topic.
    Topic,
    /// The table and the topic.
    Both,
}

/// Which events become dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum DeadLetterWhen {
    /// Only what the broker can never accept.
    #[default]
    Rejected,
    /// Also what used up its attempts.
    Exhausted,
}

/// What happens to later events of the aggregate of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum OnAggregate {
    /// They are delivered.
    #[default]
    Continue,
    /// They become dead letters of class `held`, in order.
    Hold,
}

/// Table for dead letters in the state keyspace, unless another one is named.
pub const DEFAULT_TABLE: &str = "dead_letters";

impl DeadLetter {
    /// Whether dead letters are written to a table.
    pub fn to_table(&self) -> bool {
        matches!(self.target, DeadLetterTarget::Table | DeadLetterTarget::Both)
    }

    /// Whether dead letters are written to a topic.
    pub fn to_topic(&self) -> bool {
        matches!(self.target, DeadLetterTarget::Topic | DeadLetterTarget::Both)
    }

    /// Keyspace and table for dead letters, given the state keyspace.
    pub fn keyspace_and_table<'a>(&'a self, state_keyspace: &'a str) -> (&'a str, &'a str) {
        let table = self.table.as_deref().unwrap_or(DEFAULT_TABLE);
        table.split_once('.').unwrap_or((state_keyspace, table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_replay_waits_twice_as_long_up_to_the_limit() {
        let replay = AutomaticReplay::default();
        let seconds = |replays| replay.backoff(replays).as_secs();
        assert_eq!(
            [0, 1, 2, 5, 6, 7, 1000].map(seconds),
            [60, 120, 240, 1920, 3600, 3600, 3600]
        );
    }
}
