//! What a slot's ledger does with the rows that are to be deleted.

use super::*;
use crate::ledger::{Delta, Known, Ledger};
use crate::model::SlotId;

const AT: Micros = 10 * SECOND;

fn slot() -> SlotId {
    SlotId::of_token(0)
}

fn key(id: u64) -> RowKey {
    Arc::from(id.to_be_bytes())
}

fn open(bound: Micros, saved: &[(i64, RowId)]) -> Ledger {
    let mut ledger = Ledger::default().with_cleanup();
    ledger.open(slot(), bound, saved.iter().copied());
    ledger
}

fn take(ledger: &mut Ledger, id: u64, time: Micros) {
    assert_eq!(ledger.take(slot(), time, RowId(id)), Known::New);
    ledger.keep(slot(), time, RowId(id), &key(id));
}

fn due(ledger: &mut Ledger) -> Vec<u64> {
    let mut ids = Vec::new();
    while let Some((of, due)) = ledger.next_due(slot()) {
        assert_eq!((of, &due.key), (slot(), &key(due.id.0)));
        ids.push(due.id.0);
    }
    ids
}

/// Saves what there is; what the checkpoint then holds of each second, the reserved one first.
fn save(ledger: &mut Ledger) -> Option<Delta> {
    let owned = ledger.slot_mut(slot()).unwrap();
    let delta = owned.delta()?;
    owned.saved(&delta);
    Some(delta)
}

fn tidy(delta: &Delta) -> Option<Tidy> {
    let of = delta
        .resolved
        .iter()
        .find(|(second, _)| *second == CLEANUP_SECOND);
    Tidy::of(&of?.1)
}

fn bound(ledger: &mut Ledger) -> Micros {
    let owned = ledger.slot_mut(slot()).unwrap();
    owned.sweep(99 * SECOND);
    owned.bound()
}

#[test]
fn a_row_is_due_once_its_event_is_resolved_and_saved_and_holds_the_bound_until_it_is_gone() {
    let mut ledger = open(0, &[]);
    take(&mut ledger, 1, AT);
    take(&mut ledger, 2, AT + 1);
    ledger.resolve(slot(), AT, RowId(1));
    assert_eq!((due(&mut ledger), ledger.undeleted()), (vec![], 1));
    let delta = save(&mut ledger).unwrap();
    let expected = Tidy {
        since: 0,
        left_from: AT,
    };
    assert_eq!(tidy(&delta), Some(expected));
    assert_eq!(
        delta.resolved[0].0, CLEANUP_SECOND,
        "first, so that a limit leaves it in"
    );
    assert_eq!(due(&mut ledger), [1]);
    assert_eq!(due(&mut ledger), Vec::<u64>::new(), "each once");
    ledger.resolve(slot(), AT + 1, RowId(2));
    assert_eq!(bound(&mut ledger), AT, "it is not gone yet");
    ledger.not_deleted(slot(), RowId(1));
    assert_eq!(due(&mut ledger), [1]);
    ledger.deleted(slot(), RowId(1));
    assert_eq!((bound(&mut ledger), ledger.undeleted()), (AT + 1, 1));
    save(&mut ledger);
    assert_eq!(due(&mut ledger), [2]);
    ledger.deleted(slot(), RowId(2));
    assert_eq!((bound(&mut ledger), ledger.undeleted()), (99 * SECOND, 0));
    let left = tidy(&save(&mut ledger).unwrap()).unwrap().left_from;
    assert_eq!(left, Micros::MAX, "none");
    assert_eq!(save(&mut ledger), None, "nothing is news any more");
}

#[test]
fn what_nobody_answered_for_is_due_again() {
    let mut ledger = open(0, &[]);
    for id in 1..=3 {
        take(&mut ledger, id, AT + id as Micros);
        ledger.resolve(slot(), AT + id as Micros, RowId(id));
    }
    save(&mut ledger);
    assert_eq!(due(&mut ledger), [1, 2, 3]);
    ledger.deleted(slot(), RowId(2));
    ledger.delete_anew();
    assert_eq!(due(&mut ledger), [1, 3]);
}

#[test]
fn a_released_event_is_taken_again_and_its_row_kept_again() {
    let mut ledger = open(0, &[]);
    take(&mut ledger, 1, AT);
    ledger.release(slot(), ledger.ownership(slot()), AT, RowId(1));
    assert_eq!(ledger.slot(slot()).unwrap().bound(), 0);
    take(&mut ledger, 1, AT);
    ledger.resolve(slot(), AT, RowId(1));
    save(&mut ledger);
    assert_eq!(due(&mut ledger), [1]);
}

/// As a former owner left it: 1 and 2 delivered, saved, 1 deleted; 3 delivered in a transaction and not saved.
#[test]
fn the_next_owner_deletes_what_the_former_one_left() {
    let (left, since) = (AT + SECOND, 7);
    let markers = Tidy {
        since,
        left_from: left,
    };
    let mut saved = vec![(10, RowId(1)), (11, RowId(2))];
    saved.extend(markers.ids().into_iter().map(|id| (CLEANUP_SECOND, id)));
    let mut ledger = open(AT, &saved);
    let owned = ledger.slot_mut(slot()).unwrap();
    assert_eq!((owned.deleted_since(), owned.ids()), (Some(since), 2));
    owned.replayed(Default::default(), Default::default(), [(12, RowId(3))]);
    for (id, time) in [(1, AT), (2, left), (3, 12 * SECOND)] {
        for _ in 0..2 {
            assert_eq!(ledger.take(slot(), time, RowId(id)), Known::Resolved);
            ledger.seen_again(slot(), time, RowId(id), &key(id));
        }
    }
    assert_eq!(due(&mut ledger), [2], "1 is gone, 3 is not saved");
    ledger.deleted(slot(), RowId(2));
    let delta = save(&mut ledger).unwrap();
    assert_eq!(tidy(&delta).unwrap().left_from, 12 * SECOND);
    assert_eq!(due(&mut ledger), [3]);
    ledger.seen_again(slot(), left, RowId(2), &key(2));
    assert_eq!(due(&mut ledger), Vec::<u64>::new(), "not again");
}

