use super::*;
use crate::model::{SECOND, StreamId};

const AT_LEAST_ONCE: Policy = Policy {
    exactly_once: false,
    ordered: true,
    changes: false,
};

const EXACTLY_ONCE: Policy = Policy {
    exactly_once: true,
    ..AT_LEAST_ONCE
};

fn position(second: i64) -> SourcePosition {
    SourcePosition {
        stream: StreamId([1; 16]),
        time: CdcTime::min_of(second * SECOND),
        batch_seq_no: 0,
    }
}

/// Events `e<second>` of aggregate `a`.
fn audit(policy: Policy, seconds: std::ops::Range<i64>) -> Audit {
    let mut audit = Audit::new(policy, 100);
    for second in seconds {
        audit.expect(expected(second)).unwrap();
    }
    audit
}

fn expected(second: i64) -> Expected {
    Expected {
        event_id: format!("e{second}"),
        aggregate_id: Some("a".to_owned()),
        position: position(second),
        topic: "orders".into(),
        due: true,
    }
}

fn see(audit: &mut Audit, offset: i64, second: i64, change: impl Fn(&mut Seen<'_>)) {
    let (event_id, position) = (format!("e{second}"), position(second).to_string());
    let mut seen = Seen {
        offset,
        event_id: Some(&event_id),
        position: Some(&position),
        ..Seen::default()
    };
    change(&mut seen);
    audit.message("orders", seen);
}

#[test]
fn what_arrived_once_and_in_order_is_clean() {
    let mut audit = audit(EXACTLY_ONCE, 0..4);
    (0..3).for_each(|second| see(&mut audit, second, second, |_| ()));
    assert!(audit.lacks_any());
    audit.letter("e3", None);
    assert!(!audit.lacks_any());
    see(&mut audit, 9, 77, |_| ());
    let report = audit.finish();
    assert!(report.is_clean() && report.examples.is_empty(), "{report:?}");
    assert_eq!(
        (
            report.events,
            report.delivered,
            report.dead_lettered,
            report.messages_read
        ),
        (4, 3, 1, 4)
    );
}

#[test]
fn what_is_nowhere_is_missing_once_a_relay_is_done_with_it() {
    let mut audit = audit(AT_LEAST_ONCE, 0..2);
    let young = Expected {
        due: false,
        ..expected(5)
    };
    audit.expect(young).unwrap();
    see(&mut audit, 0, 0, |_| ());
    let report = audit.finish();
    assert_eq!((report.missing, report.not_yet_due), (1, 1));
    assert_eq!(report.oldest_not_yet_due, Some(5 * SECOND));
    let example = &report.examples[0];
    assert_eq!(
        (example.finding, example.event_id.as_str(), example.offset),
        (Finding::Missing, "e1", None)
    );
}

#[test]
fn repeats_are_told_apart_by_what_allows_them() {
    let repeats = |policy, change: &dyn Fn(&mut Seen<'_>)| {
        let mut audit = audit(policy, 0..1);
        see(&mut audit, 3, 0, |_| ());
        see(&mut audit, 4, 0, change);
        let report = audit.finish();
        let example = report
            .examples
            .first()
            .map(|example| (example.first_offset, example.offset));
        (report.is_clean(), report.repeated, example)
    };
    let none = report::Repeated::default();
    let other = position(9).to_string();
    assert_eq!(
        repeats(EXACTLY_ONCE, &|_| ()),
        (
            false,
            report::Repeated {
                not_allowed: 1,
                ..none
            },
            Some((Some(3), Some(4)))
        )
    );
    for (policy, change, expected) in [
        (
            AT_LEAST_ONCE,
            &(|_: &mut Seen<'_>| ()) as &dyn Fn(&mut Seen<'_>),
            report::Repeated {
                at_least_once: 1,
                ..none
            },
        ),
        (
            EXACTLY_ONCE,
            &|seen| seen.replayed = true,
            report::Repeated { replayed: 1, ..none },
        ),
        (
            EXACTLY_ONCE,
            &|seen| seen.reconciled = true,
            report::Repeated {
                reconciled: 1,
                ..none
            },
        ),
        (
            EXACTLY_ONCE,
            &|seen| seen.position = None,
            report::Repeated {
                written_again: 1,
                ..none
            },
        ),
    ] {
        assert_eq!(repeats(policy, change), (true, expected, None));
    }
    assert!(other.contains(':'));
}

#[test]
fn an_unmarked_event_behind_a_later_one_of_its_aggregate_is_reordered() {
    let reordered = |policy, change: &dyn Fn(&mut Seen<'_>)| {
        let mut audit = audit(policy, 0..2);
        see(&mut audit, 0, 1, |_| ());
        see(&mut audit, 1, 0, change);
        audit.finish().reordered
    };
    assert_eq!(reordered(AT_LEAST_ONCE, &|_| ()), 1);
    assert_eq!(reordered(AT_LEAST_ONCE, &|seen| seen.late = true), 0);
    assert_eq!(reordered(AT_LEAST_ONCE, &|seen| seen.replayed = true), 0);
    // Offsets of two partitions say nothing of each other.
    assert_eq!(reordered(AT_LEAST_ONCE, &|seen| seen.partition = 1), 0);
    let scattered = Policy {
        ordered: false,
        ..AT_LEAST_ONCE
    };
    assert_eq!(reordered(scattered, &|_| ()), 0);
}

/// A repeat may come after later events; only the first appearance counts.
#[test]
fn order_is_that_of_first_appearances() {
    let mut audit = audit(AT_LEAST_ONCE, 0..3);
    for (offset, second) in [0, 1, 0, 1, 2].into_iter().enumerate() {
        see(&mut audit, offset as i64, second, |_| ());
    }
    let report = audit.finish();
    assert_eq!((report.reordered, report.repeated.at_least_once), (0, 2));
}

#[test]
fn a_row_that_was_written_again_is_one_event() {
    let mut audit = audit(EXACTLY_ONCE, 0..3);
    let again = Expected {
        position: position(8),
        ..expected(0)
    };
    audit.expect(again).unwrap();
    for (offset, second) in [1, 2, 0].into_iter().enumerate() {
        see(&mut audit, offset as i64, second, |_| ());
    }
    let report = audit.finish();
    assert_eq!((report.events, report.written_again, report.reordered), (3, 1, 0));
}

#[test]
fn with_changes_each_change_of_a_row_is_an_event() {
    let changes = Policy {
        changes: true,
        ..EXACTLY_ONCE
    };
    let mut audit = audit(changes, 0..1);
    let update = Expected {
        position: position(1),
        ..expected(0)
    };
    audit.expect(update).unwrap();
    see(&mut audit, 0, 0, |_| ());
    let report = audit.finish();
    assert_eq!((report.events, report.delivered, report.missing), (2, 1, 1));
    assert_eq!(report.examples[0].event_id, "e0");
}

#[test]
fn memory_is_bounded() {
    let mut audit = Audit::new(AT_LEAST_ONCE, 2);
    assert_eq!(audit.expect(expected(0)), Ok(()));
    assert_eq!(audit.expect(expected(1)), Ok(()));
    assert_eq!(audit.expect(expected(1)), Ok(()), "it is known");
    assert_eq!(audit.expect(expected(2)), Err(TooMany));
}

#[test]
fn an_event_is_due_below_its_slots_bound_or_when_its_own_id_is_resolved() {
    let slot = SlotId::new(3).unwrap();
    let mut resolved = Resolved::default();
    assert!(!resolved.covers(slot, &position(1)) && resolved.lowest().is_none());
    resolved.bounds.insert(slot, 2 * SECOND);
    assert!(resolved.covers(slot, &position(1)) && !resolved.covers(slot, &position(2)));
    assert!(!resolved.covers(SlotId::new(4).unwrap(), &position(1)));
    resolved.ids.insert(position(7).row_id());
    assert!(resolved.covers(slot, &position(7)));
}

#[test]
fn passes_are_added_and_examples_stay_few() {
    let missing = |seconds: std::ops::Range<i64>| audit(AT_LEAST_ONCE, seconds).finish();
    let mut sum = missing(30..60);
    sum.add(missing(0..15));
    assert_eq!((sum.missing, sum.events), (45, 45));
    assert_eq!(sum.examples.len(), report::EXAMPLES);
    let question = report::Question {
        identity: "shop.orders".to_owned(),
        source: "Log",
        from: 0,
        to: 60 * SECOND,
        guarantee: "AtLeastOnce".to_owned(),
        topics: vec!["orders".to_owned()],
        unordered: None,
        resolved: None,
    };
    let document = sum.json(&question);
    assert_eq!(
        (&document["verdict"], &document["missing"]),
        (&"Findings".into(), &45.into())
    );
    assert!(sum.text(&question).ends_with("FINDINGS\n"));
}

#[test]
fn an_event_whose_letter_is_in_an_open_transaction_is_neither_lost_nor_dead() {
    let mut audit = audit(EXACTLY_ONCE, 0..3);
    see(&mut audit, 0, 0, |_| ());
    audit.undecided("e1", None);
    audit.undecided("e2", None);
    see(&mut audit, 1, 2, |seen| seen.replayed = true);
    assert!(!audit.lacks_due());
    let report = audit.finish();
    assert_eq!(
        (
            report.delivered,
            report.dead_lettered,
            report.missing,
            report.not_yet_due
        ),
        (2, 0, 0, 1)
    );
}
