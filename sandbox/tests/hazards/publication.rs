//! New streams that readers are told of late: a generation, or the streams of a tablet split. `scylla_cdc`'s reader reads
//! them from their own start once it knows them, unless it is told to end before.

use std::collections::BTreeSet;
use std::time::Duration;

use sandbox::cdc::generations::SwitchDelays;
use scylla::value::CqlTimestamp;
use tokio::time::sleep;

use super::{Scene, events, finish};
use crate::reader::{self, SAFETY};
use crate::row;

/// In use after this long.
const START: Duration = Duration::from_millis(200);

fn published_after(delay: Duration) -> SwitchDelays {
    SwitchDelays {
        start: START.as_micros() as i64,
        publish: delay.as_micros() as i64,
        learn: 0,
    }
}

async fn only_delays(tablets: bool) {
    let scene = Scene::new(tablets, 3_600).await;
    let reading = scene.read().await;
    scene.write(&["e1"]).await;
    reading.until(1).await.unwrap();
    let published = scene.switch_streams(published_after(START + SAFETY * 3));
    sleep(START * 2).await;
    scene.write(&["e2"]).await;
    reading.until(2).await.unwrap();
    assert!(reader::now().as_micros() as i64 > published);
    scene.write(&["e3"]).await;
    reading.until(3).await.unwrap();
    assert_eq!(finish(reading).await, ["e1", "e2", "e3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_is_published_late_only_delays_scylla_cdc() {
    only_delays(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tablets_that_are_published_late_only_delay_scylla_cdc() {
    only_delays(true).await;
}

/// It ends well: that there are streams which it has not read, it cannot know.
async fn is_lost_by_a_reader_that_ends_before(tablets: bool) {
    let scene = Scene::new(tablets, 3_600).await;
    let reading = scene.read().await;
    scene.write(&["e1"]).await;
    reading.until(1).await.unwrap();
    scene.switch_streams(published_after(Duration::from_secs(60)));
    sleep(START * 2).await;
    scene.write(&["e2"]).await;
    sleep(SAFETY * 2).await;
    assert_eq!(scene.log().await, ["e1", "e2"]);
    assert_eq!(finish(reading).await, ["e1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_generation_is_lost_by_scylla_cdc_if_it_ends_before_the_publication() {
    is_lost_by_a_reader_that_ends_before(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_new_tablets_is_lost_by_scylla_cdc_if_it_ends_before_the_publication() {
    is_lost_by_a_reader_that_ends_before(true).await;
}

/// Reads the newest streams that it knows of, and has one bound for whatever these are.
struct OneBound {
    since: i64,
    delivered: Vec<String>,
}

impl OneBound {
    async fn poll(&mut self, scene: &Scene) {
        let streams = newest_streams(scene).await;
        let mut rows = scene.whole_log().await;
        rows.retain(|row| streams.contains(&row::stream(row)) && row::micros(row) >= self.since);
        rows.sort_by_key(row::micros);
        self.delivered.extend(events(&rows));
        self.since = reader::now().as_micros() as i64;
    }
}

async fn newest_streams(scene: &Scene) -> BTreeSet<Vec<u8>> {
    let ask = async |text: String| {
        let answer = scene.session.query_unpaged(text, ()).await.unwrap();
        answer.into_rows_result().unwrap()
    };
    let of = |keyspace: &str| format!("keyspace_name = '{keyspace}' AND table_name = 't'");
    let sets = match scene.tablets {
        false => "SELECT time FROM system_distributed.cdc_generation_timestamps WHERE key = 'timestamps'"
            .to_owned(),
        true => format!(
            "SELECT timestamp FROM system.cdc_timestamps WHERE {}",
            of(scene.keyspace)
        ),
    };
    let sets = ask(sets).await;
    let newest = sets
        .rows::<(CqlTimestamp,)>()
        .unwrap()
        .map(|row| row.unwrap().0.0)
        .max()
        .unwrap();
    if scene.tablets {
        let of = of(scene.keyspace);
        let streams = format!(
            "SELECT stream_id FROM system.cdc_streams WHERE {of} AND timestamp = {newest} AND stream_state = 0"
        );
        let streams = ask(streams).await;
        return streams
            .rows::<(Vec<u8>,)>()
            .unwrap()
            .map(|row| row.unwrap().0)
            .collect();
    }
    let streams =
        format!("SELECT streams FROM system_distributed.cdc_streams_descriptions_v2 WHERE time = {newest}");
    let streams = ask(streams).await;
    streams
        .rows::<(Vec<Vec<u8>>,)>()
        .unwrap()
        .flat_map(|row| row.unwrap().0)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_with_one_bound_for_all_streams_loses_what_came_before_the_publication() {
    for tablets in [false, true] {
        let scene = Scene::new(tablets, 3_600).await;
        let mut reader = OneBound {
            since: 0,
            delivered: Vec::new(),
        };
        scene.write(&["e1"]).await;
        reader.poll(&scene).await;
        let published = scene.switch_streams(published_after(START * 15));
        sleep(START * 2).await;
        scene.write(&["e2"]).await;
        reader.poll(&scene).await;
        while (reader::now().as_micros() as i64) <= published {
            sleep(Duration::from_millis(20)).await;
        }
        scene.write(&["e3"]).await;
        reader.poll(&scene).await;
        assert_eq!(scene.log().await, ["e1", "e2", "e3"]);
        assert_eq!(reader.delivered, ["e1", "e3"]);
    }
}
