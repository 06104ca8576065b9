//! The end of a transaction: asked for, decided by the coordinator, told or not.

use std::sync::Arc;

use relay::ports::{DeliveryError, ErrorClass, Outcome, TransactionError, Verdict};

use super::Inner;
use crate::broker::cluster::Denied;
use crate::broker::{LATEST, Late, Request, error};
use crate::plan::Fault;
use crate::process::Point;
use crate::world::{MS, Micros, SECOND, World};

/// One call waits for the coordinator this long.
const CALL_LIMIT: Micros = 5 * SECOND;

/// How a client learns of what it has asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Told,
    /// It did not arrive.
    Lost,
    /// It took effect, and the answer was lost.
    Untold,
    /// It arrives when nobody waits for it any more.
    Later,
}

pub(super) async fn end(producer: Arc<Inner>, commit: bool) -> Result<(), TransactionError> {
    let process = producer.process().clone();
    let world = process.world.clone();
    process
        .pass(if commit {
            Point::CommitAsked
        } else {
            Point::AbortAsked
        })
        .await;
    process.may_panic();
    stand_by(&producer, commit).await?;
    let transaction = producer.state.lock().transaction;
    if let Some(number) = transaction {
        decide(&producer, number, commit).await?;
    }
    process.thawed().await;
    if let Some(cause) = producer.state.lock().fatal.clone() {
        return Err(failure(Verdict::Ended, cause));
    }
    told(&producer, commit);
    process
        .pass(if commit {
            Point::CommitTold
        } else {
            Point::AbortTold
        })
        .await;
    world.tell(|| {
        format!(
            "{} has ended a transaction of {}, commit: {commit}",
            process.name, producer.id
        )
    });
    Ok(())
}

/// Whether the producer may ask at all. An abort awaits what is on its way.
async fn stand_by(producer: &Inner, commit: bool) -> Result<(), TransactionError> {
    let world = &producer.process().world;
    let began = world.now();
    if !commit {
        producer.purge_queue();
    }
    loop {
        let (fatal, failed) = {
            let state = producer.state.lock();
            (state.fatal.clone(), state.failed.clone())
        };
        if let Some(cause) = fatal {
            return Err(failure(Verdict::Ended, cause));
        }
        if let Some(cause) = failed.filter(|_| commit) {
            return Err(failure(Verdict::Abort, cause));
        }
        if producer.in_flight() == 0 {
            return Ok(());
        }
        if world.now() - began > CALL_LIMIT {
            return Err(again("TimedOut"));
        }
        world.sleep(MS).await;
    }
}

/// Asks the coordinator.
async fn decide(producer: &Arc<Inner>, number: usize, commit: bool) -> Result<(), TransactionError> {
    let (process, world) = (producer.process(), &producer.process().world);
    let mut wire = Wire {
        producer: producer.clone(),
        request: Some((number, commit)),
    };
    world
        .sleep(world.chance(|chance| chance.within(MS / 3, 3 * MS)))
        .await;
    unavailable(producer).await?;
    if commit && world.fault(Fault::CommitRefused, process.seat) && world.percent(40) {
        world.count("transactions: commit that leaves an abort only");
        let cause = error(ErrorClass::Transient, "UnknownProducerId", Outcome::NotWritten);
        wire.request = None;
        producer.state.lock().failed = Some(cause.clone());
        return Err(failure(Verdict::Abort, cause));
    }
    let fate = fate(world, process.seat, commit);
    wire.request = None;
    let ended = match fate {
        Fate::Lost => Ok(()),
        Fate::Later => {
            producer.leave(number, commit);
            Ok(())
        }
        Fate::Told | Fate::Untold => apply(world, (&producer.id, producer.epoch), number, commit),
    };
    process
        .pass(if commit {
            Point::CommitApplied
        } else {
            Point::AbortApplied
        })
        .await;
    let answered = world.chance(|chance| match fate {
        Fate::Told => chance.within(MS / 3, 3 * MS),
        _ => chance.within(50 * MS, 800 * MS),
    });
    world.sleep(answered).await;
    process.thawed().await;
    match (fate, ended) {
        (Fate::Told, Ok(())) => Ok(()),
        (Fate::Told, Err(_)) => {
            world.count("transactions: end asked for by a fenced producer refused");
            Err(failure(Verdict::Ended, producer.dies("Fenced")))
        }
        _ => {
            world.judge(|oracle| oracle.lost_transaction(process.life));
            Err(again("OperationTimedOut"))
        }
    }
}

