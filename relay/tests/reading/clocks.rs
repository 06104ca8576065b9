//! Clocks that are wrong.

use std::time::Duration;

use relay::clock::SystemClock;
use relay::model::{Micros, SECOND, SlotSet};
use relay::ports::Clock;

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
