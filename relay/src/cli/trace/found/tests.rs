use super::*;
use crate::model::{CdcTime, StreamId};
use crate::status::sample;

const NOW: Micros = 1_000 * SECOND;

fn waiting() -> Found {
    let slot = SlotId::new(32).unwrap();
    let position = SourcePosition {
        stream: StreamId([1; 16]),
        time: CdcTime::min_of(NOW - 10 * SECOND),
        batch_seq_no: 0,
    };
    Found {
        event_id: "e-1".to_owned(),
        searched: Searched {
            source: "Log",
            window: Window { from: 0, to: NOW },
            expired: None,
            topics: vec![("orders".to_owned(), Some(vec![(0, 0, 9)]))],
            dead_letter_table: true,
        },
        rows: vec![Row {
            position,
            slot,
            aggregate_id: Some("a-1".to_owned()),
            event_type: None,
            topic: "orders".to_owned(),
            created: position.time.micros(),
            problem: None,
        }],
        letters: Vec::new(),
        messages: Vec::new(),
        slot: Some(SlotView {
            slot,
            owner: Some("relay-a".to_owned()),
            epoch: Some(3),
            alive: Some(true),
            bound: Some(NOW - 200 * SECOND),
            transactional_id: None,
        }),
        resolved: false,
        horizon: Duration::from_secs(180),
        now: NOW,
        relay: None,
    }
}

fn message() -> Landed {
    Landed {
        topic: "orders".to_owned(),
        partition: 3,
        offset: 42,
        dead_letter: false,
        marks: vec!["late"],
    }
}

fn letter(status: &str, class: &str) -> Letter {
    Letter {
        slot: 32,
        status: status.to_owned(),
        class: Some(class.to_owned()),
        error: Some("refused".to_owned()),
        topic: Some("orders".to_owned()),
        position: None,
    }
}

fn check(change: impl Fn(&mut Found), state: State, because: &str) {
    let mut found = waiting();
    change(&mut found);
    let verdict = found.verdict();
    let said = verdict.because.join("\n");
    assert_eq!(verdict.state, state, "{said}");
    assert!(said.contains(because), "should say {because}: {said}");
    let (text, json) = (found.text(&verdict), found.json(&verdict));
    assert!(text.contains(&format!("e-1 is {state:?}")), "{text}");
    assert_eq!(json["state"], format!("{state:?}"));
}

#[test]
fn what_became_of_it_is_told_before_why_it_waits() {
    use State::{DeadLettered, Delivered, Missing, NotFound, Undecided, Waiting};
    check(|found| found.messages.push(message()), Delivered, "");
    check(
        |found| found.messages.extend([message(), message()]),
        Delivered,
        "2 times",
    );
    check(
        |found| found.letters.push(letter("waiting", "message")),
        DeadLettered,
        "replay or discard",
    );
    check(
        |found| found.letters.push(letter("waiting", "held")),
        DeadLettered,
        "an earlier event of its aggregate",
    );
    check(
        |found| found.letters.push(letter("quarantined", "message")),
        DeadLettered,
        "maxReplays",
    );
    check(
        |found| found.letters.push(letter("pending", "message")),
        Undecided,
        "is not committed",
    );
    let buried = Landed {
        dead_letter: true,
        ..message()
    };
    check(
        |found| found.messages.push(buried.clone()),
        DeadLettered,
        "topic for dead letters",
    );
    check(|found| found.resolved = true, Missing, "is done with it");
    check(|found| found.rows.clear(), NotFound, "widen it with --from");
    check(|_| (), Waiting, "by --url");
}

#[test]
fn who_holds_it_up_is_named() {
    let waits = |change: &dyn Fn(&mut Found), because: &str| check(change, State::Waiting, because);
    let slot = |found: &mut Found, change: &dyn Fn(&mut SlotView)| change(found.slot.as_mut().unwrap());
    waits(&|found| found.slot = None, "there are no state tables");
    waits(
        &|found| slot(found, &|slot| slot.owner = None),
        "slot 32 has no owner",
    );
    waits(
        &|found| slot(found, &|slot| slot.alive = Some(false)),
        "has not renewed its heartbeat",
    );
    waits(
        &|found| slot(found, &|slot| slot.bound = None),
        "nothing is saved of slot 32",
    );
    waits(
        &|found| found.searched.topics = vec![("orders".to_owned(), None)],
        "there is no topic orders",
    );
    waits(
        &|found| found.relay = Some(Err("refused".to_owned())),
        "does not answer: refused",
    );
    // It owns 21-30 and 32-42.
    waits(
        &|found| found.relay = Some(Ok(sample(false))),
        "the circuit is Open",
    );
    let elsewhere = |found: &mut Found| {
        found.rows[0].slot = SlotId::new(31).unwrap();
        found.relay = Some(Ok(sample(true)));
    };
    waits(&elsewhere, "does not own slot 31");
    waits(
        &|found| found.relay = Some(Ok(sample(true))),
        "it was written 10 s ago: it is being read",
    );
    let late = |found: &mut Found| {
        found.relay = Some(Ok(sample(true)));
        found.horizon = Duration::from_secs(5);
    };
    waits(&late, "only after the horizon");
}
