//! Faults on purpose: rules that delay, hide, misplace or fail what would otherwise work.
//!
//! `rule` says what a rule is, `pattern` what it applies to, `spec` (with `fields`) reads it from JSON; `request` decides on
//! requests, `write` and `read` sit in the engine's hooks, `delayed` keeps writes that become visible later.

pub mod delayed;
pub mod fields;
pub mod pattern;
mod read;
pub mod request;
pub mod rule;
pub mod spec;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::RwLock;

use delayed::DelayedWrites;
use rule::{ActiveRule, Rule, RuleStatus, Stage};

/// Rules at a time. A test needs a few; each costs a look per request.
pub const MAX_RULES: usize = 256;

/// All rules of a cluster. Cheap where there are none.
#[derive(Default)]
pub struct Faults {
    rules: RwLock<Vec<Arc<ActiveRule>>>,
    /// A bit per [`Stage`] that any rule is about.
    stages: AtomicU8,
    last_id: AtomicU64,
    last_order: AtomicU64,
    pub(crate) delayed: DelayedWrites,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there are {MAX_RULES} rules already; remove some first")]
pub struct TooManyRules;

impl Faults {
    /// Puts a rule into force, and gives its id.
    ///
    /// # Errors
    /// [`TooManyRules`].
    pub fn add(&self, rule: Rule) -> Result<u64, TooManyRules> {
        let mut rules = self.rules.write();
        if rules.len() >= MAX_RULES {
            return Err(TooManyRules);
        }
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        rules.push(Arc::new(ActiveRule::new(id, rule)));
        self.note_stages(&rules);
        Ok(id)
    }

    /// Ends a rule; None if there is none of that id. Writes that it delayed still come when they are due.
    pub fn remove(&self, id: u64) -> Option<RuleStatus> {
        let mut rules = self.rules.write();
        let position = rules.iter().position(|rule| rule.id == id)?;
        let removed = rules.remove(position);
        self.note_stages(&rules);
        Some(removed.status())
    }

    /// Ends all rules; returns how many there were.
    pub fn clear(&self) -> usize {
        let mut rules = self.rules.write();
        let count = rules.len();
        rules.clear();
        self.note_stages(&rules);
        count
    }

    /// All rules in force and how often each has struck, oldest first.
    pub fn list(&self) -> Vec<RuleStatus> {
        self.rules.read().iter().map(|rule| rule.status()).collect()
    }

    pub fn get(&self, id: u64) -> Option<RuleStatus> {
        let rules = self.rules.read();
        rules.iter().find(|rule| rule.id == id).map(|rule| rule.status())
    }

    /// Writes held back now.
    pub fn delayed_writes(&self) -> usize {
        self.delayed.len()
    }

    /// A number that rises with every call.
    pub(crate) fn next_order(&self) -> u64 {
        self.last_order.fetch_add(1, Ordering::Relaxed)
    }

    /// True if any rule is about requests.
    pub(crate) fn touch_requests(&self) -> bool {
        self.touch(Stage::Request)
    }

    fn touch(&self, stage: Stage) -> bool {
        self.stages.load(Ordering::Acquire) & stage.bit() != 0
    }

    fn rules_of(&self, stage: Stage) -> Vec<Arc<ActiveRule>> {
        let rules = self.rules.read();
        rules
            .iter()
            .filter(|rule| rule.rule.effect.stage() == stage)
            .cloned()
            .collect()
    }

    fn note_stages(&self, rules: &[Arc<ActiveRule>]) {
        let bits = rules
            .iter()
            .fold(0, |bits, rule| bits | rule.rule.effect.stage().bit());
        self.stages.store(bits, Ordering::Release);
    }
}
