//! A replay of dead letters that somebody asks for once: the request in the resource, and the result that the command leaves
//! for the operator.

use serde::{Deserialize, Serialize};

/// Which dead letters are replayed once: those that fit all that is given, of which there must be one filter at least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ReplayRequest {
    /// Names the request: another id is another request, and an id is carried out once. Visible characters of ASCII, as in
    /// 2026-01-31T12:00 or CHG-4711.
    pub id: String,
    /// Letters of this event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Letters of events of this type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// Letters of this aggregate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate_id: Option<String>,
    /// Letters of this class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<LetterClass>,
    /// Letters that were given up at least so long ago; 0 takes all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than_seconds: Option<u32>,
    /// How many letters are asked for per second at most.
    pub letters_per_second: u32,
}

impl Default for ReplayRequest {
    /// Fifty a second, as in the samples: a small part of what a broker takes, and 180,000 an hour.
    fn default() -> Self {
        Self {
            id: String::new(),
            event_id: None,
            event_type: None,
            aggregate_id: None,
            class: None,
            older_than_seconds: None,
            letters_per_second: 50,
        }
    }
}

impl ReplayRequest {
    /// Whether it names no letters.
    pub fn is_without_filter(&self) -> bool {
        self.event_id.is_none()
            && self.event_type.is_none()
            && self.aggregate_id.is_none()
            && self.class.is_none()
            && self.older_than_seconds.is_none()
    }
}

/// Why a letter was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum LetterClass {
    /// The broker can never accept it as it is.
    Message,
    /// A topic or a right was missing.
    Configuration,
    /// Broker or network.
    Transient,
    /// An earlier event of its aggregate was a dead letter.
    Held,
    /// Found by reconciliation.
    Reconciled,
}

impl LetterClass {
    /// As the table and the command line have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Configuration => "configuration",
            Self::Transient => "transient",
            Self::Held => "held",
            Self::Reconciled => "reconciled",
        }
    }
}

/// What became of a replay, as `outbox-relay dead-letters replay --result-file` writes it (JSON): Kubernetes hands it to
/// the operator as the container's termination message, of which it keeps 4096 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayResult {
    /// Letters that were asked for.
    pub letters: u64,
    /// Of these: delivered.
    pub replayed: u64,
    /// Of these: failed again.
    pub failed: u64,
    /// Of these: not carried out by any relay so far, and still asked for.
    pub waiting: u64,
    /// Letters that the filter names and that cannot be sent.
    pub refused: u64,
    /// Why not all were delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
