//! The deletes on a model of a table, under virtual time.

use std::collections::BTreeSet;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::clock::SystemClock;
use crate::ledger::RowKey;
use crate::model::{RowId, SECOND};
use crate::ports::{OutboxPage, PageState};

/// Refuses so many deletes, then takes them, each within a millisecond.
#[derive(Default)]
struct Table {
    refuses: Mutex<u32>,
    deleted: Mutex<Vec<(u8, Micros)>>,
}

impl Outbox for Table {
    fn delete(&self, key: RowKey, at: Micros) -> BoxFuture<'_, Result<(), LogError>> {
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut refuses = self.refuses.lock();
            if *refuses > 0 {
                *refuses -= 1;
                return Err(LogError::Configuration("no MODIFY permission".into()));
            }
            self.deleted.lock().push((key[0], at));
            Ok(())
        }
        .boxed()
    }

    fn scan(
        &self,
        _: (i64, i64),
        _: Option<PageState>,
        _: i32,
    ) -> BoxFuture<'_, Result<OutboxPage, LogError>> {
        unreachable!("deletes read nothing")
    }
}

/// Rows 0 to 249 are due, in two slots; the last was written by a clock that is 3 s ahead.
fn ground() -> (Arc<Table>, Cleanup<SystemClock>, Micros) {
    let (table, clock) = (Arc::new(Table::default()), Arc::new(SystemClock::start()));
    let now = clock.now();
    let mut ledger = Ledger::default().with_cleanup();
    let slots = [SlotId::of_token(i64::MIN), SlotId::of_token(i64::MAX)];
    slots.iter().for_each(|slot| ledger.open(*slot, now - SECOND, []));
    for id in 0..250_u8 {
        let time = if id == 249 { now + 3 * SECOND } else { now };
        let (slot, row) = (slots[usize::from(id % 2)], RowId(id.into()));
        ledger.take(slot, time, row);
        ledger.keep(slot, time, row, &Arc::from([id]));
        ledger.resolve(slot, time, row);
    }
    for slot in slots {
        let owned = ledger.slot_mut(slot).unwrap();
        let delta = owned.delta().unwrap();
        owned.saved(&delta);
    }
    let cleanup = Cleanup {
        ledger: Arc::new(Mutex::new(ledger)),
        outbox: table.clone(),
        clock,
        retention: Retention::default(),
        deletes_per_second: 100,
        polled: false,
        ramp: Duration::ZERO,
        metrics: Arc::new(Metrics::new().unwrap()),
        board: Board::new(0),
    };
    cleanup.board.add(Part::Cleanup, 0);
    (table, cleanup, now)
}

async fn run(cleanup: &Cleanup<SystemClock>, time: Duration) {
    let run = cleanup.clone().run(CancellationToken::new());
    assert!(tokio::time::timeout(time, run).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_is_due_is_deleted_once_and_at_the_rate() {
    let (table, cleanup, written) = ground();
    run(&cleanup, Duration::from_secs(1)).await;
    let count = table.deleted.lock().len();
    assert!((90..=110).contains(&count), "{count} in the first second");
    run(&cleanup, Duration::from_secs(3)).await;
    let deleted = table.deleted.lock();
    let ids: BTreeSet<_> = deleted.iter().map(|(id, _)| *id).collect();
    assert_eq!((deleted.len(), ids.len()), (250, 250));
    let last = deleted.iter().find(|(id, _)| *id == 249).unwrap();
    assert!(last.1 >= written + 3 * SECOND, "no earlier than it was written");
    assert_eq!(cleanup.ledger.lock().undeleted(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_until_it_is_gone_and_said() {
    let (table, cleanup, _) = ground();
    *table.refuses.lock() = 6;
    run(&cleanup, Duration::from_millis(60)).await;
    let part = cleanup.board.part(Part::Cleanup).unwrap();
    assert_eq!(part.reason, Some("SourceConfiguration"), "{part:?}");
    assert!(part.message.unwrap().contains("no MODIFY permission"));
    run(&cleanup, Duration::from_secs(20)).await;
    assert_eq!(
        (table.deleted.lock().len(), cleanup.ledger.lock().undeleted()),
        (250, 0)
    );
    let part = cleanup.board.part(Part::Cleanup).unwrap();
    assert_eq!(part.message, None, "{part:?}");
    let metrics = cleanup.metrics.render();
    let errors = "outbox_relay_outbox_delete_errors_total{category=\"SourceConfiguration\"} 6";
    assert!(metrics.contains(errors), "{metrics}");
}
