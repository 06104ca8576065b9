//! Commands on stored orders: read the events, decide, write the batch.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use uuid::Uuid;

use crate::order::{Command, Order, Recorded, Refusal, apply, decide, rebuild};
use crate::store::{Addition, Store, StoreError, Stored};

/// Commands on orders of one stripe wait for each other; more stripes than a service has requests in flight.
const STRIPES: usize = 1024;

/// Namespace of order ids that follow from the id of the event that created them.
const ORDER_IDS: Uuid = Uuid::from_u128(0x5a0e_7d3c_1f64_4c0b_9a52_6f0d_2b8e_4c11);

/// Executes commands one after the other per order.
///
/// Two commands on one order must not both find sequence number *n* free. A conditional write cannot guard a batch over
/// several partitions, so the guard is a lock in this process: run one instance of the service per keyspace.
pub struct Orders {
    store: Store,
    stripes: Vec<Mutex<Uncertain>>,
}

/// Orders of a stripe with writes that were not answered, at most: 65,536 in all, about 3 MiB.
const MAX_UNCERTAIN: usize = 64;

/// How long a write without an answer is remembered at least: far longer than hints and batch log take to replay it.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// Highest sequence number of an order whose write was not answered, and when that was. It may surface later, so it is
/// not used again.
#[derive(Default)]
struct Uncertain(HashMap<Uuid, (i64, Instant)>);

/// Answer to a command.
#[derive(Debug, Clone)]
pub struct Done {
    pub order_id: Uuid,
    pub event_id: Uuid,
    pub sequence_number: i64,
    pub order: Order,
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("nothing was written: too many writes before this one have no answer yet")]
    TooManyUncertain,
}

/// The id of the order that the event with this id creates: a repeated request finds the order it made.
pub fn order_created_by(event_id: Uuid) -> Uuid {
    Uuid::new_v5(&ORDER_IDS, event_id.as_bytes())
}

impl Orders {
    pub fn new(store: Store) -> Self {
        Self {
            store,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
        }
    }

    /// Executes a command as the event `event_id`. If that event is stored already, answers as it did then.
    pub async fn execute(
        &self,
        order_id: Uuid,
        event_id: Uuid,
        command: Command,
        note: Option<String>,
    ) -> Result<Done, CommandError> {
        let mut uncertain = self.stripe(order_id).lock().await;
        let history = self.store.history(order_id).await?;
        if let Some(position) = history.iter().position(|stored| stored.event_id == event_id) {
            return done_before(order_id, &history[..=position]).ok_or(Refusal::NoSuchOrder.into());
        }
        let before = rebuild(history.iter().map(|stored| &stored.event));
        let event = decide(before.as_ref(), command)?;
        let order = apply(before, &event);
        let stored = history.last().map_or(0, |last| last.sequence_number);
        let sequence_number = stored.max(uncertain.highest(order_id).unwrap_or(0)) + 1;
        let recorded = Recorded {
            order_id,
            note,
            event,
        };
        let addition = Addition {
            order_id,
            sequence_number,
            event_id,
            recorded: &recorded,
            order: &order,
        };
        // Before the write: a caller that hangs up ends this function in the middle of it, and nobody learns the outcome.
        let Some(before_this) = uncertain.insert(order_id, sequence_number, Instant::now()) else {
            return Err(CommandError::TooManyUncertain);
        };
        match self.store.add(addition).await {
            Ok(()) => {
                uncertain.restore(order_id, None);
                Ok(Done {
                    order_id,
                    event_id,
                    sequence_number,
                    order,
                })
            }
            Err(error) => {
                if !matches!(error, StoreError::Unknown(_)) {
                    uncertain.restore(order_id, before_this);
                }
                Err(error.into())
            }
        }
    }

    /// The order as stored.
    pub async fn get(&self, order_id: Uuid) -> Result<Order, CommandError> {
        let history = self.store.history(order_id).await?;
        rebuild(history.iter().map(|stored| &stored.event)).ok_or(Refusal::NoSuchOrder.into())
    }

    fn stripe(&self, order_id: Uuid) -> &Mutex<Uncertain> {
        // Truncation is harmless: any function of the id will do.
        &self.stripes[order_id.as_u128() as usize % STRIPES]
    }
}

impl Uncertain {
    fn highest(&self, order_id: Uuid) -> Option<i64> {
        self.0.get(&order_id).map(|(highest, _)| *highest)
    }

    /// Returns what stood there before; None if there is no room for one more.
    fn insert(&mut self, order_id: Uuid, highest: i64, now: Instant) -> Option<Option<(i64, Instant)>> {
        if self.0.len() >= MAX_UNCERTAIN && !self.0.contains_key(&order_id) {
            self.0
                .retain(|_, (_, since)| now.duration_since(*since) < REMEMBERED_FOR);
        }
        let room = self.0.len() < MAX_UNCERTAIN || self.0.contains_key(&order_id);
        room.then(|| self.0.insert(order_id, (highest, now)))
    }

    fn restore(&mut self, order_id: Uuid, before: Option<(i64, Instant)>) {
        match before {
            Some(before) => self.0.insert(order_id, before),
            None => self.0.remove(&order_id),
        };
    }
}

/// The answer that the last of these events once had.
fn done_before(order_id: Uuid, history: &[Stored]) -> Option<Done> {
    let last = history.last()?;
    let order = rebuild(history.iter().map(|stored| &stored.event))?;
    Some(Done {
        order_id,
        event_id: last.event_id,
        sequence_number: last.sequence_number,
        order,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_without_an_answer_are_remembered_long_enough_and_not_for_ever() {
        let start = Instant::now();
        let order = |number: usize| Uuid::from_u128(number as u128);
        let mut uncertain = Uncertain::default();
        for number in 0..MAX_UNCERTAIN {
            assert_eq!(uncertain.insert(order(number), 1, start), Some(None));
        }
        let before = start + REMEMBERED_FOR - Duration::from_nanos(1);
        assert_eq!(uncertain.insert(order(MAX_UNCERTAIN), 1, before), None, "no room");
        assert_eq!(uncertain.insert(order(0), 2, before), Some(Some((1, start))));
        assert_eq!(
            uncertain.insert(order(MAX_UNCERTAIN), 1, start + REMEMBERED_FOR),
            Some(None)
        );
        assert_eq!(
            (uncertain.highest(order(0)), uncertain.highest(order(1))),
            (Some(2), None)
        );
        uncertain.restore(order(0), Some((1, start)));
        uncertain.restore(order(MAX_UNCERTAIN), None);
        assert_eq!((uncertain.highest(order(0)), uncertain.0.len()), (Some(1), 1));
    }
}