#[test]
fn what_the_next_owner_has_not_read_yet_counts_as_left_in_its_own_checkpoints() {
    let markers = Tidy {
        since: 0,
        left_from: AT + 5,
    };
    let mut saved = vec![(10, RowId(1)), (20, RowId(2))];
    saved.extend(markers.ids().into_iter().map(|id| (CLEANUP_SECOND, id)));
    let mut ledger = open(0, &saved);
    take(&mut ledger, 9, 30 * SECOND);
    let delta = save(&mut ledger).unwrap();
    assert_eq!(tidy(&delta).unwrap().left_from, AT, "by seconds");
}

#[test]
fn where_rows_were_not_deleted_before_they_are_from_the_bound_on() {
    let mut ledger = open(AT, &[(10, RowId(1))]);
    ledger.seen_again(slot(), AT, RowId(1), &key(1));
    assert_eq!(due(&mut ledger), [1], "delivered before, and above the bound");
    let since = tidy(&save(&mut ledger).unwrap()).unwrap().since;
    assert_eq!(
        (since, ledger.slot(slot()).unwrap().deleted_since()),
        (AT, Some(AT))
    );
}

#[test]
fn a_checkpoint_does_not_go_on_saying_that_rows_are_deleted_when_they_are_not() {
    let markers = Tidy {
        since: 3,
        left_from: AT,
    };
    let mut ledger = Ledger::default();
    ledger.open(
        slot(),
        AT,
        markers.ids().into_iter().map(|id| (CLEANUP_SECOND, id)),
    );
    assert_eq!(ledger.take(slot(), AT, RowId(1)), Known::New);
    ledger.keep(slot(), AT, RowId(1), &key(1));
    ledger.resolve(slot(), AT, RowId(1));
    let delta = save(&mut ledger).unwrap();
    assert_eq!(delta.resolved[0], (CLEANUP_SECOND, vec![]), "it is taken out");
    assert_eq!((due(&mut ledger), save(&mut ledger)), (vec![], None));
}

#[test]
fn a_found_row_is_on_its_way_once_and_due_when_resolved() {
    let mut ledger = open(50 * SECOND, &[]);
    let find = |ledger: &mut Ledger| ledger.find(slot(), AT, RowId(1), &key(1));
    assert_eq!(ledger.known(slot(), AT, RowId(1)), Known::BelowBound);
    assert!(find(&mut ledger));
    assert_eq!(
        ledger.known(slot(), AT, RowId(1)),
        Known::Taken,
        "the lane takes it"
    );
    assert!(!find(&mut ledger), "it is on its way");
    assert!(ledger.slot(slot()).unwrap().in_flight());
    ledger.resolve(slot(), AT, RowId(1));
    assert_eq!(due(&mut ledger), [1]);
    assert!(!find(&mut ledger), "it is not gone yet");
    assert_eq!(bound(&mut ledger), 99 * SECOND, "it holds nothing up");
    ledger.deleted(slot(), RowId(1));
    assert!(find(&mut ledger), "it is there after all");
    ledger.close(slot());
    assert!(!find(&mut ledger), "not ours");
}

/// What a poller or reconciliation finds in the table needs no checkpoint: the row itself says that it is not done with.
#[test]
fn a_found_row_is_known_until_it_is_gone_and_while_a_page_may_still_show_it() {
    for bound in [0, 99 * SECOND] {
        let mut ledger = open(bound, &[]);
        let known = |ledger: &Ledger| ledger.known(slot(), AT, RowId(1));
        assert!(ledger.find(slot(), AT, RowId(1), &key(1)));
        assert!(!ledger.find(slot(), AT, RowId(1), &key(1)), "it is on its way");
        assert_eq!(known(&ledger), Known::Taken);
        let owned = ledger.slot(slot()).unwrap();
        assert_eq!((owned.oldest_in_flight(), owned.taken()), (Some(AT), 1));
        ledger.resolve(slot(), AT, RowId(1));
        assert_ne!(known(&ledger), Known::Taken);
        assert_eq!((ledger.undeleted(), ledger.found_in_flight()), (1, 0));
        let owned = ledger.slot(slot()).unwrap();
        assert_eq!((owned.oldest_in_flight(), owned.oldest_found()), (None, Some(AT)));
        assert_eq!(due(&mut ledger), [1]);
        ledger.page_begins(slot());
        ledger.deleted(slot(), RowId(1));
        assert_eq!(ledger.undeleted(), 0);
        assert!(
            !ledger.find(slot(), AT, RowId(1), &key(1)),
            "the page was asked for before"
        );
        ledger.page_ends(slot());
        ledger.page_begins(slot());
        assert!(
            ledger.find(slot(), AT, RowId(1), &key(1)),
            "somebody wrote it again"
        );
    }
}
