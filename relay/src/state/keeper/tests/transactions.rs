//! Slots whose former owners wrote in transactions.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;
use uuid::Uuid;

use super::*;
use crate::journal::{Incarnation, Refusal, Replayed};
use crate::ledger::Known;
use crate::ports::{
    Checkpoint, DeliveryError, ErrorClass, JournalError, Outcome, Signals, TransactionError, Transactional,
    Verdict,
};

const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(1));

/// Watches what stands in the store when it is asked.
struct Watched {
    store: Arc<Store>,
    said: Mutex<Vec<String>>,
    /// What the journal holds beyond the checkpoints.
    found: BTreeMap<SlotId, Replayed>,
    refusal: Mutex<Option<Refusal>>,
    unfenced: Mutex<u32>,
}

impl Watched {
    fn new(store: &Arc<Store>, found: impl IntoIterator<Item = (SlotId, Replayed)>) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            said: Mutex::default(),
            found: found.into_iter().collect(),
            refusal: Mutex::default(),
            unfenced: Mutex::default(),
        })
    }

    fn take_said(&self) -> Vec<String> {
        std::mem::take(&mut *self.said.lock())
    }

    fn row(&self, slot: SlotId) -> String {
        let inner = self.store.inner();
        let epoch = inner.owners.get(&slot).map(|(_, epoch)| epoch.0);
        let id = inner.ids.get(&slot).cloned().unwrap_or_default();
        format!(
            "slot {slot} has epoch {} and id \"{id}\"",
            epoch.unwrap_or_default()
        )
    }
}

impl Transactions for Watched {
    fn open(
        &self,
        _: &str,
        _: Signals,
    ) -> BoxFuture<'static, Result<Box<dyn Transactional>, TransactionError>> {
        unreachable!("a keeper sends nothing")
    }

    fn fence(&self, id: String) -> BoxFuture<'static, Result<(), TransactionError>> {
        let row = self.row(slot(3));
        self.said.lock().push(format!("fence {id}: {row}"));
        let mut unfenced = self.unfenced.lock();
        let fails = *unfenced > 0;
        *unfenced = unfenced.saturating_sub(1);
        let error = TransactionError {
            verdict: Verdict::Again,
            error: DeliveryError {
                class: ErrorClass::Transient,
                code: "TimedOut".to_owned(),
                detail: String::new(),
                outcome: Outcome::NotWritten,
            },
        };
        std::future::ready(if fails { Err(error) } else { Ok(()) }).boxed()
    }

    fn replay(
        &self,
        incarnation: Incarnation,
        slots: Vec<(SlotId, Epoch, Mark)>,
    ) -> BoxFuture<'static, Result<BTreeMap<SlotId, Replayed>, JournalError>> {
        assert_eq!(incarnation, INCARNATION);
        let row = self.row(slot(3));
        self.said
            .lock()
            .push(format!("replay {} slots: {row}", slots.len()));
        let mut found = BTreeMap::new();
        for (slot, _, mark) in slots {
            let nothing = Replayed::Ours {
                mark,
                resolved: Vec::new(),
            };
            found.insert(slot, self.found.get(&slot).cloned().unwrap_or(nothing));
        }
        let refused = self.refusal.lock().clone().map(|refusal| JournalError::Refused {
            topic: "journal".to_owned(),
            refusal,
        });
        std::future::ready(refused.map_or(Ok(found), Err)).boxed()
    }
}

fn mark(offset: i64, sequence: u64) -> Mark {
    Mark { offset, sequence }
}

fn owner(
    store: &Arc<Store>,
    clock: &Arc<VirtualClock>,
    name: &str,
    ids: &[&str],
    journal: &Arc<Watched>,
) -> Process {
    let ids = ids.iter().map(|id| (*id).to_owned()).collect();
    start_with(store, clock, name, ALL, ids, journal.clone())
}

