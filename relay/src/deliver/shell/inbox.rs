//! Where producers leave their signals.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::deliver::lane::Generation;
use crate::ports::{Signal, Signals};

/// Bounded by what it holds: one report per message in flight, which the lane bounds, and librdkafka's rare errors, of
/// which there are at most [`MAX_TROUBLES`].
#[derive(Debug, Clone, Default)]
pub(super) struct Inbox(Arc<Inner>);

/// Errors kept between two turns of the lane, which last milliseconds. The newest say as much as all of them.
const MAX_TROUBLES: usize = 1_000;

#[derive(Debug, Default)]
struct Inner {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    signals: Vec<(Generation, Signal)>,
    troubles: usize,
}

impl Inbox {
    /// Signals of one producer.
    pub(super) fn signals(&self, generation: Generation) -> Signals {
        let inbox = Arc::clone(&self.0);
        Signals::new(move |signal| inbox.put(generation, signal))
    }

    /// Moves everything out, in order.
    pub(super) fn take(&self, into: &mut Vec<(Generation, Signal)>) {
        let mut queue = self.0.queue.lock();
        queue.troubles = 0;
        into.append(&mut queue.signals);
    }

    pub(super) async fn filled(&self) {
        self.0.filled.notified().await;
    }
}

impl Inner {
    fn put(&self, generation: Generation, signal: Signal) {
        let mut queue = self.queue.lock();
        if matches!(signal, Signal::Trouble(_)) {
            queue.troubles += 1;
            if queue.troubles > MAX_TROUBLES {
                return;
            }
        }
        let was_empty = queue.signals.is_empty();
        queue.signals.push((generation, signal));
        drop(queue);
        // Whoever takes, takes all: one wake-up per batch.
        if was_empty {
            self.filled.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{DeliveryError, ErrorClass, Outcome};

    #[tokio::test]
    async fn one_wake_up_brings_all_signals_in_order_and_troubles_are_bounded() {
        let inbox = Inbox::default();
        let signals = inbox.signals(3);
        let trouble = |detail: usize| DeliveryError {
            class: ErrorClass::Transient,
            code: String::new(),
            detail: detail.to_string(),
            outcome: Outcome::Unknown,
        };
        for i in 0..MAX_TROUBLES + 5 {
            signals.send(Signal::Trouble(trouble(i)));
        }
        signals.send(Signal::Fatal(trouble(0)));
        inbox.filled().await;
        let mut taken = Vec::new();
        inbox.take(&mut taken);
        assert_eq!(taken.len(), MAX_TROUBLES + 1);
        assert_eq!(taken[0], (3, Signal::Trouble(trouble(0))));
        assert_eq!(taken.last(), Some(&(3, Signal::Fatal(trouble(0)))));
    }
}
