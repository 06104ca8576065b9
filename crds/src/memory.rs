//! How much one relay process may hold.

use serde::{Deserialize, Serialize};

/// Limits of one relay process. Reading pauses when a limit is reached and goes on as acknowledgements arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Memory {
    /// Events read and not yet acknowledged.
    pub in_flight_messages: u32,
    /// Their size: payloads, keys and headers.
    pub in_flight_bytes: u64,
}

impl Default for Memory {
    fn default() -> Self {
        // Together with the program (about 20 MiB) and librdkafka's copies of what is in flight these stay below
        // 192 MiB in a drain. 20 000 messages hide 400 ms of broker latency at 50 000 events/s.
        Self {
            in_flight_messages: 20_000,
            in_flight_bytes: 32 << 20,
        }
    }
}
