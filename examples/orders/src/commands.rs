//! Commands on stored orders: read the events, decide, write the batch.

use std::collections::HashMap;

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

/// Highest sequence number of an order whose write was not answered. It may surface later, so it is not used again.
type Uncertain = HashMap<Uuid, i64>;

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
        let sequence_number = stored.max(uncertain.get(&order_id).copied().unwrap_or(0)) + 1;
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
        let before_this = uncertain.insert(order_id, sequence_number);
        match self.store.add(addition).await {
            Ok(()) => {
                uncertain.remove(&order_id);
                Ok(Done {
                    order_id,
                    event_id,
                    sequence_number,
                    order,
                })
            }
            Err(error) => {
                if !matches!(error, StoreError::Unknown(_)) {
                    match before_this {
                        Some(earlier) => uncertain.insert(order_id, earlier),
                        None => uncertain.remove(&order_id),
                    };
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
