//! What others see of the keeper.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::relay_status::Health;
use parking_lot::Mutex;
use tracing::{info, warn};

use super::Deadline;
use crate::model::{SlotId, SlotSet};
use crate::ports::StateError;

/// What a keeper does with its store, for what fails.
pub(super) const BEAT: &str = "renew the heartbeat";
pub(super) const OBSERVE: &str = "see who owns what";
pub(super) const CLAIM: &str = "claim slots";
pub(super) const RELEASE: &str = "release slots";
pub(super) const SAVE: &str = "save checkpoints";
pub(super) const RETIRE: &str = "remove ended processes";

#[derive(Debug, Clone)]
pub struct KeeperView {
    state: Arc<Mutex<KeeperState>>,
    deadline: Deadline,
}

#[derive(Debug, Clone, Default)]
pub struct KeeperState {
    /// A plan was made: what is not owned now is somebody else's.
    pub planned: bool,
    /// How many slots this process should own.
    pub wanted: usize,
    pub owned: SlotSet,
    /// By index of the owned slots.
    pub epochs: BTreeMap<usize, u64>,
    /// Slots of our share that a live process still owns.
    pub waiting: SlotSet,
    /// A process that takes its slots the other way, and goes first.
    pub conflict: Option<String>,
    /// Slots whose checkpoints cannot be read, and why.
    pub refused: BTreeMap<SlotId, String>,
    /// Until when events may be handed over, on the process's monotonic clock.
    pub lease_until: Duration,
    /// Monotonic time of the last time that nothing was left unsaved.
    pub saved_at: Option<Duration>,
    /// What fails now: the action, the error's category and text.
    pub troubles: BTreeMap<&'static str, (&'static str, String)>,
    pub saves: u64,
    pub save_failures: u64,
    pub fenced: u64,
}

impl KeeperView {
    pub(super) fn new(deadline: Deadline) -> Self {
        Self {
            state: Arc::default(),
            deadline,
        }
    }

    pub fn get(&self) -> KeeperState {
        let mut state = self.state.lock().clone();
        state.lease_until = self.deadline.get();
        state
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut KeeperState)) {
        change(&mut self.state.lock());
    }

    /// Errors of the store are handled by trying again; said when they begin or change their kind.
    pub(super) fn troubled(&self, action: &'static str, error: &StateError) {
        self.troubled_by(action, error.category(), error.to_string());
    }

    pub(super) fn troubled_by(&self, action: &'static str, category: &'static str, error: String) {
        let trouble = (category, error.clone());
        let before = self.state.lock().troubles.insert(action, trouble);
        if before.is_none_or(|(before, _)| before != category) {
            warn!(action, category, error, "ownership and checkpoints");
        }
    }

    pub(super) fn well(&self, action: &'static str) {
        if self.state.lock().troubles.remove(action).is_some() {
            info!(action, "the state store works again");
        }
    }
}

impl KeeperState {
    /// Whether ownership lets events be handed over. Not before the first plan, when nothing is owned.
    pub fn lapsed(&self, elapsed: Duration) -> bool {
        !self.owned.is_empty() && elapsed >= self.lease_until
    }

    /// How ownership and checkpoints do, and why not better.
    pub fn health(&self, elapsed: Duration) -> (Health, Option<String>) {
        let trouble = self.troubles.values().next().map(|(_, text)| text.clone());
        if self.lapsed(elapsed) {
            let why = trouble.map_or(String::new(), |trouble| format!(": {trouble}"));
            let text =
                format!("the heartbeat was not renewed in time, so nothing is handed over until it is{why}");
            return (Health::Failed, Some(text));
        }
        if let Some((slot, detail)) = self.refused.first_key_value() {
            let others = match self.refused.len() - 1 {
                0 => String::new(),
                others => format!(", and {others} more"),
            };
            let text =
                format!("checkpoint of slot {slot} refused: {detail}{others}; these slots are not read");
            return (Health::Failed, Some(text));
        }
        match trouble {
            Some(trouble) => (Health::Degraded, Some(trouble)),
            None => (Health::Healthy, None),
        }
    }
}
