//! Who reads which slots.

use std::time::Duration;

use relay::clock::SystemClock;
use relay::ledger::Ledger;
use relay::model::{SECOND, SlotId, SlotSet};
use relay::source::reader::Command;
use relay::source::record::Rules;
use sandbox::cdc::generations::SwitchDelays;
use sandbox::cdc::tablets::TabletChange;
use scylla::value::CqlValue;
use tokio::sync::oneshot;

use crate::scene::{Arrived, Reading, Scene, arrive_from, database, make, now, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_owners_of_a_tablet_table_lose_nothing_as_tablets_split_and_merge() {
    let (sandbox, session) = database(true, "'enabled': true").await;
    let mut readings = Vec::new();
    for share in [1, 2] {
        let slots = SlotSet::of_share(share, 2);
        readings.push(Reading::start(&session, slots, SystemClock::start()).await);
    }
    for (change, after) in [
        (TabletChange::Split, 1),
        (TabletChange::Split, 3),
        (TabletChange::Merge, 5),
    ] {
        let delays = SwitchDelays {
            start: after * SECOND,
            publish: 0,
            learn: 0,
        };
        let changed = sandbox.cdc().change_tablets("shop", "outbox", change, delays);
        changed.unwrap();
    }
    let writing = tokio::spawn(write(
        session.clone(),
        7000,
        Duration::from_millis(1),
        Default::default(),
    ));
    let mut arrived = Arrived::default();
    while !writing.is_finished() {
        arrive_from(&mut readings, &mut arrived, usize::MAX, Duration::from_millis(50)).await;
    }
    let written = writing.await.unwrap();
    arrive_from(&mut readings, &mut arrived, 7000, Duration::from_secs(30)).await;
    // An event that two owners handed over would be there twice.
    arrived.check(&written);
    assert!(arrived.late.is_empty(), "{:?}", arrived.late);
    for reading in readings {
        reading.end().await;
    }
    sandbox.stop().await;
}

/// The keyspace was made anew with tablets: slots and times mean what they did, the streams are others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_of_vnodes_goes_on_on_tablets_and_back() {
    for tablets in [false, true] {
        let mut scene = Scene::new(tablets).await;
        let mut arrived = Arrived::default();
        scene.write(400).await;
        scene.arrive(&mut arrived, Duration::from_secs(10)).await;
        arrived.check(&scene.written);
        let ledger = scene.reading.handed_over();
        scene.cql("DROP KEYSPACE shop").await;
        make(&scene.session, !tablets, "'enabled': true").await;
        let rules = Rules::default();
        let next = Reading::with(&scene.session, ledger, rules, SystemClock::start()).await;
        std::mem::replace(&mut scene.reading, next).end().await;
        scene.written.clear();
        let mut arrived = Arrived::default();
        scene.write(400).await;
        scene.arrive(&mut arrived, Duration::from_secs(20)).await;
        arrived.check(&scene.written);
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_slot_is_not_read_by_a_reader_that_starts_anew() {
    let (sandbox, session) = database(false, "'enabled': true").await;
    write(session.clone(), 400, Duration::ZERO, Default::default()).await;
    let mut ledger = Ledger::default();
    let stopped = SlotSet::of_share(1, 2);
    for slot in SlotId::all() {
        ledger.open(slot, now() - 60 * SECOND, []);
        if stopped.contains(slot) {
            ledger.stop(slot);
        }
    }
    let mut reading = Reading::with(&session, ledger, Rules::default(), SystemClock::start()).await;
    let first = SlotId::new(0).unwrap();
    reading.commands.send(Command::Add(first)).await.unwrap();
    let mut slots = SlotSet::EMPTY;
    while let Some(events) = reading.next(Duration::from_secs(2)).await {
        events.iter().for_each(|event| slots.insert(event.slot));
    }
    assert!(slots.len() > 5, "the others are read: {slots}");
    assert!(slots.intersection(stopped).is_empty(), "{slots}");
    reading.end().await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_took_of_a_removed_slot_is_not_in_flight() {
    let mut scene = Scene::new(false).await;
    // Nobody takes: the channel fills, and the reader waits with a batch in its hands.
    let taken = |scene: &Scene| -> usize {
        let ledger = scene.reading.ledger.lock();
        SlotId::all()
            .filter_map(|slot| ledger.slot(slot))
            .map(|slot| slot.taken())
            .sum()
    };
    let mut steady = 0;
    while steady < 20 {
        let before = taken(&scene);
        scene.write(40).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        steady = if taken(&scene) == before { steady + 1 } else { 0 };
    }
    let (done, obeyed) = oneshot::channel();
    let command = Command::Remove(SlotSet::ALL, done);
    scene.reading.commands.send(command).await.unwrap();
    obeyed.await.unwrap();
    // What is in the channel is the lane's.
    let mut left = taken(&scene);
    while let Some(events) = scene.reading.next(Duration::from_millis(500)).await {
        left -= events.len();
    }
    assert_eq!(left, 0, "events that nobody holds count as in flight");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_and_deletes_are_events_in_their_order_where_they_are_forwarded() {
    use relay::event::EventOperation::{Delete, Insert, Update};
    let rules = Rules {
        forward_changes: true,
        ..Rules::default()
    };
    let mut scene = Scene::with(false, "'enabled': true, 'postimage': true", rules).await;
    let mut expected = Vec::new();
    for sequence in 0..50 {
        let at = format!("WHERE aggregate_id = 1 AND sequence = {sequence}");
        scene
            .cql(&format!(
                "INSERT INTO shop.outbox (aggregate_id, sequence, payload) VALUES (1, {sequence}, 'new')"
            ))
            .await;
        scene
            .cql(&format!("UPDATE shop.outbox SET payload = 'changed' {at}"))
            .await;
        scene.cql(&format!("DELETE FROM shop.outbox {at}")).await;
        expected.extend([
            (sequence, Insert, Some("new")),
            (sequence, Update, Some("changed")),
            (sequence, Delete, None),
        ]);
    }
    let mut told = Vec::new();
    while told.len() < expected.len() {
        let events = scene.reading.next(Duration::from_secs(10)).await;
        for event in events.expect("more events") {
            assert!(!event.late);
            let sequence = event.values[1].as_ref().and_then(CqlValue::as_int).unwrap();
            let payload = event.values[2].as_ref().and_then(CqlValue::as_text).cloned();
            told.push((sequence, event.operation, payload));
        }
    }
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(sequence, operation, payload)| (sequence, operation, payload.map(str::to_owned)))
        .collect();
    assert_eq!(told, expected);
    scene.end().await;
}
