//! A rule: what happens, to what, how often.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::pattern::Pattern;

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Log rows become visible this much later than the write they belong to.
    LateLogRows(Duration),
    /// Log rows are placed this much earlier in the log, as by `USING TIMESTAMP` of an old time.
    OldLogTime(Duration),
    /// Log records come a second time, this much later: the same microsecond, another uuid.
    DuplicateLogRows(Duration),
    /// Log rows never come, although their write does: hints for a log are discarded.
    LostLogRows,
    /// Writes fail with WriteTimeout. What becomes of them is not the client's to know.
    WriteTimeout(AfterTimeout),
    /// Conditional writes fail with WriteTimeout; what was decided takes effect with the next conditional write or
    /// serial read of the partition.
    UnlearnedLwt,
    /// The coordinator's clock is wrong by this many microseconds, ahead if positive.
    ClockSkew(i64),
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

/// What becomes of a write that its client was told had timed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterTimeout {
    Never,
    Applied,
    /// Base and log rows together this much later, dated when the client wrote them: a logged batch whose
    /// coordinator died, and which a replay of the batchlog finishes.
    Replayed(Duration),
}

/// Where in the way of a request a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Request,
    Write,
    Read,
    Clock,
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
    /// Requests and clocks: the node they were sent to, the node whose clock it is.
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

    /// `delay` may be zero.
    pub fn duplicate_log_rows(delay: Duration) -> Self {
        Self::new(Effect::DuplicateLogRows(delay))
    }

    pub fn lost_log_rows() -> Self {
        Self::new(Effect::LostLogRows)
    }

    pub fn write_timeout(applied: bool) -> Self {
        Self::new(Effect::WriteTimeout(match applied {
            true => AfterTimeout::Applied,
            false => AfterTimeout::Never,
        }))
    }

    /// A write that times out and is applied `delay` later.
    pub fn replayed_write(delay: Duration) -> Self {
        Self::new(Effect::WriteTimeout(AfterTimeout::Replayed(delay)))
    }

    pub fn unlearned_lwt() -> Self {
        Self::new(Effect::UnlearnedLwt)
    }

    pub fn clock_ahead(by: Duration) -> Self {
        Self::new(Effect::ClockSkew(micros(by)))
    }

    pub fn clock_behind(by: Duration) -> Self {
        Self::new(Effect::ClockSkew(-micros(by)))
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

/// Far more than a day is no use to anyone.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
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
            Effect::LateLogRows(_)
            | Effect::OldLogTime(_)
            | Effect::DuplicateLogRows(_)
            | Effect::LostLogRows
            | Effect::WriteTimeout(_)
            | Effect::UnlearnedLwt => Stage::Write,
            Effect::MissingRows => Stage::Read,
            Effect::ClockSkew(_) => Stage::Clock,
            Effect::Slow(_) | Effect::Error { .. } | Effect::NoAnswer | Effect::Disconnect => Stage::Request,
        }
    }

    /// The name that `kind` has in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Effect::LateLogRows(_) => "late_log_rows",
            Effect::OldLogTime(_) => "old_log_time",
            Effect::DuplicateLogRows(_) => "duplicate_log_rows",
            Effect::LostLogRows => "lost_log_rows",
            Effect::WriteTimeout(_) => "write_timeout",
            Effect::UnlearnedLwt => "unlearned_lwt",
            Effect::ClockSkew(_) => "clock_skew",
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