/// Waits for a coordinator, as long as one call does.
async fn unavailable(producer: &Inner) -> Result<(), TransactionError> {
    let (process, world) = (producer.process(), &producer.process().world);
    let away = [Fault::CoordinatorDown, Fault::BrokersDown, Fault::BrokerStall];
    let until = |world: &World| {
        let until = away
            .iter()
            .filter_map(|fault| world.fault_until(*fault, process.seat));
        until.max()
    };
    let began = world.now();
    while let Some(until) = until(world) {
        world.count("transactions: coordinator unavailable");
        world.sleep_until(until.min(began + CALL_LIMIT)).await;
        process.thawed().await;
        if world.now() - began >= CALL_LIMIT || world.percent(30) {
            return Err(again("OperationTimedOut"));
        }
    }
    Ok(())
}

fn fate(world: &World, seat: usize, commit: bool) -> Fate {
    if !world.fault(Fault::CoordinatorUntold, seat) || !world.percent(50) {
        return Fate::Told;
    }
    let fate = world.chance(|chance| chance.pick(&[Fate::Lost, Fate::Untold, Fate::Later]));
    if commit {
        world.count(match fate {
            Fate::Lost => "transactions: commit lost on its way",
            Fate::Later => "transactions: commit that arrives late",
            Fate::Told | Fate::Untold => "transactions: commit applied, but not told",
        });
    }
    fate
}

/// The coordinator decides; of a commit the markers follow.
pub(in crate::broker) fn apply(
    world: &Arc<World>,
    who: (&str, u32),
    number: usize,
    commit: bool,
) -> Result<(), Denied> {
    let ended = world.cluster.lock().end(who, number, commit);
    world.tell(|| {
        let (id, _) = who;
        format!(
            "transaction {number} of {id}: commit {commit}, {:?}",
            ended.as_ref().err()
        )
    });
    let effects = ended?;
    if effects.committed.is_some() {
        let slow = world.fault(Fault::MarkersSlow, usize::MAX);
        if slow {
            world.count("transactions: markers slow");
        }
        let most = if slow { 700 * MS } else { 8 * MS };
        let pause = world.chance(|chance| chance.within(0, most));
        let world = world.clone();
        tokio::spawn(async move {
            world.sleep(pause).await;
            let effects = world.cluster.lock().complete(number);
            world.took_effect(effects);
        });
    }
    world.took_effect(effects);
    Ok(())
}

/// The process hears that its transaction has ended, and is in the next one.
fn told(producer: &Inner, commit: bool) {
    let world = &producer.process().world;
    let now = world.now();
    let sends = {
        let mut state = producer.state.lock();
        state.transaction = None;
        state.failed = None;
        state.refuses = std::mem::take(&mut state.gap) && !state.refuses;
        std::mem::take(&mut state.sends)
    };
    let outcome = (!commit).then_some(Outcome::NotWritten);
    world.judge(|oracle| {
        for send in sends {
            oracle.reported(send, outcome, now);
        }
    });
}

/// A request on its way. If whoever made it is gone before it arrives, it may arrive all the same.
struct Wire {
    producer: Arc<Inner>,
    request: Option<(usize, bool)>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some((number, commit)) = self.request.take()
            && self.producer.process().world.percent(50)
        {
            self.producer.leave(number, commit);
        }
    }
}

impl Inner {
    fn leave(&self, number: usize, commit: bool) {
        let world = &self.process().world;
        let due = world.now() + world.chance(|chance| chance.within(0, LATEST));
        let request = Request::End {
            id: self.id.clone(),
            epoch: self.epoch,
            number,
            commit,
        };
        world.cluster_later(Late { due, request });
    }
}

fn failure(verdict: Verdict, error: DeliveryError) -> TransactionError {
    TransactionError { verdict, error }
}

fn again(code: &str) -> TransactionError {
    failure(
        Verdict::Again,
        error(ErrorClass::Transient, code, Outcome::Unknown),
    )
}
