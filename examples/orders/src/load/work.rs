//! What a writer writes: lives of orders, one event after the other.

use rand::Rng;
use rand::distr::Alphanumeric;
use uuid::Uuid;

use super::Plan;
use super::target::Answer;
use crate::commands::order_created_by;
use crate::order::{Details, Event, Item, Recorded};

/// Bytes of an outbox payload around the note.
const ENVELOPE_BYTES: usize = 90;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Create,
    Update,
    Confirm,
    Ship,
    Deliver,
}

/// One command on one order.
#[derive(Debug, Clone)]
pub struct Write {
    pub order_id: Uuid,
    pub event_id: Uuid,
    /// Rises with every attempt on the order.
    pub sequence: i64,
    pub step: Step,
    pub note: String,
}

impl Write {
    /// What the outbox holds of it afterwards, written by the service or without it: event type and payload.
    pub fn content(&self) -> Result<(&'static str, String), serde_json::Error> {
        let event = match self.step {
            Step::Create => Event::OrderCreated(details()),
            Step::Update => Event::OrderUpdated(details()),
            Step::Confirm => Event::OrderConfirmed,
            Step::Ship => Event::OrderShipped,
            Step::Deliver => Event::OrderDelivered,
        };
        let event_type = event.event_type();
        let recorded = Recorded {
            order_id: self.order_id,
            note: Some(self.note.clone()),
            event,
        };
        Ok((event_type, serde_json::to_string(&recorded)?))
    }
}

/// Every order of a load is the same; what differs is its note.
pub(super) fn details() -> Details {
    let item = Item {
        sku: "pen".to_owned(),
        quantity: 1,
        price_cents: 250,
    };
    Details {
        customer: "Ada".to_owned(),
        items: vec![item],
    }
}

/// The numbers and orders of one of several writers.
pub(super) struct Work {
    next: u64,
    stride: u64,
    end: u64,
    events_per_order: u32,
    payload_bytes: usize,
    large: Option<(u64, usize)>,
    orders: Vec<Option<Life>>,
    /// The order that the last write was for.
    current: usize,
}

#[derive(Debug, Clone, Copy)]
struct Life {
    order_id: Uuid,
    /// Events it has.
    age: u32,
    /// Writes that were tried.
    attempts: i64,
}

impl Work {
    /// The part of a plan for one of its writers: every so many-th number, and orders of its own.
    pub(super) fn new(plan: &Plan, writer: usize) -> Self {
        let orders = plan.orders.div_ceil(plan.writers).max(1);
        Self {
            next: writer as u64,
            stride: plan.writers as u64,
            end: plan.events,
            events_per_order: plan.events_per_order.max(1),
            payload_bytes: plan.payload_bytes,
            large: plan.large,
            orders: vec![None; orders],
            current: 0,
        }
    }

    pub(super) fn next_number(&mut self) -> Option<u64> {
        let number = self.next;
        self.next += self.stride;
        (number < self.end).then_some(number)
    }

    pub(super) fn next_write(&mut self, number: u64) -> Write {
        self.current = (self.current + 1) % self.orders.len();
        let event_id = Uuid::new_v4();
        let life = self.orders[self.current].get_or_insert_with(|| Life {
            order_id: order_created_by(event_id),
            age: 0,
            attempts: 0,
        });
        // A refused creation is tried again as another event, and that makes another order.
        if life.age == 0 {
            *life = Life {
                order_id: order_created_by(event_id),
                age: 0,
                attempts: 0,
            };
        }
        life.attempts += 1;
        let payload_bytes = match self.large {
            Some((every, bytes)) if number % every == every - 1 => bytes,
            _ => self.payload_bytes,
        };
        Write {
            order_id: life.order_id,
            event_id,
            sequence: life.attempts,
            step: step(life.age, self.events_per_order),
            note: half_random(payload_bytes.saturating_sub(ENVELOPE_BYTES)),
        }
    }

