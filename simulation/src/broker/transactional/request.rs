//! One batch on its way into a transaction, and the answer on its way back.

use std::sync::Arc;

use relay::ports::{Delivered, ErrorClass, Outcome};

use super::{Inner, Piece};
use crate::broker::cluster::{Denied, What};
use crate::broker::request::{Verdict, judge, throttled};
use crate::broker::{Poison, error};
use crate::plan::Fault;
use crate::world::MS;

/// What a client waits before it asks again, while markers of its last transaction are written.
const BUSY_PAUSE: i64 = 20 * MS;

/// Percent of the batches behind a refused message that are refused for the number that the cluster has not seen.
const REFUSED_BEHIND_A_GAP: i64 = 80;

pub(super) async fn run(producer: Arc<Inner>, log: usize, batch: Vec<Piece>) {
    let process = producer.process().clone();
    let world = process.world.clone();
    world
        .sleep(world.chance(|chance| chance.within(MS / 2, 4 * MS)))
        .await;
    let stalled = producer.line.arrive().await;
    // The process may be gone, or may have given up: what is on the wire arrives or not.
    if process.is_dead() || !producer.is_flying(log, &batch) {
        if world.percent(50) {
            let pause = world.chance(|chance| chance.within(0, 3000 * MS));
            world.sleep(pause).await;
            if write(&producer, log, &batch) == Err(Denied::Fenced) {
                world.count("transactions: message of a fenced producer refused");
            }
        }
        return;
    }
    while let Some(until) = world.fault_until(Fault::CoordinatorDown, process.seat) {
        world.count("transactions: coordinator unavailable");
        world.sleep_until(until).await;
    }
    let poison = batch.iter().find_map(|piece| piece.poison);
    let verdict = if stalled && world.percent(40) {
        world.count("broker: stall that ends in an error");
        throttled()
    } else {
        judge(&world, process.seat, poison)
    };
    let refuses = producer.state.lock().refuses && world.percent(REFUSED_BEHIND_A_GAP);
    let mut offset = 0;
    if !refuses
        && matches!(
            verdict,
            Verdict::Write | Verdict::Fail(_, _, _, true) | Verdict::Fatal(true)
        )
    {
        loop {
            match write(&producer, log, &batch) {
                Ok(at) => break offset = at,
                Err(Denied::Busy) => world.sleep(BUSY_PAUSE).await,
                Err(Denied::Fenced) => {
                    world.count("transactions: message of a fenced producer refused");
                    process.thawed().await;
                    producer.dies("Fenced");
                    return;
                }
            }
        }
    }
    producer.line.answered().await;
    if !producer.landed(log, &batch) {
        return;
    }
    if refuses {
        world.count("transactions: failed as a whole behind a refused message");
        let gap = error(
            ErrorClass::Collateral,
            "OutOfOrderSequenceNumber",
            Outcome::NotWritten,
        );
        return fail(&producer, &batch, |_| gap.clone());
    }
    answer(&producer, log, &batch, &verdict, offset);
}

fn write(producer: &Inner, log: usize, batch: &[Piece]) -> Result<i64, Denied> {
    let world = &producer.process().world;
    let now = world.now();
    let all: Vec<What> = batch
        .iter()
        .filter(|piece| piece.poison.is_none())
        .map(|piece| piece.what.clone())
        .collect();
    let mut state = producer.state.lock();
    let who = (producer.id.as_str(), producer.epoch);
    let written = world
        .cluster
        .lock()
        .write(who, &mut state.transaction, log, &all, now);
    drop(state);
    world.tell(|| format!("log {log}: {all:?} of {} at {written:?}", producer.id));
    written
}

fn answer(producer: &Inner, log: usize, batch: &[Piece], verdict: &Verdict, offset: i64) {
    let world = &producer.process().world;
    match verdict {
        Verdict::Write => {
            for (at, piece) in batch.iter().enumerate() {
                let delivered = Delivered {
                    partition: log as i32,
                    offset: offset + at as i64,
                };
                producer.report(piece, Ok(delivered));
            }
        }
        Verdict::Fail(class, code, outcome, _) => fail(producer, batch, |_| error(*class, code, *outcome)),
        Verdict::Refuse(poison) => {
            let record = *poison == Poison::Record;
            world.count(if record {
                "broker: message refused, batch-mates told so"
            } else {
                "broker: message refused with its batch"
            });
            producer.state.lock().gap = true;
            fail(producer, batch, |piece| poison.refusal(piece.poison.is_some()));
        }
        Verdict::Fatal(_) => {
            let cause = producer.dies("OutOfOrderSequenceNumber");
            for piece in batch {
                producer.report(piece, Err(cause.clone()));
            }
        }
    }
}

/// The first failure is why the transaction can only be aborted.
fn fail(producer: &Inner, batch: &[Piece], why: impl Fn(&Piece) -> relay::ports::DeliveryError) {
    let Some(first) = batch.first() else { return };
    producer.state.lock().failed.get_or_insert_with(|| why(first));
    for piece in batch {
        producer.report(piece, Err(why(piece)));
    }
    producer.fails(&why(first));
}
