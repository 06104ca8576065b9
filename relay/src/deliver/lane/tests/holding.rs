//! `onAggregate: Hold`: later events of a dead letter's aggregate follow it, also into the next process.

use super::model::{Model, failure, policy};
use super::*;

fn hold() -> Policy {
    Policy {
        on_aggregate: OnAggregate::Hold,
        ..policy()
    }
}

#[test]
fn hold_makes_dead_letters_of_what_follows_in_order() {
    let mut model = Model::new(hold(), 3);
    model.faults.poison.insert(4);
    model.offer_all((0..12).map(|i| i % 2));
    model.run(MINUTE);
    assert_eq!(model.first_appearances(0), [0, 2]);
    assert_eq!(model.first_appearances(1), [1, 3, 5, 7, 9, 11]);
    let held = Reason::Held;
    assert_eq!(
        model.letters,
        [(4, Reason::Rejected), (6, held), (8, held), (10, held)]
    );
    let held = model.lane.held(SlotId::new(0).unwrap());
    assert!(!held.unsettled);
    held.settled.into_iter().for_each(|held| model.lane.let_go(held));
    model.offer_all([0]);
    model.run(MINUTE);
    assert_eq!(model.first_appearances(0), [0, 2, 12]);
}

#[test]
fn an_unusable_event_is_never_sent_and_holds_only_what_follows() {
    let mut model = Model::new(hold(), 3);
    model.offer_all([0]);
    model.offer(0, Some(failure(ErrorClass::Message, Outcome::NotWritten)));
    model.offer_all([0, 1]);
    model.run(MINUTE);
    assert_eq!(
        (model.first_appearances(0), model.first_appearances(1)),
        (vec![0], vec![3])
    );
    assert_eq!(model.letters, [(1, Reason::Rejected), (2, Reason::Held)]);
}

#[test]
fn what_the_dead_letters_of_a_slot_say_holds_from_the_first_event_on() {
    let mut model = Model::new(hold(), 1);
    model.lane.hold(SlotId::new(0).unwrap(), [0, 7]);
    model.offer_all([0, 1, 0]);
    model.run(MINUTE);
    assert_eq!(model.letters, [(0, Reason::Held), (2, Reason::Held)]);
    assert_eq!(model.first_appearances(1), [1]);
    model
        .lane
        .revoke([SlotId::new(0).unwrap()].into_iter().collect(), model.now);
    assert_eq!(model.lane.held_aggregates(), 0, "the next owner knows");
}

#[test]
fn with_too_many_held_aggregates_nothing_is_sent_and_none_is_let_go() {
    let mut model = Model::new(hold(), 1);
    let many = 1_000..=1_000 + MAX_HELD as u64;
    model.lane.hold(SlotId::new(5).unwrap(), many);
    model.turn();
    assert_eq!((model.breaker(), model.lane.accepts()), (Open, false));
    assert!(model.notes.contains(&Note::HeldFull));
    assert!(
        model
            .lane
            .last_error()
            .unwrap()
            .detail
            .contains("onAggregate: Hold")
    );
    model.pass(Duration::from_secs(31));
    assert_eq!(model.breaker(), Open, "no probe would change it");
    let held = model.lane.held(SlotId::new(5).unwrap()).settled;
    let held = held.into_iter().find(|held| held.aggregate == 1_000);
    model.lane.let_go(held.unwrap());
    model.pass(Duration::from_secs(30));
    model.offer_all([0]);
    model.run(MINUTE);
    assert_eq!(model.first_appearances(0), [0]);
}

#[test]
fn a_letter_that_is_sent_again_passes_the_hold_and_what_comes_meanwhile_does_not() {
    let mut model = Model::new(hold(), 3);
    let slot = SlotId::new(0).unwrap();
    model.lane.hold(slot, [0]);
    let before = model.lane.held(slot);
    let letter = model.offer_replay(0);
    model.offer_all([0]);
    model.turn();
    assert!(
        model.lane.held(slot).unsettled,
        "its letter waits for what is before it"
    );
    model.run(MINUTE);
    assert_eq!(
        (model.first_appearances(0), &*model.letters),
        (vec![letter], &[(1, Reason::Held)][..])
    );
    before
        .settled
        .into_iter()
        .for_each(|held| model.lane.let_go(held));
    model.offer_all([0]);
    model.run(MINUTE);
    model.turn();
    assert_eq!(model.letters.len(), 2, "there was another letter since");
    let held = model.lane.held(slot);
    assert!(!held.unsettled);
    held.settled.into_iter().for_each(|held| model.lane.let_go(held));
    assert_eq!(model.lane.held_aggregates(), 0);
}

#[test]
fn a_letter_that_fails_again_holds_what_comes_after_it() {
    let mut model = Model::new(hold(), 3);
    model.faults.poison.insert(0);
    let letter = model.offer_replay(0);
    model.offer_all([1, 0, 1]);
    model.run(MINUTE);
    assert_eq!(model.letters, [(letter, Reason::Rejected), (2, Reason::Held)]);
    assert_eq!(model.first_appearances(1), [1, 3]);
}
