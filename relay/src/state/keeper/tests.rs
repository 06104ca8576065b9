mod gate;
mod store;
mod transactions;

use super::*;
use crate::model::{RowId, SECOND};
use crate::ports::{Conditional, NoTransactions, Save, Transactions};
use gate::Gate;
use store::{Store, VirtualClock};

const LEASE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    occupied: Mutex<SlotSet>,
}

impl Holder for Log {
    async fn opened(&self, openings: &[Opening]) {
        for Opening {
            slot,
            bound,
            resumed,
            from,
            ..
        } in openings
        {
            self.say(format!(
                "opened {slot} at {bound}, resumed: {resumed}, from: {from:?}"
            ));
        }
    }

    fn occupied(&self) -> SlotSet {
        *self.occupied.lock()
    }

    async fn drain(&self, slots: SlotSet) {
        self.say(format!("drain {slots}"));
    }

    async fn revoked(&self, slots: SlotSet) {
        self.say(format!("revoked {slots}"));
    }

    fn health(&self, health: Health, message: Option<&str>) {
        self.say(format!("{health:?}: {}", message.unwrap_or_default()));
    }
}

impl Log {
    fn say(&self, line: String) {
        self.lines.lock().push(line);
    }

    fn says(&self, part: &str) -> bool {
        self.lines.lock().iter().any(|line| line.contains(part))
    }
}

struct Process {
    ledger: Arc<Mutex<Ledger>>,
    view: KeeperView,
    deadline: Deadline,
    log: Arc<Log>,
    stop: CancellationToken,
    gate: Gate,
    task: tokio::task::JoinHandle<()>,
}

fn start(store: &Arc<Store>, clock: &Arc<VirtualClock>, process: &str, share: Share) -> Process {
    start_with(store, clock, process, share, Vec::new(), Arc::new(NoTransactions))
}

fn start_with(
    store: &Arc<Store>,
    clock: &Arc<VirtualClock>,
    process: &str,
    share: Share,
    transactional_ids: Vec<String>,
    transactions: Arc<dyn Transactions>,
) -> Process {
    let (ledger, deadline) = (Arc::new(Mutex::new(Ledger::default())), Deadline::default());
    let (log, stop) = (Arc::new(Log::default()), CancellationToken::new());
    let config = KeeperConfig {
        process: process.to_owned(),
        share,
        lease: LEASE,
        checkpoint_interval: Duration::from_secs(1),
        snapshot: false,
        start: Box::new(|| 7 * SECOND),
        transactional_ids,
        transactions,
    };
    let keeper = Keeper::new(
        config,
        store.clone(),
        clock.clone(),
        log.clone(),
        ledger.clone(),
        deadline.clone(),
    );
    let (view, gate) = (keeper.view(), Gate::default());
    let task = tokio::spawn(gate.guard(keeper.run(stop.clone())));
    Process {
        ledger,
        view,
        deadline,
        log,
        stop,
        gate,
        task,
    }
}

