//! The reconciler on a model of a table, under virtual time.

use std::collections::BTreeMap;

use crds::{RelayConfig, Sink};
use futures::FutureExt;
use futures::future::BoxFuture;
use scylla::value::CqlValue;

use super::*;
use crate::clock::SystemClock;
use crate::ledger::RowKey;
use crate::model::SECOND;
use crate::ports::{DeadLetter, OutboxPage};

/// Rows by slot; pages of one row, and an empty one before each. Every third read fails.
#[derive(Default)]
struct Table {
    rows: Mutex<BTreeMap<SlotId, Vec<OutboxRow>>>,
    reads: Mutex<u32>,
    /// While a row is on its way here, its event is delivered, the row deleted, and the bound swept to this time.
    overtaken: Mutex<Option<(Arc<Mutex<Ledger>>, Micros)>>,
}

impl Outbox for Table {
    fn delete(&self, _: RowKey, _: Micros) -> BoxFuture<'_, Result<(), LogError>> {
        unreachable!("reconciliation deletes nothing")
    }

    fn scan(
        &self,
        tokens: (i64, i64),
        page: Option<PageState>,
        _: i32,
    ) -> BoxFuture<'_, Result<OutboxPage, LogError>> {
        let slot = SlotId::of_token(tokens.0);
        *self.reads.lock() += 1;
        let failed = self.reads.lock().is_multiple_of(3);
        let rows = self.rows.lock().get(&slot).cloned().unwrap_or_default();
        let at = page.map_or(0, |page| usize::from(page.0[0]));
        async move {
            if failed {
                return Err(LogError::Transient("a replica is down".into()));
            }
            let row = rows.get(at / 2).filter(|_| at % 2 == 1).cloned();
            if let Some((ledger, swept)) = self.overtaken.lock().take_if(|_| row.is_some()) {
                self.rows.lock().clear();
                ledger.lock().slot_mut(slot).unwrap().sweep(swept);
            }
            Ok(OutboxPage {
                rows: row.into_iter().collect(),
                next: (at < 2 * rows.len()).then(|| PageState(bytes::Bytes::from(vec![at as u8 + 1]))),
            })
        }
        .boxed()
    }
}

#[derive(Default)]
struct Letters {
    written: Mutex<Vec<DeadLetter>>,
    failures: Mutex<u32>,
}

impl DeadLetters for Letters {
    async fn write(&self, letters: &[DeadLetter]) -> Result<(), DeadLetterError> {
        let mut failures = self.failures.lock();
        if *failures > 0 {
            *failures -= 1;
            return Err(DeadLetterError {
                target: "memory".into(),
                detail: "full".into(),
                fenced: false,
            });
        }
        self.written.lock().extend_from_slice(letters);
        Ok(())
    }
}

fn row(key: u8, written: Option<Micros>) -> OutboxRow {
    let text = |text: &str| Some(CqlValue::Text(text.into()));
    OutboxRow {
        key: Arc::from([key]),
        token: 0,
        values: vec![text(&key.to_string()), text("a"), text("T"), text("{}")],
        written,
    }
}

struct Ground {
    table: Arc<Table>,
    letters: Arc<Letters>,
    reconciler: Reconciler<Letters, SystemClock>,
    clock: Arc<SystemClock>,
}

fn slot() -> SlotId {
    SlotId::of_token(0)
}

/// One slot is ours, its rows are deleted since 1000 s ago, and its bound is 300 s ago.
fn ground(target: impl FnOnce(&Arc<Letters>) -> Target<Letters>) -> Ground {
    let clock = Arc::new(SystemClock::start());
    let (table, letters) = (Arc::new(Table::default()), Arc::new(Letters::default()));
    let ledger = Arc::new(Mutex::new(Ledger::default().with_cleanup()));
    ledger.lock().open(slot(), clock.now() - 1000 * SECOND, []);
    let bound = clock.now() - 300 * SECOND;
    ledger.lock().slot_mut(slot()).unwrap().sweep(bound);
    let reconciler = Reconciler {
        config: Reconcile {
            interval_seconds: 10,
            margin_seconds: 15,
            rows_per_second: 10,
        },
        grace: 185 * SECOND,
        ledger,
        outbox: table.clone(),
        clock: clock.clone(),
        retention: Retention::default(),
        target: target(&letters),
        metrics: Arc::new(Metrics::new().unwrap()),
        board: Board::new(0),
        seed: 0,
    };
    Ground {
        table,
        letters,
        reconciler,
        clock,
    }
}

