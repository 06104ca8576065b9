//! The order, rebuilt from its events. Pure: commands are decided here, stored elsewhere.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Kind of aggregate, as the outbox names it.
pub const AGGREGATE_TYPE: &str = "Order";

/// Layout of `event_data`; raised when a change would make old events unreadable.
pub const EVENT_VERSION: i32 = 1;

/// What a customer ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// 1 to 200 characters.
    pub customer: String,
    /// 1 to 100 positions.
    pub items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Item {
    /// 1 to 100 characters.
    pub sku: String,
    /// 1 to 10,000.
    pub quantity: u32,
    /// Price of one, 0 to 100,000,000 cents.
    pub price_cents: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Created,
    Confirmed,
    Shipped,
    Delivered,
    Cancelled,
}

/// What somebody wants to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Create(Details),
    Update(Details),
    Confirm,
    Ship,
    Deliver,
    Cancel,
}

/// What happened. Its name is the event type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Event {
    OrderCreated(Details),
    OrderUpdated(Details),
    OrderConfirmed,
    OrderShipped,
    OrderDelivered,
    OrderCancelled,
}

/// Content of `event_data` and of the outbox payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    pub order_id: Uuid,
    /// Free text of whoever gave the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(flatten)]
    pub event: Event,
}

/// An order as its events left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    #[serde(flatten)]
    pub details: Details,
    pub status: Status,
    pub total_cents: u64,
}

/// Why a command does not apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such order")]
    NoSuchOrder,
    #[error("the order exists already")]
    Exists,
    #[error("an order that is {status:?} cannot be {wanted}; it must be {required}")]
    WrongStatus {
        status: Status,
        wanted: &'static str,
        required: &'static str,
    },
    #[error("{field}: {value} is not accepted; {accepted}")]
    Invalid {
        field: String,
        value: String,
        accepted: &'static str,
    },
}

impl Event {
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::OrderCreated(_) => "OrderCreated",
            Self::OrderUpdated(_) => "OrderUpdated",
            Self::OrderConfirmed => "OrderConfirmed",
            Self::OrderShipped => "OrderShipped",
            Self::OrderDelivered => "OrderDelivered",
            Self::OrderCancelled => "OrderCancelled",
        }
    }
}

/// The order that these events leave. Total: what is stored has happened, whether or not it should have.
pub fn rebuild<'a>(events: impl IntoIterator<Item = &'a Event>) -> Option<Order> {
    events
        .into_iter()
        .fold(None, |order, event| Some(apply(order, event)))
}

/// Decides a command. The event is not part of the order until it is stored.
pub fn decide(order: Option<&Order>, command: Command) -> Result<Event, Refusal> {
    use Status::{Confirmed, Created, Shipped};
    let from = |allowed: &[Status], wanted, required| {
        let status = order.ok_or(Refusal::NoSuchOrder)?.status;
        allowed
            .contains(&status)
            .then_some(())
            .ok_or(Refusal::WrongStatus {
                status,
                wanted,
                required,
            })
    };
    match command {
        Command::Create(details) => {
            validate(&details)?;
            if order.is_some() {
                Err(Refusal::Exists)
            } else {
                Ok(Event::OrderCreated(details))
            }
        }
        Command::Update(details) => {
            validate(&details)?;
            from(&[Created], "updated", "Created")?;
            Ok(Event::OrderUpdated(details))
        }
        Command::Confirm => from(&[Created], "confirmed", "Created").map(|()| Event::OrderConfirmed),
        Command::Ship => from(&[Confirmed], "shipped", "Confirmed").map(|()| Event::OrderShipped),
        Command::Deliver => from(&[Shipped], "delivered", "Shipped").map(|()| Event::OrderDelivered),
        Command::Cancel => {
            from(&[Created, Confirmed], "cancelled", "Created or Confirmed").map(|()| Event::OrderCancelled)
        }
    }
}

/// The order after one more event.
pub fn apply(order: Option<Order>, event: &Event) -> Order {
    let status = match event {
        Event::OrderCreated(_) => Status::Created,
        Event::OrderUpdated(_) => order.as_ref().map_or(Status::Created, |order| order.status),
        Event::OrderConfirmed => Status::Confirmed,
        Event::OrderShipped => Status::Shipped,
        Event::OrderDelivered => Status::Delivered,
        Event::OrderCancelled => Status::Cancelled,
    };
    let details = match (event, order) {
        (Event::OrderCreated(details) | Event::OrderUpdated(details), _) => details.clone(),
        (_, Some(order)) => order.details,
        (_, None) => Details {
            customer: String::new(),
            items: Vec::new(),
        },
    };
    let total_cents = details
        .items
        .iter()
        .map(|item| u64::from(item.quantity) * u64::from(item.price_cents))
        .sum();
    Order {
        details,
        status,
        total_cents,
    }
}

