//! The status document, from what the parts say. Pure.

use std::time::Duration;

use crds::relay_status::{
    Audit, Breaker, Component, Lag, MAX_LISTED_SLOTS, Order, Phase, RelayStatus, Retention, SCHEMA_VERSION,
    Slot, Slots, Totals,
};

use crate::health::{Board, Part, timestamp};
use crate::ledger::Ledger;
use crate::model::{Micros, SECOND, SlotSet};
use crate::state::keeper::KeeperState;
use crate::state::ownership::Share;

/// Reading counts as caught up while it is at most this far behind: young rows are polled far more often.
const CAUGHT_UP: Micros = 5 * SECOND;

/// What never changes while the process runs.
#[derive(Debug, Clone)]
pub struct About {
    pub identity: String,
    pub share: Share,
    pub process: String,
    pub started: Micros,
    /// SHA-256 of the configuration, written as YAML with all defaults.
    pub configuration: Option<String>,
    /// Why order cannot be promised.
    pub order: Option<String>,
}

/// What the parts say right now.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub keeper: KeeperState,
    /// How far behind the log reading is; None while nothing is read.
    pub read_lag: Option<Micros>,
    pub breaker: Breaker,
    pub totals: Totals,
    pub dead_letters_pending: u64,
    /// Reading waits for a decision: the reason.
    pub stopped: Option<String>,
    pub draining: bool,
    /// The last that was recorded, if this process tells of it.
    pub audit: Option<Audit>,
    /// How long the log keeps what is written now; None for ever.
    pub ttl: Option<Duration>,
    /// The log still has every row from here on; None if nothing expires.
    pub retained_from: Option<Micros>,
    /// How often the table is looked through, if it is.
    pub poll_interval: Micros,
    /// On the process's monotonic clock.
    pub elapsed: Duration,
}

/// Progress of the owned slots, read under the ledger's lock and nothing else.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Slot, bound, oldest event in flight.
    pub slots: Vec<(usize, Micros, Option<Micros>)>,
    pub in_flight: u64,
}

impl Progress {
    pub fn of(ledger: &Ledger) -> Self {
        let owned: Vec<_> = ledger
            .owned()
            .iter()
            .filter_map(|slot| Some((slot, ledger.slot(slot)?)))
            .collect();
        Self {
            slots: owned
                .iter()
                .map(|(slot, l)| (slot.index(), l.bound(), l.oldest_in_flight()))
                .collect(),
            in_flight: owned.iter().map(|(_, l)| l.taken() as u64).sum(),
        }
    }

    /// Write time of the oldest event that is read and not resolved.
    pub fn oldest_unresolved(&self) -> Option<Micros> {
        self.slots.iter().filter_map(|(_, _, oldest)| *oldest).min()
    }

    /// Everything written before this time is read and resolved.
    pub fn lowest_bound(&self) -> Option<Micros> {
        self.slots.iter().map(|(_, bound, _)| *bound).min()
    }
}

/// The document at `now`.
pub fn document(about: &About, view: &View, progress: &Progress, board: &Board, now: Micros) -> RelayStatus {
    let not_ready = not_ready_because(about, view, board);
    RelayStatus {
        schema_version: SCHEMA_VERSION,
        identity: about.identity.clone(),
        share: share_text(about.share),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        configuration: about.configuration.clone(),
        process: about.process.clone(),
        started: timestamp(about.started),
        time: timestamp(now),
        phase: phase(view, progress, now),
        ready: not_ready.is_none(),
        not_ready_because: not_ready,
        slots: slots(about, view, progress, now),
        components: components(board),
        breaker: view.breaker.clone(),
        totals: view.totals,
        lag: lag(view, progress, now),
        retention: retention(view, progress),
        checkpoint_age_milliseconds: view
            .keeper
            .saved_at
            .filter(|_| !view.keeper.owned.is_empty())
            .map(|at| view.elapsed.saturating_sub(at).as_millis() as u64),
        dead_letters_pending: view.dead_letters_pending,
        order: Order {
            preserved: about.order.is_none(),
            reason: about.order.clone(),
        },
        audit: view.audit,
        data_events: board.events(),
    }
}

