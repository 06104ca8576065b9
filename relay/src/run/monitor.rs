//! Looks now and then at what nobody else watches: retention headroom, stalled checkpoints, dead letters pending, the last
//! audit.

use std::sync::Arc;
use std::time::Duration;

use crds::relay_status::DataEventKind;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::outlook::Outlook;
use super::prepare::Ground;
use crate::model::{SECOND, SlotId};
use crate::ports::Clock;

/// Dead letters are counted by the database, partition by partition: rarely.
const INTERVAL: Duration = Duration::from_secs(15);

/// Retention is at risk when less than this part of it is left.
const HEADROOM_AT_RISK: f64 = crds::relay_status::HEADROOM_AT_RISK_PERCENT as f64 / 100.0;

/// Checkpoints that are this old do not get through: many intervals, and more than a slow store takes.
const CHECKPOINT_STALLED: Duration = Duration::from_secs(30);

pub(super) async fn run(outlook: Arc<Outlook>, ground: Arc<Ground>, stop: CancellationToken) {
    let (mut at_risk, mut stalled) = (false, false);
    while !stop.is_cancelled() {
        at_risk = retention(&outlook, at_risk);
        stalled = checkpoints(&outlook, stalled);
        tokio::select! {
            () = stop.cancelled() => return,
            () = pending(&outlook, &ground) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = audit(&outlook, &ground) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Says once when it becomes so.
fn retention(outlook: &Outlook, was_at_risk: bool) -> bool {
    // The bound, not the oldest event in flight: what cannot be read expires as well.
    let retention = outlook.retention();
    let headroom = |bound| retention.headroom(bound, outlook.source_time());
    let (Some(ttl), Some(left)) = (retention.ttl(), outlook.lowest_bound().and_then(headroom)) else {
        return false;
    };
    let at_risk = (left as f64) < ttl.as_micros() as f64 * HEADROOM_AT_RISK;
    if at_risk && !was_at_risk {
        let text = format!(
            "the oldest undelivered row expires from the CDC log in {} s",
            left / SECOND
        );
        warn!(seconds = left / SECOND, "retention at risk");
        let now = outlook.clock().now();
        outlook.board().event(DataEventKind::RetentionAtRisk, text, now);
    }
    at_risk
}

/// Says once when it becomes so.
fn checkpoints(outlook: &Outlook, were_stalled: bool) -> bool {
    let Some(age) = outlook.checkpoint_age() else {
        return false;
    };
    let stalled = age >= CHECKPOINT_STALLED;
    if stalled && !were_stalled {
        let seconds = age.as_secs();
        warn!(seconds, "checkpoints are stalled");
        let text =
            format!("no complete checkpoint for {seconds} s: a crash now would repeat the events since");
        let now = outlook.clock().now();
        outlook.board().event(DataEventKind::CheckpointStalled, text, now);
    }
    stalled
}

/// One process of an identity tells of its audits: the owner of the first slot.
async fn audit(outlook: &Outlook, ground: &Ground) {
    let owned = outlook.life().map(|life| life.keeper.get().owned);
    if !owned.is_some_and(|owned| owned.contains(SlotId::of_token(i64::MIN))) {
        return outlook.audited(None);
    }
    match ground.state.audit().await {
        Ok(audit) => outlook.audited(audit),
        Err(error) => warn!(%error, "the last audit cannot be read"),
    }
}

async fn pending(outlook: &Outlook, ground: &Ground) {
    let (Some(table), Some(life)) = (&ground.dead_letters.table, outlook.life()) else {
        return;
    };
    match table.pending(life.keeper.get().owned).await {
        Ok(pending) => {
            outlook
                .shared_metrics()
                .delivery
                .dead_letters_pending
                .set(pending as i64);
        }
        Err(error) => warn!(%error, "dead letters cannot be counted"),
    }
}
