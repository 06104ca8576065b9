mod endings;
mod holding;
mod model;
mod samples;
mod schedules;
mod transactions;

use std::collections::HashSet;

use BreakerState::{Closed, HalfOpen, Open};
use crds::dead_letter::{DeadLetterWhen, OnAggregate};
use model::{Id, Model, failure, policy};

use super::*;
use crate::model::SlotId;
use crate::ports::{ErrorClass, Outcome};

const MINUTE: Duration = Duration::from_secs(60);

fn exhausted() -> Policy {
    Policy {
        when: DeadLetterWhen::Exhausted,
        ..policy()
    }
}

fn ids(range: std::ops::Range<Id>) -> Vec<Id> {
    range.collect()
}

#[test]
fn events_flow_in_order_and_are_resolved_once() {
    let mut model = Model::new(policy(), 1);
    model.offer_all((0..100).map(|i| i % 7));
    model.run(MINUTE);
    assert!(model.lane.is_empty());
    for aggregate in 0..7 {
        let expected: Vec<_> = (0..100).filter(|id| id % 7 == aggregate).collect();
        assert_eq!(model.first_appearances(aggregate), expected);
    }
    model.resolved.sort_unstable();
    assert_eq!(model.resolved, ids(0..100));
    assert_eq!((model.lane.bytes(), model.notes.len()), (0, 0));
}

#[test]
fn five_failures_open_the_breaker_the_sixth_event_waits_three_probes_close_it() {
    let mut model = Model::new(policy(), 1);
    model.faults.down = true;
    model.offer_all([0; 5]);
    model.turn();
    model.broker_step();
    assert_eq!(
        model.failed_attempts(),
        [1],
        "all brokers down fails the attempt under way"
    );
    model.pass(Duration::from_millis(100 + 200 + 400));
    assert_eq!(
        (model.failed_attempts(), model.breaker()),
        (vec![1, 2, 3, 4], Closed)
    );
    model.pass(Duration::from_millis(500));
    assert_eq!(
        (model.failed_attempts(), model.breaker()),
        (vec![1, 2, 3, 4, 5], Open)
    );
    assert!(!model.lane.accepts(), "the sixth event waits");
    model.pass(Duration::from_secs(29));
    assert_eq!((model.failed_attempts().len(), model.breaker()), (5, Open));
    model.pass(Duration::from_secs(1));
    assert_eq!(
        model.failed_attempts(),
        [1, 2, 3, 4, 5, 6],
        "a failed probe is an attempt of that event"
    );
    assert_eq!(model.breaker(), Open);

    model.faults.down = false;
    model.pass(Duration::from_secs(30));
    assert_eq!(model.breaker(), HalfOpen);
    model.run(MINUTE);
    assert_eq!(model.breaker(), Closed);
    assert!(model.lane.accepts());
    assert_eq!(model.first_appearances(0), ids(0..5));
    assert!(model.letters.is_empty());
    let transitions: Vec<_> = model
        .notes
        .iter()
        .filter(|note| matches!(note, Note::Breaker(_)))
        .collect();
    assert_eq!(transitions.len(), 5, "0-1-2-1-2-0: {transitions:?}");
}

#[test]
fn a_short_outage_costs_retries_and_nothing_else() {
    let mut model = Model::new(policy(), 1);
    model.offer_all([0; 3]);
    model.turn();
    model.faults.down = true;
    model.broker_step();
    model.pass(Duration::from_millis(150));
    model.faults.down = false;
    model.run(MINUTE);
    assert_eq!(model.breaker(), Closed);
    assert_eq!(model.first_appearances(0), ids(0..3));
    assert_eq!(model.failed_attempts(), [1, 2]);
    assert!(model.notes.contains(&Note::RetrySucceeded));
    assert!(
        model.unknown.is_empty() && model.opened == [Role::Flow],
        "nothing was given up"
    );
}

