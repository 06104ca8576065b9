//! Tells what comes after a later event of its aggregate: by memory, not by reading again. Pure.

use std::collections::HashMap;

/// A slot's map is pruned when it has grown to twice what the last pruning left, and this many.
const PRUNE_SLACK: usize = 1024;

/// Per token of a partition key, the newest event that was handed over: 16 bytes per aggregate of the horizon. Orders are
/// numbers that rise with time.
#[derive(Debug, Default)]
pub(super) struct Newest {
    by_token: HashMap<i64, i64>,
    pruned_len: usize,
}

impl Newest {
    /// Remembers an event as handed over; says whether a later one of its aggregate was before.
    pub(super) fn note(&mut self, token: i64, order: i64) -> bool {
        let newest = self.by_token.entry(token).or_insert(order);
        let late = *newest > order;
        *newest = order.max(*newest);
        late
    }

    /// Events below `bound` are compared with nothing any more.
    pub(super) fn prune(&mut self, bound: i64) {
        if self.by_token.len() > 2 * self.pruned_len + PRUNE_SLACK {
            self.by_token.retain(|_, order| *order >= bound);
            self.by_token.shrink_to_fit();
            self.pruned_len = self.by_token.len();
        }
    }
}
