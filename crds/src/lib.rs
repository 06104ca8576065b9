//! The contract of Outbox Relay: what a user may ask for, what the relay loads, and what it reports. Types and
//! validation, no IO.
//!
//! The parts of the specification ([`source`], [`sink`], [`retry`], ...) are shared by the custom resource
//! ([`outbox_relay`]) and by the relay's own file ([`relay_config`]). [`status`] is what the relay answers on
//! `/status`.

pub mod circuit_breaker;
pub mod dead_letter;
pub mod envelope;
pub mod limits;
mod load;
pub mod memory;
pub mod names;
pub mod outbox_relay;
pub mod pods;
pub mod problems;
mod read;
pub mod relay_config;
pub mod relay_status;
pub mod replay;
pub mod retry;
pub mod secrets;
pub mod sink;
pub mod source;
pub mod state;
pub mod timestamp;
pub mod topic_template;
pub mod tracing;
mod validation;

pub use circuit_breaker::CircuitBreaker;
pub use dead_letter::DeadLetter;
pub use load::load;
pub use memory::Memory;
pub use problems::{Problem, Problems};
pub use relay_config::RelayConfig;
pub use relay_status::RelayStatus;
pub use retry::Retry;
pub use sink::Sink;
pub use source::Source;
pub use state::State;
pub use timestamp::Timestamp;
pub use topic_template::TopicTemplate;
pub use tracing::Tracing;
pub use validation::validate;

/// API group of the custom resource and of the relay's file.
pub const GROUP: &str = "outboxrelay.dev";

/// The one version there is so far.
pub const VERSION: &str = "v1alpha1";

/// `apiVersion` of manifests and configuration files.
pub const API_VERSION: &str = "outboxrelay.dev/v1alpha1";

/// The ring of partition key tokens is cut into this many fixed, equal slots. It never changes: progress is kept per
/// slot, and 64 lets shares be counted up to 64 without moving rows between slots.
pub const SLOTS: u16 = 64;