#[test]
fn a_silent_stall_counts_attempts_and_purges_nothing() {
    let mut model = Model::new(policy(), 1);
    model.faults.stalled = true;
    model.offer_all([0; 3]);
    model.turn();
    model.pass(Duration::from_millis(9_999));
    assert!(model.failed_attempts().is_empty());
    model.pass(Duration::from_millis(1));
    assert_eq!(model.failed_attempts(), [1]);
    model.pass(4 * Duration::from_secs(10) + Duration::from_millis(100 + 200 + 400 + 500));
    assert_eq!(
        (model.failed_attempts(), model.breaker()),
        (vec![1, 2, 3, 4, 5], Open)
    );
    model.faults.stalled = false;
    while model.broker_step() {
        model.turn();
    }
    assert_eq!(
        model.breaker(),
        Open,
        "late answers resolve events, and are no probe"
    );
    assert_eq!(model.resolved, ids(0..3));
    assert_eq!(model.opened, [Role::Flow], "the same producer all along");
    assert!(
        !model
            .notes
            .iter()
            .any(|note| matches!(note, Note::GenerationEnded(_)))
    );
}

#[test]
fn after_a_long_stall_the_backlog_is_not_counted_as_stalled_again() {
    let mut model = Model::new(policy(), 1);
    model.faults.stalled = true;
    model.offer_all((0..50).map(|i| i % 5));
    model.turn();
    model.pass(Duration::from_secs(25));
    let before = model.failed_attempts().len();
    model.faults.stalled = false;
    while model.broker_step() {
        model.turn();
        model.pass(Duration::from_secs(1));
    }
    assert_eq!(model.failed_attempts().len(), before);
    assert!(model.lane.is_empty());
}

#[test]
fn a_missing_topic_keeps_the_event_and_opens_the_breaker() {
    let mut model = Model::new(policy(), 1);
    model.faults.topic_missing = true;
    model.offer_all([0, 1, 2]);
    model.run(Duration::from_secs(10));
    assert_eq!(
        (model.failed_attempts(), model.breaker()),
        (vec![1, 2, 3, 4, 5], Open)
    );
    assert!(model.letters.is_empty() && model.notes.contains(&Note::RetriesExhausted));
    model.faults.topic_missing = false;
    model.run(2 * MINUTE);
    model.resolved.sort_unstable();
    assert_eq!((model.resolved.clone(), model.breaker()), (ids(0..3), Closed));
    assert!(model.unknown.is_empty());
}

#[test]
fn exhausted_gives_the_event_up_and_the_next_one_is_the_probe() {
    let mut model = Model::new(exhausted(), 1);
    model.faults.topic_missing = true;
    model.offer_all([0, 0, 0]);
    model.run(Duration::from_secs(10));
    assert_eq!(model.letters, [(0, Reason::Exhausted(ErrorClass::Configuration))]);
    assert_eq!((model.resolved.clone(), model.breaker()), (vec![0], Open));
    model.faults.topic_missing = false;
    model.run(2 * MINUTE);
    assert_eq!(model.first_appearances(0), [1, 2]);
    assert_eq!(model.resolved, [0, 1, 2]);
}

#[test]
fn exhausted_by_a_stall_is_taken_back_from_the_producer_first() {
    let mut model = Model::new(exhausted(), 1);
    model.faults.stalled = true;
    model.offer_all([0, 0]);
    model.turn();
    model.pass(2 * MINUTE);
    assert_eq!(model.letters[0], (0, Reason::Exhausted(ErrorClass::Transient)));
    assert!(model.notes.contains(&Note::GenerationEnded(1)));
    model.faults.stalled = false;
    model.run(5 * MINUTE);
    assert_eq!(model.first_appearances(0), [1]);
}

#[test]
fn fifty_of_a_hundred_are_refused_and_order_is_kept() {
    for aggregates in [1, 5, 50] {
        let mut model = Model::new(policy(), aggregates);
        model.faults.poison = (0..100).filter(|id| id % 2 == 1).collect();
        model.offer_all((0..100).map(|i| i / 2 % aggregates));
        model.run(MINUTE);
        assert!(model.lane.is_empty(), "{aggregates} aggregates");
        let mut letters: Vec<_> = model.letters.iter().map(|(id, _)| *id).collect();
        letters.sort_unstable();
        assert_eq!(letters, (0..100).filter(|id| id % 2 == 1).collect::<Vec<_>>());
        let delivered: usize = (0..aggregates)
            .map(|aggregate| model.first_appearances(aggregate).len())
            .sum();
        assert_eq!(delivered, 50);
        for aggregate in 0..aggregates {
            assert!(
                model.first_appearances(aggregate).is_sorted(),
                "aggregate {aggregate}"
            );
        }
        assert_eq!(
            (model.breaker(), model.failed_attempts()),
            (Closed, vec![]),
            "no fault of the broker"
        );
        assert!(model.unknown.is_empty());
        let topic_size: usize = model.log.values().map(Vec::len).sum();
        assert_eq!(topic_size, 50, "nothing twice");
        let generations = model.opened.iter().filter(|role| **role == Role::Flow).count();
        assert_eq!(generations, 2, "the first refusal ends one, the others none");
    }
}

