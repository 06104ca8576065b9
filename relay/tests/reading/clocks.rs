//! Clocks that are wrong.

use std::time::Duration;

use relay::clock::SystemClock;
use relay::model::{Micros, SECOND, SlotSet};
use relay::ports::Clock;
use relay::source::record::Rules;
use sandbox::cdc::generations::SwitchDelays;

use crate::scene::{Arrived, Reading, arrive_from, database, now, write};

/// A wall clock that is wrong by so much.
struct Wrong(SystemClock, Micros);

impl Clock for Wrong {
    fn now(&self) -> Micros {
        self.0.now() + self.1
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// As far apart as clocks may be, while a generation begins and the slots of one owner go to the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_whose_clocks_differ_lose_and_reorder_nothing_through_a_new_generation() {
    let (sandbox, session) = database(false, "'enabled': true").await;
    let mut readings = Vec::new();
    for (share, wrong) in [(1, 5 * SECOND), (2, -5 * SECOND)] {
        let clock = Wrong(SystemClock::start(), wrong);
        readings.push(Reading::start(&session, SlotSet::of_share(share, 2), clock).await);
    }
    let delays = SwitchDelays {
        start: SECOND,
        publish: 0,
        learn: 0,
    };
    sandbox.cdc().switch_generation(None, delays);
    let (mut arrived, mut written) = (Arrived::default(), Default::default());
    for round in 0..2 {
        let count = if round == 0 { 2000 } else { 1000 };
        let writing = tokio::spawn(write(
            session.clone(),
            count,
            Duration::from_millis(1),
            std::mem::take(&mut written),
        ));
        while !writing.is_finished() {
            arrive_from(&mut readings, &mut arrived, usize::MAX, Duration::from_millis(50)).await;
        }
        written = writing.await.unwrap();
        let all = written.values().sum::<i32>() as usize;
        arrive_from(&mut readings, &mut arrived, all, Duration::from_secs(20)).await;
        if round == 0 {
            // The owner behind takes over from the one ahead, and the other way around.
            let former = std::mem::take(&mut readings);
            let clocks = [-5 * SECOND, 5 * SECOND];
            for (reading, wrong) in former.into_iter().zip(clocks) {
                let ledger = reading.handed_over();
                reading.end().await;
                let clock = Wrong(SystemClock::start(), wrong);
                readings.push(Reading::with(&session, ledger, Rules::default(), clock).await);
            }
        }
    }
    arrived.check(&written);
    assert!(arrived.late.is_empty(), "{:?}", arrived.late);
    for reading in readings {
        reading.end().await;
    }
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_whose_clock_is_wrong_loses_nothing_and_says_so() {
    for wrong in [600 * SECOND, 4 * SECOND, -4 * SECOND, -600 * SECOND] {
        let (sandbox, session) = database(false, "'enabled': true").await;
        let clock = Wrong(SystemClock::start(), wrong);
        let mut readings = [Reading::start(&session, SlotSet::ALL, clock).await];
        // Time enough to sweep what has not been written yet, if the clock were believed.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (mut arrived, mut written) = (Arrived::default(), Default::default());
        for _ in 0..5 {
            written = write(session.clone(), 200, Duration::from_millis(1), written).await;
            arrive_from(
                &mut readings,
                &mut arrived,
                usize::MAX,
                Duration::from_millis(300),
            )
            .await;
        }
        arrive_from(&mut readings, &mut arrived, 1000, Duration::from_secs(30)).await;
        arrived.check(&written);
        let [reading] = readings;
        assert!(reading.lowest_bound() < now(), "{wrong}");
        let expected = (wrong > 60 * SECOND).then_some("clock of this machine");
        reading.source_says(expected).await;
        reading.end().await;
        sandbox.stop().await;
    }
}
