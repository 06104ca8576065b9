//! Producers, circuits and slots that end while something waits for them.

use super::model::{Model, failure, policy};
use super::*;

fn slots(indexes: &[u8]) -> SlotSet {
    indexes.iter().filter_map(|index| SlotId::new(*index)).collect()
}

#[test]
fn a_revoked_slot_is_heard_of_no_more_and_the_others_go_on() {
    let mut model = Model::new(policy(), 1);
    model.offer_all([0, 1, 0, 1]);
    model.turn();
    model
        .lane
        .revoke([SlotId::new(0).unwrap()].into_iter().collect(), model.now);
    model.offer_all([1]);
    model.run(MINUTE);
    assert!(model.lane.is_empty());
    assert_eq!(model.resolved, [1, 3, 4]);
    assert_eq!(model.first_appearances(1), [1, 3, 4]);
    assert!(model.first_appearances(0).is_empty());
    assert!(model.failed_attempts().is_empty(), "our own doing is no failure");
}

#[test]
fn a_slot_revoked_during_isolation_leaves_it() {
    let mut model = Model::new(policy(), 1);
    model.faults.poison = (0..20).collect();
    model.offer_all((0..20).map(|i| i % 2 * 3));
    while !model.opened.contains(&Role::Isolation) {
        model.turn();
        model.broker_step();
    }
    model.turn();
    let slots = [0, 3].iter().filter_map(|slot| SlotId::new(*slot)).collect();
    model.lane.revoke(slots, model.now);
    model.faults.poison.clear();
    model.offer_all([5]);
    model.run(MINUTE);
    assert!(model.lane.is_empty());
    assert_eq!(model.first_appearances(5), [20]);
}

/// An isolation of which the first group of twenty is with the producer in part.
fn half_sent_group() -> Model {
    let mut model = Model::new(policy(), 1);
    model.faults.poison = [3].into();
    model.offer_all(0..20);
    model.turn();
    model.refuse_early(&ids(0..20));
    model.faults.queue_limit = Some(3);
    model.turn();
    model.faults.queue_limit = None;
    assert_eq!(model.lane.outstanding, 3);
    model
}

#[test]
fn a_group_that_was_sent_in_part_goes_on_after_its_producer() {
    let mut model = half_sent_group();
    model.kill(Role::Isolation);
    model.run(MINUTE);
    assert!(model.lane.is_empty());
    assert_eq!((model.letters.len(), model.resolved.len()), (1, 20));
}

#[test]
fn a_group_that_was_sent_in_part_goes_on_without_a_lost_slot() {
    let mut model = half_sent_group();
    model.lane.revoke(slots(&[0]), model.now);
    model.run(MINUTE);
    assert!(model.lane.is_empty());
    assert_eq!((model.letters.len(), model.resolved.len()), (1, 19));
}

/// The broker may refuse a batch while an earlier one, which it could not take just then, waits to be sent again.
#[test]
fn what_failed_before_a_suspect_of_its_aggregate_is_sent_before_it() {
    let mut model = Model::new(policy(), 1);
    model.offer_all([0, 0, 1, 0]);
    model.turn();
    model.refuse_early(&[1]);
    model.run(MINUTE);
    assert_eq!(model.first_appearances(0), [0, 1, 3]);
    assert_eq!(model.first_appearances(1), [2]);
}

#[test]
fn letters_that_cannot_be_written_and_go_with_their_slot_hold_up_nobody() {
    let mut model = Model::new(policy(), 1);
    model.faults.letters_fail = true;
    model.offer(0, Some(failure(ErrorClass::Message, Outcome::NotWritten)));
    model.offer_all([1, 1, 1, 1]);
    model.turn();
    assert_eq!(model.breaker(), Open);
    model.lane.revoke(slots(&[0]), model.now);
    model.run(MINUTE);
    assert_eq!((model.first_appearances(1), model.breaker()), (ids(1..5), Closed));
}

#[test]
fn what_a_dead_producer_keeps_to_itself_is_taken_back_after_a_second() {
    let mut model = Model::new(policy(), 1);
    model.faults.poison = [0].into();
    model.offer_all([0; 4]);
    model.turn();
    model.refuse_in_silence(0);
    let ended = |model: &Model| model.notes.contains(&Note::GenerationEnded(1));
    model.pass(Duration::from_millis(999));
    assert!(!ended(&model), "what is in flight may yet be answered");
    model.pass(Duration::from_millis(1));
    assert!(ended(&model));
    model.run(MINUTE);
    assert_eq!((model.first_appearances(0), model.letters.len()), (ids(1..4), 1));
    assert!(model.failed_attempts().is_empty(), "nobody's fault");
}

#[test]
fn an_idle_producer_that_loses_its_connections_fails_no_attempt() {
    let mut model = Model::new(policy(), 1);
    model.faults.poison = [0].into();
    model.offer_all([0]);
    model.run(MINUTE);
    assert_eq!(model.opened, [Role::Flow, Role::Isolation, Role::Flow]);
    model.offer_all([1]);
    model.turn();
    model.disconnect(Role::Flow);
    model.run(MINUTE);
    assert_eq!((model.failed_attempts(), model.resolved.len()), (vec![], 2));
}

#[test]
fn what_is_reported_while_the_circuit_is_open_or_during_a_back_off_is_no_further_attempt() {
    let mut model = Model::new(policy(), 1);
    model.faults.stalled = true;
    model.offer_all([0; 3]);
    model.turn();
    model.pass(Duration::from_millis(10_050));
    assert_eq!(model.failed_attempts(), [1]);
    model.faults.stalled = false;
    model.faults.topic_missing = true;
    assert!(model.broker_step(), "the answer to the attempt that has failed");
    assert_eq!(model.failed_attempts(), [1]);
    model.faults.stalled = true;
    model.pass(MINUTE);
    assert_eq!((model.failed_attempts().len(), model.breaker()), (5, Open));
    model.faults.stalled = false;
    assert!(model.broker_step());
    assert_eq!((model.failed_attempts().len(), model.breaker()), (5, Open));
    model.faults.topic_missing = false;
    model.run(2 * MINUTE);
    assert_eq!(model.first_appearances(0), ids(0..3));
}
