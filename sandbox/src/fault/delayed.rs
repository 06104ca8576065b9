//! Writes that become visible later than they were made.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::query::engine::Engine;
use crate::storage::mutation::Mutation;

/// Writes held back at a time: 100,000 rows of 300 B are about 100 MB with what surrounds them.
pub const MAX_DELAYED_WRITES: usize = 100_000;

/// The writes held back, ordered by when they are due.
#[derive(Default)]
pub(crate) struct DelayedWrites {
    waiting: Mutex<BinaryHeap<Delayed>>,
    added: Notify,
}

struct Delayed {
    due: Instant,
    order: u64,
    mutation: Mutation,
}

impl DelayedWrites {
    pub(super) fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Keeps a write until `due`; false if there is no room.
    pub(super) fn hold(&self, due: Instant, order: u64, mutation: Mutation) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_DELAYED_WRITES {
            return false;
        }
        waiting.push(Delayed { due, order, mutation });
        drop(waiting);
        self.added.notify_one();
        true
    }

    /// Applies what is due, for ever.
    pub(crate) async fn run(&self, engine: &Engine) {
        loop {
            let next = self.apply_due(engine);
            tokio::select! {
                () = self.added.notified() => {}
                () = async {
                    match next {
                        Some(due) => sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    /// Applies what is due; returns when the next one will be.
    fn apply_due(&self, engine: &Engine) -> Option<Instant> {
        loop {
            let now = Instant::now();
            let mut waiting = self.waiting.lock();
            let mut due = Vec::new();
            while waiting.peek().is_some_and(|first| first.due <= now) {
                due.extend(waiting.pop().map(|delayed| delayed.mutation));
            }
            let next = waiting.peek().map(|first| first.due);
            drop(waiting);
            if due.is_empty() {
                return next;
            }
            engine.apply(&due);
        }
    }
}

impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> Ordering {
        // Reversed: a BinaryHeap gives its greatest.
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Delayed {}