fn validate(details: &Details) -> Result<(), Refusal> {
    let check = |fits: bool, field: String, value: String, accepted| {
        if fits {
            Ok(())
        } else {
            Err(Refusal::Invalid {
                field,
                value,
                accepted,
            })
        }
    };
    let length = |text: &str| text.chars().count();
    let positions = details.items.len();
    check(
        (1..=200).contains(&length(&details.customer)),
        "customer".to_owned(),
        format!("{:.40?}", details.customer),
        "1 to 200 characters are",
    )?;
    check(
        (1..=100).contains(&positions),
        "items".to_owned(),
        format!("{positions} positions"),
        "1 to 100 are",
    )?;
    for (
        index,
        Item {
            sku,
            quantity,
            price_cents,
        },
    ) in details.items.iter().enumerate()
    {
        let field = |name| format!("items[{index}].{name}");
        check(
            (1..=100).contains(&length(sku)),
            field("sku"),
            format!("{sku:.40?}"),
            "1 to 100 characters are",
        )?;
        check(
            (1..=10_000).contains(quantity),
            field("quantity"),
            quantity.to_string(),
            "1 to 10000 is",
        )?;
        check(
            *price_cents <= 100_000_000,
            field("priceCents"),
            price_cents.to_string(),
            "0 to 100000000 is",
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details() -> Details {
        let item = Item {
            sku: "pen".to_owned(),
            quantity: 3,
            price_cents: 250,
        };
        Details {
            customer: "Ada".to_owned(),
            items: vec![item],
        }
    }

    /// The event type, or the start of the refusal.
    fn outcome(history: &[Event], command: Command) -> String {
        match decide(rebuild(history).as_ref(), command) {
            Ok(event) => event.event_type().to_owned(),
            Err(refusal) => refusal
                .to_string()
                .split(';')
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }

    #[test]
    fn commands_follow_the_life_of_an_order() {
        let created = vec![Event::OrderCreated(details())];
        let after = |event: Event, history: &[Event]| [history, &[event]].concat();
        let confirmed = after(Event::OrderConfirmed, &created);
        let shipped = after(Event::OrderShipped, &confirmed);
        let delivered = after(Event::OrderDelivered, &shipped);
        let cancelled = after(Event::OrderCancelled, &created);
        // What create, update, confirm, ship, deliver and cancel lead to; None is a refusal.
        let check = |history: &[Event], expected: [Option<&str>; 6]| {
            let commands = [
                Command::Create(details()),
                Command::Update(details()),
                Command::Confirm,
                Command::Ship,
                Command::Deliver,
                Command::Cancel,
            ];
            let order = rebuild(history);
            let outcomes = commands.map(|command| decide(order.as_ref(), command).ok());
            let event_types = outcomes
                .each_ref()
                .map(|event| event.as_ref().map(Event::event_type));
            assert_eq!(event_types, expected, "after {history:?}");
        };
        check(&[], [Some("OrderCreated"), None, None, None, None, None]);
        let (updated, cancels) = (Some("OrderUpdated"), Some("OrderCancelled"));
        check(
            &created,
            [None, updated, Some("OrderConfirmed"), None, None, cancels],
        );
        check(
            &confirmed,
            [None, None, None, Some("OrderShipped"), None, cancels],
        );
        check(&shipped, [None, None, None, None, Some("OrderDelivered"), None]);
        check(&delivered, [None; 6]);
        check(&cancelled, [None; 6]);
    }

    #[test]
    fn bad_details_are_refused_by_name_and_value() {
        let item = details().items[0].clone();
        let many = vec![item.clone(); 101];
        let with = |items: Vec<Item>| Details { items, ..details() };
        for (bad, expected) in [
            (
                Details {
                    customer: String::new(),
                    ..details()
                },
                "customer: \"\" is not accepted",
            ),
            (
                Details {
                    customer: "x".repeat(201),
                    ..details()
                },
                "customer: \"xxx",
            ),
            (with(vec![]), "items: 0 positions is not accepted"),
            (with(many), "items: 101 positions is not accepted"),
            (
                with(vec![
                    item.clone(),
                    Item {
                        quantity: 0,
                        ..item.clone()
                    },
                ]),
                "items[1].quantity: 0 is",
            ),
            (
                with(vec![Item {
                    sku: String::new(),
                    ..item.clone()
                }]),
                "items[0].sku: \"\" is",
            ),
            (
                with(vec![Item {
                    price_cents: 100_000_001,
                    ..item
                }]),
                "items[0].priceCents: 100000001 is",
            ),
        ] {
            let outcome = outcome(&[], Command::Create(bad));
            assert!(
                outcome.starts_with(expected),
                "{outcome} should start with {expected}"
            );
        }
    }

    #[test]
    fn an_order_is_what_its_events_say() {
        let mut more = details();
        more.items.push(Item {
            sku: "ink".to_owned(),
            quantity: 2,
            price_cents: 100,
        });
        let order = rebuild(&[
            Event::OrderCreated(details()),
            Event::OrderUpdated(more.clone()),
            Event::OrderConfirmed,
        ]);
        assert_eq!(
            order,
            Some(Order {
                details: more,
                status: Status::Confirmed,
                total_cents: 950
            })
        );
    }

    #[test]
    fn recorded_events_survive_their_json() {
        for event in [Event::OrderCreated(details()), Event::OrderShipped] {
            let recorded = Recorded {
                order_id: Uuid::from_u128(1),
                note: Some("n".to_owned()),
                event,
            };
            let json = serde_json::to_string(&recorded).unwrap();
            assert!(
                json.contains(&format!("\"type\":\"{}\"", recorded.event.event_type())),
                "{json}"
            );
            assert_eq!(serde_json::from_str::<Recorded>(&json).unwrap(), recorded);
        }
    }
}
