//! When a status is written: at once when something happened, at most every ten seconds when only numbers move, and
//! never when nothing has changed.

use crds::outbox_relay::status::OutboxRelayStatus;
use crds::relay_status::{Phase, Totals};
use std::time::Duration;

/// Time between two writes of numbers alone.
const NUMBERS_EVERY: Duration = Duration::from_secs(10);

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

/// Whether `new` is written, given the status that was written last and how long ago, if this process has.
pub fn when_to_write(last: &OutboxRelayStatus, new: &OutboxRelayStatus, since: Option<Duration>) -> Write {
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
            assert_eq!(when_to_write(&last, &new, since), expected, "{new:?} {since:?}");
        }
    }
}
