//! The journal's topic: what a reader of committed records finds in it.

use std::collections::BTreeMap;

use bytes::Bytes;
use relay::journal::{Entry, Head, Replay, Replayed, Survey, decode};
use relay::model::SlotId;
use relay::ports::{Journal, JournalError};

use super::cluster::{JOURNAL, What};
use crate::plan::Fault;
use crate::process::Point;
use crate::relay_process::Port;
use crate::world::{MS, Micros, SECOND};

/// How often a reader looks whether what stands in its way is decided.
const STABLE_POLL: Micros = 5 * MS;

/// How often of a hundred times there is much to read.
const LONG: i64 = 20;

/// It gives up that long after the longest transaction.
const STABLE_SLACK: Micros = 20 * SECOND;

impl Journal for Port {
    async fn survey(&self) -> Result<Survey, JournalError> {
        self.0.pass(Point::JournalAsked).await;
        self.reaches("look at its beginning").await?;
        let (records, undecided) = {
            let cluster = self.0.world.cluster.lock();
            let stable = cluster.stable(JOURNAL);
            (cluster.journal(0, stable), stable < cluster.end_of(JOURNAL))
        };
        self.0.pass(Point::JournalAnswered).await;
        let mut survey = self.beginning(&records);
        survey.used |= undecided;
        Ok(survey)
    }

    async fn write_head(&self, head: &Head) -> Result<(), JournalError> {
        let world = &self.0.world;
        self.0.pass(Point::JournalAsked).await;
        self.reaches("write its head").await?;
        let head = What::Record(head.encode().into());
        let (_, effects) = world.cluster.lock().append(JOURNAL, [head]);
        world.took_effect(effects);
        self.0.pass(Point::JournalAnswered).await;
        if world.fault(Fault::JournalFails, self.0.seat) && world.percent(50) {
            return Err(unavailable("write its head"));
        }
        Ok(())
    }

    async fn replay(&self, mut replay: Replay) -> Result<BTreeMap<SlotId, Replayed>, JournalError> {
        let (process, world) = (&self.0, &self.0.world);
        process.pass(Point::JournalAsked).await;
        self.reaches("find its end").await?;
        let end = world.cluster.lock().end_of(JOURNAL);
        let began = world.now();
        let mut waited = false;
        while world.cluster.lock().stable(JOURNAL) < end {
            if world.now() - began > world.plan.transaction_timeout + STABLE_SLACK {
                return Err(unavailable("read what is committed"));
            }
            waited = true;
            world.sleep(STABLE_POLL).await;
        }
        if waited {
            world.count("journal: reader waited for an open transaction");
        }
        self.reaches("read it").await?;
        if world.percent(LONG) {
            world.count("journal: takes long to read");
            world
                .sleep(world.chance(|chance| chance.within(50 * MS, 2500 * MS)))
                .await;
            process.thawed().await;
        }
        let beginning = self.beginning(&world.cluster.lock().journal(0, end));
        let records = world.cluster.lock().journal(replay.from(), end);
        process.pass(Point::JournalAnswered).await;
        let replayed = replay.check(&beginning, end).and_then(|()| {
            for (offset, record) in &records {
                replay.record(*offset, Some(record))?;
            }
            replay.finish(end)
        });
        // Nobody touches this journal but relays.
        let replayed = replayed.map_err(|refusal| {
            let detail = format!("{}: {refusal}", process.name);
            world.judge(|oracle| oracle.fail("journal-whole", detail));
            JournalError::Refused {
                topic: "journal".into(),
                refusal,
            }
        })?;
        for (slot, found) in &replayed {
            match found {
                Replayed::Ours { resolved, .. } => {
                    for _ in resolved {
                        world.count("journal: event found beyond the checkpoint");
                    }
                    let now = world.now();
                    world.judge(|oracle| oracle.replayed(process.life, slot.index(), resolved, now));
                }
                Replayed::Superseded => world.count("journal: slot taken meanwhile"),
            }
        }
        Ok(replayed)
    }
}

impl Port {
    async fn reaches(&self, action: &'static str) -> Result<(), JournalError> {
        let (process, world) = (&self.0, &self.0.world);
        world
            .sleep(world.chance(|chance| chance.within(MS / 2, 5 * MS)))
            .await;
        let away = [Fault::JournalFails, Fault::BrokersDown, Fault::BrokerStall];
        let away = away.into_iter().any(|fault| world.fault(fault, process.seat));
        if away && world.percent(70) {
            world.count("journal: unavailable");
            let pause = world.chance(|chance| chance.within(10 * MS, 400 * MS));
            world.sleep(pause).await;
            process.thawed().await;
            return Err(unavailable(action));
        }
        Ok(())
    }

    fn beginning(&self, records: &[(i64, Bytes)]) -> Survey {
        let identity = &self.0.world.plan.config.identity;
        let mut survey = Survey::default();
        for (_, record) in records {
            match decode(identity, Some(record)) {
                Ok(Entry::Head(head)) => {
                    survey.head.get_or_insert(head);
                }
                _ => {
                    survey.used = true;
                    break;
                }
            }
        }
        survey
    }
}

fn unavailable(action: &'static str) -> JournalError {
    JournalError::Unavailable {
        topic: "journal".into(),
        action,
        detail: "planted".into(),
    }
}