impl Process {
    fn owned(&self) -> SlotSet {
        self.view.get().owned
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn world() -> (Arc<Store>, Arc<VirtualClock>) {
    (Arc::default(), Arc::new(VirtualClock::start()))
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn slot(index: u8) -> SlotId {
    SlotId::new(index).unwrap()
}

const ALL: Share = Share::Pinned { index: 1, count: 1 };

#[tokio::test(start_paused = true)]
async fn a_first_start_owns_its_share_and_pins_where_it_began() {
    let (store, clock) = world();
    let us = start(&store, &clock, "us", Share::Pinned { index: 1, count: 2 });
    pass(Duration::from_secs(2)).await;
    assert_eq!(us.view.get().owned.to_string(), "0-31");
    assert_eq!(store.inner().checkpoints.len(), 32);
    assert!(
        store
            .inner()
            .checkpoints
            .values()
            .all(|checkpoint| checkpoint.bound == 7 * SECOND)
    );
    assert!(us.deadline.get() > clock.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_resolved_survives_a_stop_and_a_takeover_is_quick() {
    let (store, clock) = world();
    let slot = SlotId::new(9).unwrap();
    let first = start(&store, &clock, "first", ALL);
    pass(Duration::from_secs(1)).await;
    first.ledger.lock().take(slot, 8 * SECOND, RowId(1));
    first.ledger.lock().take(slot, 8 * SECOND, RowId(2));
    first.ledger.lock().resolve(slot, 8 * SECOND, RowId(1));
    let second = start(&store, &clock, "second", ALL);
    pass(Duration::from_secs(5)).await;
    assert_eq!(second.view.get().owned, SlotSet::EMPTY, "the owner lives");
    first.stop().await;
    pass(Duration::from_secs(1)).await;
    assert_eq!(second.view.get().owned, SlotSet::ALL);
    let mut ledger = second.ledger.lock();
    assert_eq!(
        ledger.take(slot, 8 * SECOND, RowId(1)),
        crate::ledger::Known::Resolved
    );
    assert_eq!(
        ledger.take(slot, 8 * SECOND, RowId(2)),
        crate::ledger::Known::New,
        "never acknowledged"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_owner_is_replaced_within_lease_plus_two_seconds_and_fenced_when_it_wakes() {
    let (store, clock) = world();
    let slot = SlotId::new(0).unwrap();
    let zombie = start(&store, &clock, "zombie", ALL);
    pass(Duration::from_secs(1)).await;
    zombie.task.abort();
    let heir = start(&store, &clock, "heir", ALL);
    pass(LEASE + Duration::from_secs(2)).await;
    assert_eq!(heir.view.get().owned, SlotSet::ALL);
    assert!(
        zombie.deadline.get() < clock.elapsed(),
        "the zombie may not send any more"
    );
    let save = Save {
        bound: i64::MAX,
        mark: crate::journal::Mark::default(),
        follows: 1,
        revision: 9,
        add: vec![],
        remove: vec![],
    };
    assert_eq!(store.save(slot, Epoch(1), &save).await, Ok(Conditional::Fenced));
    assert_eq!(store.inner().checkpoints[&slot].bound, 7 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_was_overtaken_lets_go() {
    let (store, clock) = world();
    let us = start(&store, &clock, "us", ALL);
    pass(Duration::from_secs(1)).await;
    let slot = SlotId::new(5).unwrap();
    store
        .inner()
        .owners
        .insert(slot, (Some("thief".into()), Epoch(2)));
    pass(Duration::from_secs(3)).await;
    assert!(!us.view.get().owned.contains(slot));
    assert!(us.log.says("revoked 5"));
    assert!(us.ledger.lock().slot(slot).is_none());
}

#[tokio::test(start_paused = true)]
async fn without_its_store_the_deadline_passes_and_afterwards_work_goes_on() {
    let (store, clock) = world();
    let us = start(&store, &clock, "us", ALL);
    pass(Duration::from_secs(1)).await;
    us.ledger.lock().take(slot(3), 8 * SECOND, RowId(1));
    store.inner().unavailable = true;
    pass(LEASE).await;
    assert!(us.deadline.get() < clock.elapsed());
    assert!(us.log.says("Failed: the heartbeat was not renewed in time"));
    store.inner().unavailable = false;
    pass(LEASE).await;
    assert!(us.deadline.get() > clock.elapsed());
    assert_eq!(us.owned(), SlotSet::ALL);
    assert_eq!(us.view.get().health(clock.elapsed()), (Health::Healthy, None));
    assert_eq!(
        us.ledger.lock().known(slot(3), 8 * SECOND, RowId(1)),
        crate::ledger::Known::Taken,
        "what was in flight goes on: nobody else has had the slot"
    );
}

#[tokio::test(start_paused = true)]
async fn auto_processes_settle_on_equal_parts() {
    let (store, clock) = world();
    let a = start(&store, &clock, "a", Share::Auto);
    pass(Duration::from_secs(2)).await;
    let b = start(&store, &clock, "b", Share::Auto);
    pass(Duration::from_secs(10)).await;
    assert_eq!((a.view.get().owned.len(), b.view.get().owned.len()), (32, 32));
    assert!(a.log.says("drain"), "given up only after draining");
    b.stop().await;
    pass(Duration::from_secs(3)).await;
    assert_eq!(a.view.get().owned, SlotSet::ALL);
}

/// A process that was suspended finds its heartbeat accepted again, and yet its slots belong to another one.
#[tokio::test(start_paused = true)]
async fn a_zombie_that_wakes_hands_nothing_over_though_its_heartbeat_is_renewed() {
    let (store, clock) = world();
    let zombie = start(&store, &clock, "zombie", ALL);
    pass(secs(1)).await;
    zombie.gate.stop();
    let heir = start(&store, &clock, "heir", ALL);
    pass(LEASE + secs(2)).await;
    assert_eq!(heir.owned(), SlotSet::ALL);
    zombie.gate.go_on();
    for _ in 0..400 {
        pass(Duration::from_millis(10)).await;
        let may_send = zombie.deadline.get() > clock.elapsed();
        assert!(!may_send || zombie.owned().is_empty(), "both believe");
    }
    assert!(zombie.log.says("revoked 0-63"));
    assert_eq!(heir.owned(), SlotSet::ALL);
    assert!(heir.log.says("from: Some(\"zombie\")"));
}

/// Another process decided to take a slot while its owner was silent, and acts after the owner is back.
#[tokio::test(start_paused = true)]
async fn a_claim_that_was_decided_during_a_gap_comes_too_late_after_it() {
    let (store, clock) = world();
    let us = start(&store, &clock, "us", ALL);
    pass(secs(1)).await;
    let seen = store.inner().owners[&slot(0)].1;
    store.inner().unavailable = true;
    pass(LEASE).await;
    store.inner().unavailable = false;
    pass(secs(5)).await;
    assert!(us.deadline.get() > clock.elapsed());
    let late = store.claim(slot(0), Some(seen), "late").await;
    assert_eq!(late, Ok(Conditional::Fenced));
}

#[tokio::test(start_paused = true)]
async fn a_settled_process_takes_over_from_a_killed_one_within_lease_plus_two_seconds() {
    // Killed at any instant between two beats and two looks.
    for killed_after in (0..2_500).step_by(170) {
        let (store, clock) = world();
        let (a, b) = (
            start(&store, &clock, "a", Share::Auto),
            start(&store, &clock, "b", Share::Auto),
        );
        pass(secs(20) + Duration::from_millis(killed_after)).await;
        assert_eq!((a.owned().len(), b.owned().len()), (32, 32));
        b.task.abort();
        pass(LEASE + secs(2)).await;
        assert_eq!(a.owned(), SlotSet::ALL, "killed after {killed_after} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_released_part_is_taken_over_within_a_second() {
    let (store, clock) = world();
    let names = ["a", "b", "c"];
    let mut processes: Vec<_> = names.map(|name| start(&store, &clock, name, Share::Auto)).into();
    pass(secs(10)).await;
    let sizes: Vec<_> = processes.iter().map(|process| process.owned().len()).collect();
    assert_eq!(sizes, [22, 21, 21]);
    processes.remove(1).stop().await;
    pass(secs(1)).await;
    let sizes: Vec<_> = processes.iter().map(|process| process.owned().len()).collect();
    assert_eq!(sizes, [32, 32]);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_gets_no_answer_costs_neither_the_lease_nor_the_next_renewal() {
    let (store, clock) = world();
    let us = start(&store, &clock, "us", ALL);
    pass(secs(5)).await;
    store.inner().swallow_beats = 1;
    for _ in 0..200 {
        pass(Duration::from_millis(100)).await;
        assert!(us.deadline.get() > clock.elapsed());
    }
    assert_eq!(store.inner().swallow_beats, 0);
}

#[tokio::test(start_paused = true)]
async fn a_beat_that_arrives_late_does_not_hide_a_newer_one_and_a_retired_process_comes_back() {
    let (store, _) = world();
    let row = |beat| ProcessRow {
        process: "p".into(),
        beat,
        placement: Placement::Auto,
    };
    store.beat(&row(5)).await.unwrap();
    store.beat(&row(3)).await.unwrap();
    assert_eq!(store.processes().await.unwrap(), [row(5)]);
    store.retire(&row(5)).await.unwrap();
    assert!(store.processes().await.unwrap().is_empty());
    store.beat(&row(6)).await.unwrap();
    assert_eq!(store.processes().await.unwrap(), [row(6)]);
}

#[tokio::test(start_paused = true)]
async fn a_save_that_was_lost_and_takes_place_after_all_does_no_harm() {
    let (store, clock) = world();
    let us = start(&store, &clock, "us", ALL);
    pass(secs(2)).await;
    us.ledger.lock().take(slot(0), 8 * SECOND, RowId(1));
    us.ledger.lock().resolve(slot(0), 8 * SECOND, RowId(1));
    store.inner().delay_saves = true;
    pass(secs(2)).await;
    assert!(us.log.says("Degraded"), "it is said: {:?}", us.log.lines.lock());
    store.inner().delay_saves = false;
    us.ledger.lock().take(slot(0), 9 * SECOND, RowId(2));
    us.ledger.lock().resolve(slot(0), 9 * SECOND, RowId(2));
    // The lost save comes first, so the next one finds another revision than it expects.
    store.apply_delayed();
    pass(secs(3)).await;
    let mut resolved = store.inner().checkpoints[&slot(0)].resolved.clone();
    resolved.sort_unstable_by_key(|(second, id)| (*second, id.0));
    resolved.dedup();
    assert_eq!(resolved, [(8, RowId(1)), (9, RowId(2))]);
    assert_eq!(us.owned(), SlotSet::ALL);
    assert_eq!(us.view.get().health(clock.elapsed()), (Health::Healthy, None));
}

#[tokio::test(start_paused = true)]
async fn the_slots_are_not_released_before_the_last_save_has_succeeded() {
    let (store, clock) = world();
    let us = start(&store, &clock, "us", ALL);
    pass(secs(2)).await;
    us.ledger.lock().take(slot(0), 8 * SECOND, RowId(1));
    us.ledger.lock().resolve(slot(0), 8 * SECOND, RowId(1));
    store.inner().fail_saves = 2;
    us.stop().await;
    assert_eq!(store.inner().checkpoints[&slot(0)].resolved, [(8, RowId(1))]);
    assert!(store.inner().owners.values().all(|(owner, _)| owner.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_in_time_with_a_store_that_hangs() {
    let (store, clock) = world();
    let us = start(&store, &clock, "us", ALL);
    pass(secs(2)).await;
    us.ledger.lock().take(slot(0), 8 * SECOND, RowId(1));
    us.ledger.lock().resolve(slot(0), 8 * SECOND, RowId(1));
    store.inner().hanging = true;
    pass(secs(3)).await;
    let asked = clock.elapsed();
    us.stop().await;
    assert!(clock.elapsed() - asked <= ROUND_LIMIT + FINISH_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_release_whose_answer_was_lost_leaves_no_slot_without_an_owner() {
    let (store, clock) = world();
    let a = start(&store, &clock, "a", Share::Auto);
    pass(secs(2)).await;
    store.inner().fail_releases = 40;
    let b = start(&store, &clock, "b", Share::Auto);
    pass(secs(10)).await;
    assert_eq!((a.owned().len(), b.owned().len()), (32, 32));
}

#[tokio::test(start_paused = true)]
async fn a_refused_checkpoint_is_said_released_and_not_tried_again_at_once() {
    let (store, clock) = world();
    store.inner().unreadable = Some(slot(7));
    let us = start(&store, &clock, "us", ALL);
    pass(secs(20)).await;
    let view = us.view.get();
    assert_eq!((view.owned.len(), view.owned.contains(slot(7))), (63, false));
    let (health, message) = view.health(clock.elapsed());
    assert_eq!(health, Health::Failed);
    assert!(message.unwrap().starts_with("checkpoint of slot 7 refused"));
    assert_eq!(
        store.inner().owners[&slot(7)],
        (None, Epoch(1)),
        "another version may have it"
    );
    store.inner().unreadable = None;
    pass(secs(20)).await;
    assert_eq!(us.owned(), SlotSet::ALL);
}

#[tokio::test(start_paused = true)]
async fn a_process_of_the_other_placement_is_refused_and_disturbs_nobody() {
    let (store, clock) = world();
    let first = start(&store, &clock, "first", ALL);
    pass(secs(2)).await;
    let second = start(&store, &clock, "second", Share::Auto);
    pass(secs(5)).await;
    assert_eq!(second.view.get().conflict.as_deref(), Some("first"));
    assert_eq!((first.view.get().conflict, first.owned()), (None, SlotSet::ALL));
    first.stop().await;
    pass(secs(2)).await;
    assert_eq!(second.owned(), SlotSet::ALL, "alone, it may");
}

#[tokio::test(start_paused = true)]
async fn a_slot_without_a_checkpoint_starts_anew_and_one_with_it_is_resumed() {
    let (store, clock) = world();
    let first = start(&store, &clock, "first", ALL);
    pass(secs(2)).await;
    assert!(first.log.says("opened 0 at 7000000, resumed: false, from: None"));
    first.stop().await;
    let second = start(&store, &clock, "second", ALL);
    pass(secs(2)).await;
    assert!(second.log.says("opened 0 at 7000000, resumed: true, from: None"));
}