/// Ready is: every slot of the share owned, reading, and able to deliver.
fn not_ready_because(about: &About, view: &View, board: &Board) -> Option<String> {
    use crds::relay_status::BreakerState;
    if let Some(reason) = &view.stopped {
        return Some(reason.clone());
    }
    if let Some(other) = &view.keeper.conflict {
        let (ours, theirs) = match about.share {
            Share::Pinned { .. } => ("--share i/n", "--share auto"),
            Share::Auto => ("--share auto", "--share i/n"),
        };
        return Some(format!(
            "refused: process {other} of identity {} runs with {theirs}, this one with {ours}; use one of them for all",
            about.identity
        ));
    }
    if let Some(reason) = unwell(board) {
        return Some(reason);
    }
    if view.draining {
        return Some("stopping".into());
    }
    if view.breaker.state != BreakerState::Closed {
        return Some("the circuit breaker is not closed".into());
    }
    if view.keeper.lapsed(view.elapsed) {
        return Some("the heartbeat was not renewed in time, so nothing is handed over until it is".into());
    }
    if !view.keeper.planned {
        return Some("ownership is not known yet".into());
    }
    let missing = wanted(about, view).saturating_sub(view.keeper.owned.len());
    (missing > 0).then(|| format!("{missing} of {} slots are not owned yet", wanted(about, view)))
}

/// What is said of parts that are not healthy: those that fail, or else those that still start. Rows that wait to be
/// deleted hold up no event.
fn unwell(board: &Board) -> Option<String> {
    use crds::relay_status::Health;
    let mut parts = board.parts();
    parts.remove(&Part::Cleanup);
    let failing: Vec<_> = parts
        .iter()
        .filter(|(_, part)| !matches!(part.health, Health::Healthy | Health::Starting))
        .map(|(part, health)| {
            format!(
                "{}: {}",
                part.name(),
                health.message.as_deref().unwrap_or("not well")
            )
        })
        .collect();
    let starting: Vec<_> = parts
        .iter()
        .filter(|(_, part)| part.health == Health::Starting)
        .map(|(part, _)| format!("{}: starting", part.name()))
        .collect();
    let said = if failing.is_empty() { starting } else { failing };
    (!said.is_empty()).then(|| said.join("; "))
}

fn wanted(about: &About, view: &View) -> usize {
    match about.share {
        Share::Pinned { index, count } => SlotSet::of_share(index, count).len(),
        Share::Auto => view.keeper.wanted,
    }
}

fn phase(view: &View, progress: &Progress, now: Micros) -> Phase {
    use crds::relay_status::BreakerState;
    if view.draining {
        Phase::Draining
    } else if view.stopped.is_some() || !view.keeper.refused.is_empty() {
        Phase::Stopped
    } else if view.keeper.owned.is_empty() {
        if view.keeper.planned {
            Phase::Standby
        } else {
            Phase::Starting
        }
    } else if view.breaker.state == BreakerState::Open {
        Phase::CircuitOpen
    } else if behind(view, progress, now) {
        Phase::CatchingUp
    } else {
        Phase::Streaming
    }
}

fn behind(view: &View, progress: &Progress, now: Micros) -> bool {
    let oldest = progress.oldest_unresolved().map_or(0, |oldest| now - oldest);
    // A row waits for the next look, and the oldest look is one interval and its scan old.
    let caught_up = CAUGHT_UP + 2 * view.poll_interval;
    view.read_lag.is_none_or(|lag| lag > caught_up) || oldest > caught_up
}

fn slots(about: &About, view: &View, progress: &Progress, now: Micros) -> Slots {
    let mut slowest: Vec<_> = progress
        .slots
        .iter()
        .map(|(slot, bound, oldest)| Slot {
            slot: *slot as u16,
            bound: timestamp(*bound),
            lag_milliseconds: oldest.map_or(0, |oldest| millis(now - oldest)),
            epoch: view.keeper.epochs.get(slot).copied().unwrap_or_default(),
        })
        .collect();
    slowest.sort_by_key(|slot| (std::cmp::Reverse(slot.lag_milliseconds), slot.bound, slot.slot));
    slowest.truncate(MAX_LISTED_SLOTS);
    Slots {
        wanted: wanted(about, view) as u16,
        owned: view.keeper.owned.len() as u16,
        ranges: Slots::ranges_of(view.keeper.owned.iter().map(|slot| slot.index() as u16)),
        slowest,
    }
}

