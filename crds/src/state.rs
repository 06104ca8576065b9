//! Where the relay keeps its progress, and how ownership is held.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The relay's own tables: checkpoints, slots, dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct State {
    /// Keyspace of the relay's tables; made without tablets, because ownership needs lightweight transactions.
    pub keyspace: String,
    /// A slot may be taken over when its owner has not renewed for this long.
    pub lease_seconds: u32,
    /// Time between two checkpoints of a busy slot: an upper bound of what is delivered again after a crash.
    pub checkpoint_interval_milliseconds: u32,
}

impl State {
    /// A slot may be taken over when its owner has not renewed for this long.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into())
    }

    /// Time between two checkpoints of a busy slot.
    pub fn checkpoint_interval(&self) -> Duration {
        Duration::from_millis(self.checkpoint_interval_milliseconds.into())
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            keyspace: "outbox_relay".to_owned(),
            lease_seconds: 10,
            checkpoint_interval_milliseconds: 1000,
        }
    }
}