impl Ground {
    fn fill(&self) {
        let ago = |seconds: Micros| Some(self.clock.now() - seconds * SECOND);
        let rows = [
            row(1, ago(1001)),
            row(2, ago(999)),
            row(3, ago(301)),
            row(4, ago(299)),
            row(5, None),
            row(6, ago(1)),
        ];
        self.table.rows.lock().insert(slot(), rows.to_vec());
    }

    async fn look(&self, seconds: u64) {
        let stop = CancellationToken::new();
        let run = self.reconciler.clone().run(stop.clone());
        let ended = tokio::time::timeout(Duration::from_secs(seconds), run).await;
        assert!(ended.is_err(), "it runs until it is stopped");
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.reconciler.metrics.render();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_never_read_is_handed_over_once_however_often_it_is_seen() {
    let (events, mut handed) = mpsc::channel(100);
    let ground = ground(|_| Target::Lane(events));
    ground.fill();
    ground.look(60).await;
    let mut found = Vec::new();
    while let Ok(batch) = handed.try_recv() {
        found.extend(batch);
    }
    let ids: Vec<_> = found
        .iter()
        .map(|event| {
            event.values[0]
                .as_ref()
                .and_then(CqlValue::as_text)
                .unwrap()
                .as_str()
        })
        .collect();
    assert_eq!(ids, ["2", "3"]);
    assert!(found.iter().all(|event| event.reconciled && event.slot == slot()));
    assert!(ground.metric("outbox_relay_reconcile_slots_total") > 2);
    assert_eq!(
        ground.metric("outbox_relay_reconciled_total{outcome=\"delivered\"}"),
        2
    );
    assert!(ground.metric("outbox_relay_reconcile_undated_rows_total") > 2);
    assert!(
        ground.metric("outbox_relay_reconcile_errors_total") > 2,
        "pages failed"
    );
    // Delivered, and gone from the table, so that another row of the same key may be found.
    let first = &found[0];
    let mut ledger = ground.reconciler.ledger.lock();
    ledger.resolve(slot(), first.time(), first.row_id);
    assert_eq!(ledger.next_due(slot()).map(|(_, due)| due.id), Some(first.row_id));
}

#[tokio::test(start_paused = true)]
async fn exactly_once_makes_dead_letters_of_them_and_tries_until_it_can() {
    let mut config = RelayConfig::default();
    config.sink.topic = "orders".into();
    let sink: &Sink = &config.sink;
    let preparer = Preparer::new(&config.source, sink, |_| false).unwrap();
    let ground = ground(|letters| Target::DeadLetters(letters.clone(), Box::new(preparer)));
    ground.fill();
    *ground.letters.failures.lock() = 1;
    let ended = ground.reconciler.clone().run(CancellationToken::new()).await;
    assert!(matches!(ended, Err(ReconcileError::NotParked(_))), "{ended:?}");
    ground.look(60).await;
    let written = ground.letters.written.lock();
    let told: Vec<_> = written
        .iter()
        .map(|letter| (letter.event_id.as_str(), letter.reason, letter.pending))
        .collect();
    assert_eq!(
        told,
        [("2", Reason::Reconciled, None), ("3", Reason::Reconciled, None)]
    );
    assert_eq!(&*written[0].message.topic, "orders");
    let marked = written[0]
        .message
        .headers
        .iter()
        .any(|(name, _)| &**name == "reconciled");
    assert!(marked, "a replay says where it came from");
    assert_eq!(ground.reconciler.ledger.lock().found_in_flight(), 0);
    assert!(
        ground.reconciler.ledger.lock().next_due(slot()).is_some(),
        "its row goes"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_delivered_and_deleted_while_its_row_is_read_is_not_found() {
    let (events, mut handed) = mpsc::channel(100);
    let ground = ground(|_| Target::Lane(events));
    let ago = |seconds: Micros| ground.clock.now() - seconds * SECOND;
    ground
        .table
        .rows
        .lock()
        .insert(slot(), vec![row(1, Some(ago(250)))]);
    *ground.table.overtaken.lock() = Some((ground.reconciler.ledger.clone(), ago(220)));
    ground.look(30).await;
    assert!(ground.table.overtaken.lock().is_none(), "the row was read");
    assert!(handed.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_slot_of_somebody_else_is_left_alone() {
    let (events, mut handed) = mpsc::channel(100);
    let ground = ground(|_| Target::Lane(events));
    ground.fill();
    ground.reconciler.ledger.lock().close(slot());
    ground.look(60).await;
    assert!(handed.try_recv().is_err());
    assert_eq!(*ground.table.reads.lock(), 0);
}