fn components(board: &Board) -> Vec<Component> {
    let component = |(part, health): (Part, crate::health::PartHealth)| Component {
        name: part.name().to_owned(),
        health: health.health,
        reason: health.reason.map(str::to_owned),
        message: health.message,
        restarts: health.restarts,
        since: timestamp(health.since),
    };
    board.parts().into_iter().map(component).collect()
}

/// What was not read yet is behind as well.
fn lag(view: &View, progress: &Progress, now: Micros) -> Lag {
    let oldest = progress.oldest_unresolved();
    let undelivered = oldest.map_or(0, |oldest| now - oldest);
    let unread = view
        .read_lag
        .filter(|_| !view.keeper.owned.is_empty())
        .unwrap_or_default();
    Lag {
        milliseconds: millis(undelivered.max(unread)),
        oldest_unresolved: oldest.map(timestamp),
        in_flight: progress.in_flight,
    }
}

/// What expires first is the oldest row that is not resolved, or not yet read: the lowest bound.
fn retention(view: &View, progress: &Progress) -> Retention {
    let headroom = |(bound, from): (Micros, Micros)| (bound - from) / SECOND;
    Retention {
        ttl_seconds: view.ttl.map(|ttl| ttl.as_secs()),
        headroom_seconds: progress.lowest_bound().zip(view.retained_from).map(headroom),
    }
}

pub fn share_text(share: Share) -> String {
    match share {
        Share::Pinned { index, count } => format!("{index}/{count}"),
        Share::Auto => "auto".to_owned(),
    }
}

fn millis(micros: Micros) -> u64 {
    (micros / 1000).max(0) as u64
}

