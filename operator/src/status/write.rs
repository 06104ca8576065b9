//! When a status is written: at once when something happened, at most every ten seconds when only numbers move, and
//! never when nothing has changed.

use crds::outbox_relay::status::{OutboxRelayStatus, condition};
use crds::relay_status::{Phase, Totals};
use std::time::Duration;

/// Time between two writes of numbers alone.
const NUMBERS_EVERY: Duration = Duration::from_secs(10);

/// How long a status that says only that relays start is kept back, since the operator first saw the resource. They are
/// ready in less where the image is on the node; until then the definition's default, `observedGeneration: -1`, says that
/// nobody has looked (kstatus: in progress). So most resources come up with one write instead of two or three.
const FIRST_AFTER: Duration = Duration::from_secs(5);

/// Where so many others start at the same time, it is kept back for longer: a control plane on two cores needs a minute until a
/// thousand and their pods are ready, and each write of a status that is out of date soon adds to it.
const MANY: usize = 50;
const FIRST_AFTER_MANY: Duration = Duration::from_secs(60);

/// Ages move by themselves; what is below this says nothing new.
const AGE_STEP_SECONDS: u64 = 60;

/// What to do with a new status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Write it.
    Now,
    /// Look again after this time.
    After(Duration),
    /// It says nothing new.
    No,
}

/// Whether `new` is written, given the status that was written last and how long ago, if this process has; then for how
/// long it has known the resource, and of how many the status is kept back.
pub fn when_to_write(
    last: &OutboxRelayStatus,
    new: &OutboxRelayStatus,
    since: Option<Duration>,
    (known_for, kept_back): (Duration, usize),
) -> Write {
    if last.conditions.is_empty() && only_starts(new) {
        let after = if kept_back > MANY {
            FIRST_AFTER_MANY
        } else {
            FIRST_AFTER
        };
        if known_for < after {
            return Write::After(after - known_for);
        }
    }
    if without_numbers(last) != without_numbers(new) {
        return Write::Now;
    }
    if !numbers_differ(last, new) {
        return Write::No;
    }
    match since.map(|since| NUMBERS_EVERY.saturating_sub(since)) {
        None | Some(Duration::ZERO) => Write::Now,
        Some(left) => Write::After(left),
    }
}

/// It becomes better by itself, as far as can be seen.
fn only_starts(status: &OutboxRelayStatus) -> bool {
    let is = |type_: &str| {
        let mut conditions = status.conditions.iter();
        conditions.any(|known| known.type_ == type_ && known.status == "True")
    };
    is(condition::RECONCILING) && !is(condition::STALLED) && !is(condition::READY)
}

/// The status without what changes all the time under load. Messages hold numbers too, and a busy relay catches up every
/// now and then.
fn without_numbers(status: &OutboxRelayStatus) -> OutboxRelayStatus {
    let calm = |phase: Option<Phase>| {
        phase.map(|phase| {
            if phase == Phase::CatchingUp {
                Phase::Streaming
            } else {
                phase
            }
        })
    };
    let mut status = status.clone();
    status.phase = calm(status.phase);
    status.totals = Totals::default();
    status.lag_seconds = None;
    status.checkpoint_age_seconds = None;
    status.dead_letters_pending = None;
    for condition in &mut status.conditions {
        condition.message.clear();
    }
    for share in &mut status.share_statuses {
        share.phase = calm(share.phase);
        (share.lag_seconds, share.message, share.owned_slots) = (None, None, 0);
    }
    status
}

fn numbers_differ(last: &OutboxRelayStatus, new: &OutboxRelayStatus) -> bool {
    let but_age = |status: &OutboxRelayStatus| OutboxRelayStatus {
        checkpoint_age_seconds: None,
        ..status.clone()
    };
    let ages = (last.checkpoint_age_seconds, new.checkpoint_age_seconds);
    let age_moved = match ages {
        (Some(last), Some(new)) => last.abs_diff(new) > AGE_STEP_SECONDS.max(last / 2),
        (last, new) => last.is_some() != new.is_some(),
    };
    age_moved || but_age(last) != but_age(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use k8s_openapi::jiff::Timestamp;

    fn status(processed: u64, age: u64, phase: Phase) -> OutboxRelayStatus {
        OutboxRelayStatus {
            totals: Totals {
                processed,
                ..Totals::default()
            },
            checkpoint_age_seconds: Some(age),
            phase: Some(phase),
            ..OutboxRelayStatus::default()
        }
    }

    #[test]
    fn what_happened_is_written_at_once_numbers_rarely_and_nothing_never() {
        let seconds = Duration::from_secs;
        let last = status(5, 1, Phase::Streaming);
        for (new, since, expected) in [
            (status(5, 1, Phase::Streaming), None, Write::No),
            (status(5, 55, Phase::Streaming), Some(seconds(100)), Write::No),
            (status(5, 62, Phase::Streaming), Some(seconds(100)), Write::Now),
            (
                status(6, 1, Phase::Streaming),
                Some(seconds(3)),
                Write::After(seconds(7)),
            ),
            (status(6, 1, Phase::Streaming), Some(seconds(10)), Write::Now),
            (status(6, 1, Phase::Streaming), None, Write::Now),
            (status(5, 1, Phase::CircuitOpen), Some(seconds(0)), Write::Now),
            (
                status(5, 1, Phase::CatchingUp),
                Some(seconds(4)),
                Write::After(seconds(6)),
            ),
        ] {
            let write = when_to_write(&last, &new, since, (Duration::ZERO, 0));
            assert_eq!(write, expected, "{new:?} {since:?}");
        }
    }

    #[test]
    fn a_first_status_waits_for_relays_that_start_and_for_nothing_else() {
        let with = |conditions: &[(&str, &str)]| OutboxRelayStatus {
            conditions: conditions
                .iter()
                .map(|(type_, status)| Condition {
                    type_: (*type_).to_owned(),
                    status: (*status).to_owned(),
                    reason: "Test".to_owned(),
                    message: String::new(),
                    last_transition_time: Time(Timestamp::UNIX_EPOCH),
                    observed_generation: None,
                })
                .collect(),
            ..OutboxRelayStatus::default()
        };
        let seconds = Duration::from_secs;
        let unseen = OutboxRelayStatus {
            observed_generation: Some(-1),
            ..OutboxRelayStatus::default()
        };
        let starts = with(&[("Ready", "False"), ("Reconciling", "True"), ("Stalled", "False")]);
        let ready = with(&[("Ready", "True"), ("Reconciling", "False"), ("Stalled", "False")]);
        let stalled = with(&[("Ready", "False"), ("Reconciling", "True"), ("Stalled", "True")]);
        let paused = with(&[("Ready", "False"), ("Reconciling", "False"), ("Stalled", "False")]);
        for (last, new, known_for, kept_back, expected) in [
            (&unseen, &starts, seconds(1), 0, Write::After(seconds(4))),
            (&unseen, &starts, seconds(5), 0, Write::Now),
            (&unseen, &starts, seconds(5), 1000, Write::After(seconds(55))),
            (&unseen, &ready, seconds(1), 1000, Write::Now),
            (&unseen, &stalled, seconds(0), 1000, Write::Now),
            (&unseen, &paused, seconds(0), 0, Write::Now),
            (&ready, &starts, seconds(0), 0, Write::Now),
        ] {
            let write = when_to_write(last, new, None, (known_for, kept_back));
            assert_eq!(write, expected, "{new:?}");
        }
    }
}
