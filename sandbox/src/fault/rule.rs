//! A rule: what happens, to what, how often.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::pattern::Pattern;

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Log rows become visible this much later than the write they belong to.
    LateLogRows(Duration),
    /// Log rows are placed this much earlier in the log, as by `USING TIMESTAMP` of an old time.
    OldLogTime(Duration),
    /// Writes fail with WriteTimeout although they were applied, or without.
    WriteTimeout { applied: bool },
    /// Reads miss rows, as from a replica that has a part of them. A record of a CDC log is missed as a whole.
    MissingRows,
    /// Requests are executed and answered this much later.
    Slow(Duration),
    /// Requests fail with this error, after having been executed or without.
    Error { error: ErrorName, executed: bool },
    /// Requests are neither executed nor answered.
    NoAnswer,
    /// The connection is closed instead of an answer.
    Disconnect,
}

/// Where in the way of a request a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Request,
    Write,
    Read,
}

/// Errors that a rule can answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorName {
    ServerError,
    Overloaded,
    IsBootstrapping,
    Unavailable,
    ReadTimeout,
    WriteTimeout,
    ReadFailure,
    WriteFailure,
    Invalid,
    Unauthorized,
    RateLimit,
}

/// An effect and what it applies to; made by the functions named after the effects, narrowed by the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub effect: Effect,
    /// Writes and reads: `keyspace.table`; for log rows, the log's name or its base table's.
    pub table: Option<Pattern>,
    /// Requests: found in the statement's text.
    pub statement: Option<Pattern>,
    /// Writes: found in any of the values written.
    pub contains: Option<String>,
    /// Requests: the node they were sent to.
    pub node: Option<usize>,
    /// How many of those it applies to it strikes, 1 to 100.
    pub share_percent: u8,
    /// After that many it strikes no more.
    pub times: Option<u64>,
    /// Picks which ones are struck; the same seed picks the same ones.
    pub seed: u64,
}

/// A rule in force.
#[derive(Debug)]
pub(super) struct ActiveRule {
    pub(super) id: u64,
    pub(super) rule: Rule,
    seen: AtomicU64,
    struck: AtomicU64,
    hits: AtomicU64,
}

/// A rule and how often it has struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleStatus {
    pub id: u64,
    pub rule: Rule,
    /// Requests, writes or log records struck; for MissingRows, rows hidden.
    pub hits: u64,
}

impl Rule {
    pub fn new(effect: Effect) -> Self {
        Self {
            effect,
            table: None,
            statement: None,
            contains: None,
            node: None,
            share_percent: 100,
            times: None,
            seed: 0,
        }
    }

    pub fn late_log_rows(delay: Duration) -> Self {
        Self::new(Effect::LateLogRows(delay))
    }

    pub fn old_log_time(back: Duration) -> Self {
        Self::new(Effect::OldLogTime(back))
    }

    pub fn write_timeout(applied: bool) -> Self {
        Self::new(Effect::WriteTimeout { applied })
    }

    pub fn missing_rows() -> Self {
        Self::new(Effect::MissingRows)
    }

    pub fn slow(delay: Duration) -> Self {
        Self::new(Effect::Slow(delay))
    }

    pub fn error(error: ErrorName) -> Self {
        Self::new(Effect::Error {
            error,
            executed: false,
        })
    }

    pub fn no_answer() -> Self {
        Self::new(Effect::NoAnswer)
    }

    pub fn disconnect() -> Self {
        Self::new(Effect::Disconnect)
    }

    #[must_use]
    pub fn table(mut self, pattern: &str) -> Self {
        self.table = Some(Pattern::new(pattern));
        self
    }

    #[must_use]
    pub fn statement(mut self, pattern: &str) -> Self {
        self.statement = Some(Pattern::new(pattern));
        self
    }

    #[must_use]
    pub fn contains(mut self, text: &str) -> Self {
        self.contains = Some(text.to_owned());
        self
    }

    #[must_use]
    pub fn node(mut self, index: usize) -> Self {
        self.node = Some(index);
        self
    }

    /// 1 to 100; other values are taken as the nearest of these.
    #[must_use]
    pub fn share_percent(mut self, percent: u8) -> Self {
        self.share_percent = percent.clamp(1, 100);
        self
    }

    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

impl ActiveRule {
    pub(super) fn new(id: u64, rule: Rule) -> Self {
        Self {
            id,
            rule,
            seen: AtomicU64::new(0),
            struck: AtomicU64::new(0),
            hits: AtomicU64::new(0),
        }
    }

    /// Whether the rule strikes the next thing it applies to, and counts it.
    pub(super) fn strikes(&self) -> bool {
        let turn = self.seen.fetch_add(1, Ordering::Relaxed);
        let strikes =
            chance(self.rule.seed, turn, b"") < u64::from(self.rule.share_percent) && self.has_turns();
        if strikes {
            self.count_hit();
        }
        strikes
    }