/// What a relay says that works, or whose broker is gone.
#[cfg(test)]
pub(crate) fn sample(works: bool) -> RelayStatus {
    let time = "2026-01-31T12:00:00.000Z";
    let mut status = serde_json::json!({
        "schemaVersion": SCHEMA_VERSION, "identity": "orders", "share": "2/3", "version": "1.2.3", "process": "p",
        "started": time, "time": time, "phase": "Streaming", "ready": works,
        "slots": {"wanted": 22, "owned": 21, "ranges": [[21, 30], [32, 42]], "slowest": []},
        "components": [
            {"name": "source", "health": "Healthy", "since": time},
            {"name": "sink", "health": "Healthy", "since": time},
        ],
        "breaker": {"state": "Closed", "consecutiveFailures": 0},
        "totals": {"processed": 90, "deadLettered": 3, "late": 1},
        "lag": {"milliseconds": 4000, "inFlight": 7},
        "retention": {},
        "deadLettersPending": 2,
        "order": {"preserved": true},
    });
    if !works {
        status["phase"] = "CircuitOpen".into();
        status["notReadyBecause"] = "sink: no broker".into();
        status["components"][1]["health"] = "Failed".into();
        status["components"][1]["message"] = "no broker".into();
        status["breaker"]["state"] = "Open".into();
        status["checkpointAgeMilliseconds"] = 300.into();
        status["retention"]["headroomSeconds"] = (-5).into();
        status["order"] = serde_json::json!({"preserved": false, "reason": "the key is random"});
    }
    // The fields stand above.
    serde_json::from_value(status).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RowId, SlotId};

    const NOW: Micros = 1_000 * SECOND;

    fn about() -> About {
        About {
            identity: "shop.orders".into(),
            share: Share::Pinned { index: 1, count: 32 },
            process: "p".into(),
            started: 0,
            configuration: None,
            order: None,
        }
    }

    fn working() -> (View, Ledger, Board) {
        let owned: SlotSet = SlotSet::of_share(1, 32);
        let keeper = KeeperState {
            owned,
            planned: true,
            lease_until: Duration::from_secs(8),
            ..KeeperState::default()
        };
        let mut ledger = Ledger::default();
        for slot in owned.iter() {
            ledger.open(slot, NOW - 200 * SECOND, []);
        }
        let board = Board::new(0);
        Part::ALL.into_iter().for_each(|part| board.healthy(part, 1));
        (
            View {
                keeper,
                read_lag: Some(0),
                ttl: Some(Duration::from_secs(3600)),
                retained_from: Some(NOW - 3600 * SECOND),
                ..View::default()
            },
            ledger,
            board,
        )
    }

    #[test]
    fn ready_is_owning_reading_and_able_to_deliver() {
        let (view, ledger, board) = working();
        let status = document(&about(), &view, &Progress::of(&ledger), &board, NOW);
        assert_eq!((status.ready, status.phase), (true, Phase::Streaming));
        assert_eq!(status.retention.headroom_seconds, Some(3400));
        assert_eq!(status.slots.ranges, [[0, 1]]);
    }

    #[test]
    fn what_is_missing_is_said() {
        let check = |change: &dyn Fn(&mut View, &Board), expected: &str| {
            let (mut view, ledger, board) = working();
            change(&mut view, &board);
            let status = document(&about(), &view, &Progress::of(&ledger), &board, NOW);
            assert!(!status.ready);
            let because = status.not_ready_because.unwrap();
            assert!(because.contains(expected), "{because}");
        };
        check(
            &|view, _| view.keeper.owned = SlotSet::EMPTY,
            "2 of 2 slots are not owned",
        );
        check(&|view, _| view.keeper.planned = false, "not known yet");
        check(&|view, _| view.elapsed = Duration::from_secs(8), "heartbeat");
        check(
            &|_, board| board.failed(Part::Sink, "no broker", 2),
            "sink: no broker",
        );
        check(
            &|view, _| view.breaker.state = crds::relay_status::BreakerState::Open,
            "breaker",
        );
        check(
            &|view, _| view.stopped = Some("rows expired unread".into()),
            "rows expired",
        );
        check(&|view, _| view.keeper.conflict = Some("x".into()), "process x");
    }

    #[test]
    fn every_part_that_fails_is_named_and_none_that_merely_starts_hides_it() {
        let (view, ledger, _) = working();
        let board = Board::new(0);
        let because = || {
            let status = document(&about(), &view, &Progress::of(&ledger), &board, NOW);
            status.not_ready_because.unwrap()
        };
        assert!(because().contains("sink: starting"), "{}", because());
        board.healthy(Part::Source, 1);
        board.failed(Part::State, "no such keyspace", 1);
        board.failed(Part::DeadLetters, "no such table", 1);
        assert_eq!(because(), "state: no such keyspace; dead_letters: no such table");
    }

    #[test]
    fn an_automatic_share_is_ready_with_its_part_and_stands_by_without_one() {
        let (mut view, ledger, board) = working();
        let about = About {
            share: Share::Auto,
            ..about()
        };
        let status = |view: &View| document(&about, view, &Progress::of(&ledger), &board, NOW);
        view.keeper.wanted = 3;
        assert!(
            !status(&view).ready,
            "a dead process's slots are still to be taken"
        );
        view.keeper.wanted = 2;
        assert!(status(&view).ready);
        (view.keeper.owned, view.keeper.wanted) = (SlotSet::EMPTY, 0);
        assert_eq!((status(&view).ready, status(&view).phase), (true, Phase::Standby));
    }

    #[test]
    fn what_is_not_read_is_lag_too() {
        let (mut view, ledger, board) = working();
        view.read_lag = Some(60 * SECOND);
        let status = document(&about(), &view, &Progress::of(&ledger), &board, NOW);
        assert_eq!(
            (status.lag.milliseconds, status.phase),
            (60_000, Phase::CatchingUp)
        );
    }

    #[test]
    fn an_old_event_in_flight_is_lag() {
        let (view, mut ledger, board) = working();
        ledger.take(SlotId::new(1).unwrap(), NOW - 9 * SECOND, RowId(1));
        let status = document(&about(), &view, &Progress::of(&ledger), &board, NOW);
        assert_eq!((status.lag.milliseconds, status.lag.in_flight), (9_000, 1));
        assert_eq!(
            (status.phase, status.slots.slowest[0].slot),
            (Phase::CatchingUp, 1)
        );
    }
}