    /// Takes the answer to the last write into account.
    pub(super) fn answered(&mut self, answer: &Answer) {
        let order = &mut self.orders[self.current];
        match answer {
            Answer::Committed => {
                if let Some(life) = order {
                    life.age += 1;
                    if life.age >= self.events_per_order {
                        *order = None;
                    }
                }
            }
            Answer::Refused(_) => {}
            // Nobody knows what the next step of this order would be.
            Answer::Unknown(_) => *order = None,
        }
    }
}

/// The step of an order with `age` of `length` events: created, updated, and in the end confirmed, shipped, delivered.
fn step(age: u32, length: u32) -> Step {
    match (age, length - 1 - age.min(length - 1)) {
        (0, _) => Step::Create,
        (_, 0) if length >= 4 => Step::Deliver,
        (_, 1) if length >= 4 => Step::Ship,
        (_, 2) if length >= 4 => Step::Confirm,
        _ => Step::Update,
    }
}

/// Text of which every other byte is random: neither incompressible nor, like a constant, all too compressible.
fn half_random(bytes: usize) -> String {
    let mut random = rand::rng().sample_iter(Alphanumeric);
    (0..bytes)
        .map(|index| {
            if index % 2 == 0 {
                '-'
            } else {
                random.next().map_or('-', char::from)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            events: 30,
            rate: None,
            writers: 2,
            orders: 4,
            events_per_order: 6,
            payload_bytes: 300,
            large: Some((10, 1000)),
            journal: "unused".into(),
        }
    }

    #[test]
    fn orders_live_from_creation_to_delivery() {
        let lives = |length| (0..length).map(|age| step(age, length)).collect::<Vec<_>>();
        use Step::{Confirm, Create, Deliver, Ship, Update};
        assert_eq!(lives(1), [Create]);
        assert_eq!(lives(3), [Create, Update, Update]);
        assert_eq!(lives(4), [Create, Confirm, Ship, Deliver]);
        assert_eq!(lives(6), [Create, Update, Update, Confirm, Ship, Deliver]);
    }

    #[test]
    fn writers_share_the_numbers_and_keep_their_orders_in_sequence() {
        let mut numbers = Vec::new();
        for writer in 0..2 {
            let mut work = Work::new(&plan(), writer);
            let mut last = std::collections::HashMap::new();
            while let Some(number) = work.next_number() {
                let write = work.next_write(number);
                let large = write.note.len() > 900;
                assert_eq!(large, number % 10 == 9, "write {number}");
                let before = last.insert(write.order_id, write.sequence).unwrap_or(0);
                assert_eq!(write.sequence, before + 1);
                work.answered(&Answer::Committed);
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..30).collect::<Vec<_>>());
    }

    #[test]
    fn a_refused_write_is_tried_again_and_an_unanswered_one_ends_its_order() {
        let mut work = Work::new(
            &Plan {
                orders: 1,
                writers: 1,
                ..plan()
            },
            0,
        );
        let created = work.next_write(0);
        work.answered(&Answer::Committed);
        let refused = work.next_write(1);
        work.answered(&Answer::Refused("no".to_owned()));
        let again = work.next_write(2);
        assert_eq!((again.order_id, again.step), (created.order_id, refused.step));
        assert_eq!((refused.sequence, again.sequence), (2, 3));
        work.answered(&Answer::Unknown("silence".to_owned()));
        let next = work.next_write(3);
        assert_eq!((next.step, next.sequence), (Step::Create, 1));
        assert_ne!(next.order_id, created.order_id);
    }

    #[test]
    fn half_of_a_payload_is_random() {
        let (one, other) = (half_random(300), half_random(300));
        let same = one
            .bytes()
            .zip(other.bytes())
            .filter(|(one, other)| one == other)
            .count();
        assert_eq!(one.len(), 300);
        assert!((150..175).contains(&same), "{same} of 300 bytes are the same");
    }
}