    /// For rules whose share is not of the things they apply to: the number of this one, None when used up.
    pub(super) fn next_turn(&self) -> Option<u64> {
        self.has_turns()
            .then(|| self.seen.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn count_hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn status(&self) -> RuleStatus {
        RuleStatus {
            id: self.id,
            rule: self.rule.clone(),
            hits: self.hits.load(Ordering::Relaxed),
        }
    }

    fn has_turns(&self) -> bool {
        match self.rule.times {
            Some(times) => self.struck.fetch_add(1, Ordering::Relaxed) < times,
            None => true,
        }
    }
}

/// A number from 0 to 99 that depends on nothing else (FNV-1a over the bytes, splitmix64's finish).
pub(super) fn chance(seed: u64, turn: u64, bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let head = seed.to_be_bytes().into_iter().chain(turn.to_be_bytes());
    for byte in head.chain(bytes.iter().copied()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ (hash >> 31)) % 100
}

impl Effect {
    pub fn stage(&self) -> Stage {
        match self {
            Effect::LateLogRows(_) | Effect::OldLogTime(_) | Effect::WriteTimeout { .. } => Stage::Write,
            Effect::MissingRows => Stage::Read,
            Effect::Slow(_) | Effect::Error { .. } | Effect::NoAnswer | Effect::Disconnect => Stage::Request,
        }
    }

    /// The name that `kind` has in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Effect::LateLogRows(_) => "late_log_rows",
            Effect::OldLogTime(_) => "old_log_time",
            Effect::WriteTimeout { .. } => "write_timeout",
            Effect::MissingRows => "missing_rows",
            Effect::Slow(_) => "slow",
            Effect::Error { .. } => "error",
            Effect::NoAnswer => "no_answer",
            Effect::Disconnect => "disconnect",
        }
    }
}

impl Stage {
    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl RuleStatus {
    /// The rule as it could be given again, with `id` and `hits`.
    pub fn to_json(&self) -> Value {
        let mut out = self.rule.to_json();
        out["id"] = json!(self.id);
        out["hits"] = json!(self.hits);
        out
    }
}

impl Rule {
    pub fn to_json(&self) -> Value {
        let mut out =
            json!({ "kind": self.effect.kind(), "share_percent": self.share_percent, "seed": self.seed });
        let milliseconds = |duration: &Duration| json!(duration.as_millis() as u64);
        match &self.effect {
            Effect::LateLogRows(delay) | Effect::Slow(delay) => {
                out["delay_milliseconds"] = milliseconds(delay)
            }
            Effect::OldLogTime(back) => out["back_milliseconds"] = milliseconds(back),
            Effect::WriteTimeout { applied } => out["applied"] = json!(applied),
            Effect::Error { error, executed } => {
                out["error"] = json!(error.as_str());
                out["executed"] = json!(executed);
            }
            Effect::MissingRows | Effect::NoAnswer | Effect::Disconnect => {}
        }
        let mut optional = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                out[key] = value;
            }
        };
        optional(
            "table",
            self.table.as_ref().map(|pattern| json!(pattern.as_str())),
        );
        optional(
            "statement",
            self.statement.as_ref().map(|pattern| json!(pattern.as_str())),
        );
        optional("contains", self.contains.as_ref().map(|text| json!(text)));
        optional("node", self.node.map(|node| json!(node)));
        optional("times", self.times.map(|times| json!(times)));
        out
    }
}

impl ErrorName {
    pub const ALL: [ErrorName; 11] = [
        ErrorName::ServerError,
        ErrorName::Overloaded,
        ErrorName::IsBootstrapping,
        ErrorName::Unavailable,
        ErrorName::ReadTimeout,
        ErrorName::WriteTimeout,
        ErrorName::ReadFailure,
        ErrorName::WriteFailure,
        ErrorName::Invalid,
        ErrorName::Unauthorized,
        ErrorName::RateLimit,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ErrorName::ServerError => "ServerError",
            ErrorName::Overloaded => "Overloaded",
            ErrorName::IsBootstrapping => "IsBootstrapping",
            ErrorName::Unavailable => "Unavailable",
            ErrorName::ReadTimeout => "ReadTimeout",
            ErrorName::WriteTimeout => "WriteTimeout",
            ErrorName::ReadFailure => "ReadFailure",
            ErrorName::WriteFailure => "WriteFailure",
            ErrorName::Invalid => "Invalid",
            ErrorName::Unauthorized => "Unauthorized",
            ErrorName::RateLimit => "RateLimit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept_and_repeatable() {
        let struck = |rule: Rule| {
            let active = ActiveRule::new(1, rule);
            (0..1_000).filter(|_| active.strikes()).count()
        };
        assert_eq!(struck(Rule::no_answer()), 1_000);
        assert_eq!(struck(Rule::no_answer().times(3)), 3);
        assert_eq!(struck(Rule::no_answer().share_percent(50).times(7)), 7);
        let some = struck(Rule::no_answer().share_percent(20));
        assert!((150..250).contains(&some), "{some} of 1000");
        assert_eq!(struck(Rule::no_answer().share_percent(20)), some);
        assert_ne!(chance(1, 0, b"a"), chance(2, 0, b"a"));
    }
}