/// Slot 3 was theirs, with a checkpoint; they committed id 2 after it.
fn taken_over() -> (Arc<Store>, Arc<VirtualClock>, Arc<Watched>) {
    let (store, clock) = world();
    let checkpoint = Checkpoint {
        bound: 7 * SECOND,
        mark: mark(4, 1),
        revision: 1,
        ..Checkpoint::default()
    };
    {
        let mut inner = store.inner();
        inner.incarnation = Some(INCARNATION);
        inner.owners.insert(slot(3), (None, Epoch(5)));
        inner.ids.insert(slot(3), "theirs/1".to_owned());
        inner.checkpoints.insert(slot(3), checkpoint);
    }
    let replayed = Replayed::Ours {
        mark: mark(9, 2),
        resolved: vec![(8, RowId(2))],
    };
    let journal = Watched::new(&store, [(slot(3), replayed)]);
    (store, clock, journal)
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_claimed_then_fenced_then_recorded_then_replayed_then_opened() {
    let (store, clock, journal) = taken_over();
    let us = owner(&store, &clock, "us", &["us/0", "us/1"], &journal);
    pass(secs(1)).await;
    assert_eq!(
        journal.take_said(),
        [
            "fence theirs/1: slot 3 has epoch 6 and id \"theirs/1\"",
            "replay 64 slots: slot 3 has epoch 6 and id \"us/1\"",
        ]
    );
    assert_eq!(us.owned(), SlotSet::ALL);
    assert_eq!(
        us.ledger.lock().known(slot(3), 8 * SECOND, RowId(2)),
        Known::Resolved
    );
    pass(secs(2)).await;
    let saved = store.inner().checkpoints[&slot(3)].clone();
    assert_eq!(
        (saved.mark, &saved.resolved[..]),
        (mark(9, 2), &[(8, RowId(2))][..])
    );
    assert_eq!(store.inner().ids[&slot(2)], "us/0");
}

#[tokio::test(start_paused = true)]
async fn a_clean_release_clears_the_id_and_what_is_in_flight_keeps_it() {
    let (store, clock, journal) = taken_over();
    let us = owner(&store, &clock, "us", &["us/0"], &journal);
    pass(secs(1)).await;
    us.ledger.lock().take(slot(5), 9 * SECOND, RowId(7));
    us.stop().await;
    let inner = store.inner();
    assert_eq!(inner.ids.len(), 1, "{:?}", inner.ids);
    assert_eq!(inner.ids[&slot(5)], "us/0");
}

#[tokio::test(start_paused = true)]
async fn at_least_once_settles_what_transactions_left_and_clears_the_id_when_all_is_saved() {
    let (store, clock, journal) = taken_over();
    let us = owner(&store, &clock, "us", &[], &journal);
    pass(secs(1)).await;
    assert_eq!(
        journal.take_said(),
        [
            "fence theirs/1: slot 3 has epoch 6 and id \"theirs/1\"",
            "replay 64 slots: slot 3 has epoch 6 and id \"theirs/1\"",
        ]
    );
    assert_eq!(
        us.ledger.lock().known(slot(3), 8 * SECOND, RowId(2)),
        Known::Resolved
    );
    us.stop().await;
    let inner = store.inner();
    assert!(inner.ids.is_empty(), "{:?}", inner.ids);
    assert_eq!(inner.checkpoints[&slot(3)].mark, mark(9, 2));
    assert_eq!(inner.checkpoints[&slot(3)].resolved, [(8, RowId(2))]);
}

#[tokio::test(start_paused = true)]
async fn without_ids_nobody_is_asked() {
    let (store, clock) = world();
    let journal = Watched::new(&store, []);
    let us = owner(&store, &clock, "us", &[], &journal);
    pass(secs(1)).await;
    assert_eq!(us.owned(), SlotSet::ALL);
    assert!(journal.take_said().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_the_journal_says_is_anothers_is_not_opened() {
    let (store, clock, _) = taken_over();
    let journal = Watched::new(&store, [(slot(3), Replayed::Superseded)]);
    let us = owner(&store, &clock, "us", &["us/0"], &journal);
    pass(Duration::from_millis(400)).await;
    assert_eq!(us.owned().len(), 63);
    assert!(!us.owned().contains(slot(3)));
}

#[tokio::test(start_paused = true)]
async fn what_a_transaction_still_holds_is_not_claimed() {
    let (store, clock, journal) = taken_over();
    let us = owner(&store, &clock, "us", &["us/0"], &journal);
    us.log.occupied.lock().insert(slot(3));
    pass(secs(5)).await;
    assert_eq!(us.owned().len(), 63);
    assert_eq!(store.inner().owners[&slot(3)].1, Epoch(5), "not even claimed");
    *us.log.occupied.lock() = SlotSet::EMPTY;
    pass(secs(3)).await;
    assert_eq!(us.owned(), SlotSet::ALL);
}

#[tokio::test(start_paused = true)]
async fn a_former_owner_that_cannot_be_fenced_is_tried_again() {
    let (store, clock, journal) = taken_over();
    *journal.unfenced.lock() = 2;
    let us = owner(&store, &clock, "us", &["us/0"], &journal);
    pass(Duration::from_millis(300)).await;
    assert_eq!(us.owned(), SlotSet::EMPTY);
    assert!(
        us.log
            .says("Degraded: a former owner's producer cannot be fenced")
    );
    assert_eq!(store.inner().ids[&slot(3)], "theirs/1", "its id is not replaced");
    pass(secs(3)).await;
    assert_eq!(us.owned(), SlotSet::ALL);
    assert_eq!(us.view.get().health(clock.elapsed()), (Health::Healthy, None));
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_is_refused_lets_no_slot_be_read() {
    let (store, clock, journal) = taken_over();
    *journal.refusal.lock() = Some(Refusal::Headless);
    let us = owner(&store, &clock, "us", &["us/0"], &journal);
    pass(secs(5)).await;
    assert_eq!(us.owned(), SlotSet::EMPTY);
    assert!(
        us.log
            .says("journal journal refused: it does not begin with its head")
    );
    *journal.refusal.lock() = None;
    pass(secs(60)).await;
    assert_eq!(us.owned(), SlotSet::ALL);
}