/// While refusals may be near, events go on one by one per aggregate; afterwards in a flow again.
#[test]
fn the_flow_goes_on_once_nothing_more_is_refused() {
    let mut model = Model::new(policy(), 1);
    model.faults.poison = HashSet::from([3]);
    model.offer_all([0; 100]);
    model.turn();
    let mut widest = 0;
    while !model.lane.is_empty() {
        assert!(model.broker_step());
        model.turn();
        if !model.letters.is_empty() {
            widest = model.lane.outstanding.max(widest);
        }
    }
    assert_eq!(
        model.first_appearances(0),
        ids(0..3).into_iter().chain(4..100).collect::<Vec<_>>()
    );
    assert_eq!(model.opened, [Role::Flow, Role::Isolation, Role::Flow]);
    assert!(widest > 8, "{widest} at once at the end");
    model.offer_all([0; 20]);
    model.run(MINUTE);
    assert_eq!(model.opened.len(), 3);
}

#[test]
fn dead_letters_that_cannot_be_written_open_the_breaker_and_are_never_skipped() {
    let mut model = Model::new(policy(), 1);
    model.faults.letters_fail = true;
    model.offer(0, Some(failure(ErrorClass::Message, Outcome::NotWritten)));
    model.turn();
    assert_eq!((model.breaker(), model.lane.is_empty()), (Open, false));
    assert!(!model.lane.accepts());
    model.pass(Duration::from_secs(31));
    assert_eq!(model.breaker(), Open, "the probe failed too");
    model.faults.letters_fail = false;
    model.pass(Duration::from_secs(30));
    assert_eq!(
        (model.letters.len(), model.resolved.clone(), model.breaker()),
        (1, vec![0], HalfOpen)
    );
    model.offer_all([0]);
    model.run(MINUTE);
    model.offer_all([0]);
    model.run(MINUTE);
    assert_eq!(model.breaker(), Closed);
}

#[test]
fn a_full_queue_is_back_pressure() {
    let mut model = Model::new(policy(), 1);
    model.faults.queue_limit = Some(3);
    model.offer_all([0; 20]);
    model.run(MINUTE);
    assert_eq!(
        (model.first_appearances(0), model.failed_attempts()),
        (ids(0..20), vec![])
    );
}

#[test]
fn a_queue_that_is_full_of_nothing_is_asked_again_after_a_pause() {
    let mut model = Model::new(policy(), 1);
    model.faults.queue_limit = Some(0);
    model.offer_all([0]);
    model.turn();
    let due = model.lane.next_deadline(model.now);
    assert_eq!(due, Some(model.now.elapsed + Duration::from_millis(10)));
    model.faults.queue_limit = None;
    model.run(MINUTE);
    assert_eq!(
        (model.first_appearances(0), model.failed_attempts()),
        (ids(0..1), vec![])
    );
}

#[test]
fn the_lane_takes_no_more_than_its_limits() {
    let mut model = Model::new(policy(), 1);
    while model.offer(0, None).is_some() {}
    assert_eq!(model.lane.messages(), 200);
    let mut model = Model::new(
        Policy {
            max_bytes: 90,
            ..policy()
        },
        1,
    );
    while model.offer(0, None).is_some() {}
    assert_eq!(model.lane.bytes(), 90, "each event weighs nine bytes");
}

#[test]
fn nothing_is_sent_after_the_lease() {
    let mut model = Model::new(policy(), 1);
    model.offer_all([0, 0]);
    model.lease_until = model.now.elapsed;
    model.run(MINUTE);
    assert!(model.log.is_empty());
    model.lease_until = Duration::MAX;
    model.run(MINUTE);
    assert_eq!(model.first_appearances(0), [0, 1]);
}
