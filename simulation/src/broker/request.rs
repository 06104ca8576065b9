//! One batch on its way to the cluster, and the answer on its way back.

use std::sync::Arc;

use relay::ports::{Delivered, ErrorClass, Outcome, Signal};

use super::client::Client;
use super::cluster::What;
use super::{Item, Poison, error};
use crate::plan::Fault;
use crate::world::{MS, World};

/// What the cluster does with a batch.
pub(super) enum Verdict {
    Write,
    /// Refused; with what outcome, and whether it was written all the same.
    Fail(ErrorClass, &'static str, Outcome, bool),
    Refuse(Poison),
    /// The producer is finished.
    Fatal(bool),
}

pub(super) async fn run(client: Arc<Client>, partition: usize, number: usize, batch: Vec<Item>) {
    let process = client.process.clone();
    let world = process.world.clone();
    world
        .sleep(world.chance(|chance| chance.within(MS / 2, 4 * MS)))
        .await;
    let stalled = client.line.arrive().await;
    client.turn_to_arrive(partition, number).await;
    // The process may be gone, or may have given up: what is on the wire arrives or not.
    let abandoned = process.is_dead() || !client.is_flying(partition, number);
    if abandoned {
        if world.percent(50) {
            world
                .sleep(world.chance(|chance| chance.within(0, 3000 * MS)))
                .await;
            let in_time = world.plan.faults_until + 5000 * MS > world.now();
            if in_time && client.arrives_in_sequence(partition, number) {
                world.count("broker: purged message landed later");
                write(&world, partition, &batch);
                client.written(partition, number);
            }
        }
        return;
    }
    let verdict = if stalled && world.percent(40) {
        world.count("broker: stall that ends in an error");
        throttled()
    } else {
        judge(&world, process.seat, batch.iter().find_map(|item| item.poison))
    };
    let verdict = if client.arrives_in_sequence(partition, number) {
        verdict
    } else {
        world.count("broker: batch behind a refused one refused");
        out_of_sequence()
    };
    let mut offset = None;
    if let Verdict::Write | Verdict::Fail(_, _, _, true) | Verdict::Fatal(true) = verdict {
        offset = Some(write(&world, partition, &batch));
        client.written(partition, number);
    }
    client.line.answered().await;
    client.turn_to_answer(partition, number).await;
    if !client.landed(partition, number) {
        return;
    }
    answer(&client, &batch, &verdict, offset.unwrap_or_default());
}

pub(super) fn throttled() -> Verdict {
    Verdict::Fail(
        ErrorClass::Transient,
        "ThrottlingQuotaExceeded",
        Outcome::NotWritten,
        false,
    )
}

fn out_of_sequence() -> Verdict {
    Verdict::Fail(
        ErrorClass::Collateral,
        "OutOfOrderSequenceNumber",
        Outcome::NotWritten,
        false,
    )
}

pub(super) fn judge(world: &World, seat: usize, poison: Option<Poison>) -> Verdict {
    let on = |fault, percent| world.fault(fault, seat) && world.percent(percent);
    if on(Fault::BrokerConfiguration, 80) {
        world.count("broker: configuration error");
        let code =
            world.chance(|chance| chance.pick(&["UnknownTopicOrPartition", "TopicAuthorizationFailed"]));
        return Verdict::Fail(ErrorClass::Configuration, code, Outcome::NotWritten, false);
    }
    if on(Fault::BrokerTransient, 60) {
        world.count("broker: transient error");
        return throttled();
    }
    if on(Fault::BrokerRefusesLate, 80) {
        world.count("broker: refused after a long time");
        return throttled();
    }
    if on(Fault::BrokerUnknown, 40) {
        let written = world.percent(50);
        world.count(if written {
            "broker: outcome unknown, written"
        } else {
            "broker: outcome unknown, not written"
        });
        return Verdict::Fail(
            ErrorClass::Transient,
            "MessageTimedOut",
            Outcome::Unknown,
            written,
        );
    }
    if on(Fault::BrokerFatal, 40) {
        world.count("broker: fatal error");
        return Verdict::Fatal(world.percent(50));
    }
    poison.map_or(Verdict::Write, Verdict::Refuse)
}

/// Appends the batch; returns the offset of its first message.
fn write(world: &World, partition: usize, batch: &[Item]) -> i64 {
    let sends = batch.iter().filter(|item| item.poison.is_none());
    let messages: Vec<What> = sends.map(|item| What::Message(item.send)).collect();
    let (offset, effects) = world.cluster.lock().append(partition, messages);
    world.took_effect(effects);
    offset
}

fn answer(client: &Client, batch: &[Item], verdict: &Verdict, offset: i64) {
    let world = &client.process.world;
    match verdict {
        Verdict::Write => {
            for (at, item) in batch.iter().enumerate() {
                let offset = offset + at as i64;
                client.report(
                    item,
                    Ok(Delivered {
                        partition: item.partition as i32,
                        offset,
                    }),
                );
            }
        }
        Verdict::Fail(class, code, outcome, _) => {
            for item in batch {
                client.report(item, Err(error(*class, code, *outcome)));
            }
            client.break_off();
        }
        Verdict::Refuse(poison) => {
            let record = *poison == Poison::Record;
            world.count(if record {
                "broker: message refused, batch-mates told so"
            } else {
                "broker: message refused with its batch"
            });
            for item in batch {
                client.report(item, Err(poison.refusal(item.poison.is_some())));
            }
            client.break_off();
        }
        Verdict::Fatal(_) => {
            let fatal = error(
                ErrorClass::Collateral,
                "OutOfOrderSequenceNumber",
                Outcome::Unknown,
            );
            client.line.signal(Signal::Fatal(fatal.clone()));
            for item in batch {
                client.report(item, Err(fatal.clone()));
            }
            client.purge();
        }
    }
}
