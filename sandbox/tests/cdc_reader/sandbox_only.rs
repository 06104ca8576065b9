//! The reader follows switches of streams, which only the sandbox makes when it is told to.

use std::time::Duration;

use sandbox::Sandbox;
use sandbox::cdc::generations::SwitchDelays;
use sandbox::cdc::tablets::TabletChange;
use tokio::time::sleep;

use crate::reader::{self, Reading};
use crate::row::{self, LogRow};
use crate::scene::Scene;
use crate::{check, scene_on};

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_a_generation_switch() {
    let delays = SwitchDelays {
        start: 600_000,
        ..SwitchDelays::default()
    };
    follows("reader_switch", false, |sandbox| {
        sandbox.cdc().switch_generation(None, delays).start
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_a_generation_that_is_published_late() {
    let delays = SwitchDelays {
        start: 300_000,
        publish: 1_000_000,
        learn: 0,
    };
    follows("reader_late", false, |sandbox| {
        sandbox.cdc().switch_generation(None, delays).start
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_a_tablet_split_and_merge() {
    follows("reader_split", true, |sandbox| {
        let change = |change, start| {
            let delays = SwitchDelays {
                start,
                ..SwitchDelays::default()
            };
            let cdc = sandbox.cdc();
            cdc.change_tablets("reader_split", "t", change, delays)
                .unwrap()
                .start
        };
        change(TabletChange::Split, 300_000);
        change(TabletChange::Merge, 600_000)
    })
    .await;
}

/// Reads across a switch of streams, which `switch` makes and dates.
async fn follows(keyspace: &'static str, tablets: bool, switch: impl Fn(&Sandbox) -> i64) {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let scene = scene_on(&sandbox.addr().to_string(), keyspace, tablets).await;
    let reading = scene.read_from(reader::now()).await;
    let rows = write_across(&scene, || switch(&sandbox), reading).await;
    check(&scene, rows).await;
}

/// Writes before and after the switch, until the reader is through it.
async fn write_across(scene: &Scene, switch: impl Fn() -> i64, reading: Reading) -> Vec<LogRow> {
    let mut pk = 100;
    let mut insert = async |times: usize| {
        for _ in 0..times {
            scene
                .execute(&format!("INSERT INTO t (pk, ck, v) VALUES ({pk}, 0, 0)"))
                .await;
            pk += 1;
            sleep(Duration::from_millis(10)).await;
        }
    };
    insert(20).await;
    let start = switch();
    while (reader::now().as_micros() as i64) < start {
        insert(1).await;
    }
    insert(20).await;
    // Late publication, the reader's safety interval and its look for the next generation.
    sleep(Duration::from_millis(1_500)).await;
    insert(5).await;
    let rows = reading.finish().await.expect("the reader ends well");
    let (before, after) = rows.iter().partition::<Vec<_>, _>(|row| row::micros(row) < start);
    assert!(!before.is_empty() && !after.is_empty());
    rows
}
