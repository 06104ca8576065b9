//! The snapshot on a model of a table, under virtual time.

use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::clock::SystemClock;
use crate::ledger::{RowKey, SNAPSHOT_SECOND, begins_at};
use crate::model::{Micros, RowId};
use crate::ports::{OutboxPage, PageState};

const BOUND: Micros = 1_000_000;

/// Rows in the order of their tokens, in pages of two. Every fourth read fails.
#[derive(Default)]
struct Table {
    rows: Mutex<Vec<OutboxRow>>,
    reads: Mutex<u32>,
    from: Mutex<Vec<i64>>,
}

impl Outbox for Table {
    fn delete(&self, _: RowKey, _: Micros) -> BoxFuture<'_, Result<(), LogError>> {
        unreachable!("a snapshot deletes nothing")
    }

    fn scan(
        &self,
        (first, last): (i64, i64),
        page: Option<PageState>,
        _: i32,
    ) -> BoxFuture<'_, Result<OutboxPage, LogError>> {
        *self.reads.lock() += 1;
        let failed = self.reads.lock().is_multiple_of(4);
        if page.is_none() {
            self.from.lock().push(first);
        }
        let rows = self.rows.lock().clone().into_iter();
        let rows: Vec<_> = rows.filter(|row| (first..=last).contains(&row.token)).collect();
        let at = page.map_or(0, |page| usize::from(page.0[0]));
        async move {
            if failed {
                return Err(LogError::Transient("a replica is down".into()));
            }
            let more = at + 2 < rows.len();
            Ok(OutboxPage {
                rows: rows.into_iter().skip(at).take(2).collect(),
                next: more.then(|| PageState(bytes::Bytes::from(vec![at as u8 + 2]))),
            })
        }
        .boxed()
    }
}

fn row(key: u8, token: i64, written: Option<Micros>) -> OutboxRow {
    OutboxRow {
        key: Arc::from([key]),
        token,
        values: vec![Some(scylla::value::CqlValue::TinyInt(key as i8))],
        written,
    }
}

fn slot() -> SlotId {
    SlotId::of_token(0)
}

struct Ground {
    table: Arc<Table>,
    ledger: Arc<Mutex<Ledger>>,
    events: mpsc::Receiver<Vec<SourceEvent>>,
    commands: mpsc::Receiver<Command>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), SnapshotError>>,
}

/// One slot is ours, and its checkpoint says this.
fn ground(rows: Vec<OutboxRow>, saved: &[RowId]) -> Ground {
    let mut ledger = Ledger::default();
    ledger.open(slot(), BOUND, saved.iter().map(|id| (SNAPSHOT_SECOND, *id)));
    let ledger = Arc::new(Mutex::new(ledger));
    let table = Arc::new(Table::default());
    *table.rows.lock() = rows;
    let (out, events) = mpsc::channel(1);
    let (sender, commands) = mpsc::channel(1);
    let snapshotter = Snapshotter {
        ledger: ledger.clone(),
        outbox: table.clone(),
        clock: Arc::new(SystemClock::start()),
        rows_per_second: 10,
        out,
        commands: sender,
        metrics: Arc::new(Metrics::new().unwrap()),
        board: Board::new(0),
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(snapshotter.run(stop.clone()));
    Ground {
        table,
        ledger,
        events,
        commands,
        stop,
        running,
    }
}

fn first() -> i64 {
    slot().tokens().0
}

/// Keys by one byte, as the events' values show them.
fn keys(events: &[SourceEvent]) -> Vec<i8> {
    let key = |event: &SourceEvent| match event.values[0] {
        Some(scylla::value::CqlValue::TinyInt(key)) => key,
        _ => unreachable!(),
    };
    events.iter().map(key).collect()
}

impl Ground {
    /// The next events, which are delivered at once.
    async fn deliver(&mut self, count: usize) -> Vec<i8> {
        let mut delivered = Vec::new();
        while delivered.len() < count {
            let events = self.events.recv().await.unwrap();
            delivered.extend(keys(&events));
            let mut ledger = self.ledger.lock();
            for event in &events {
                ledger.resolve(event.slot, event.time(), event.row_id);
            }
        }
        delivered
    }

    async fn until_handed_over(&mut self) {
        let command = self.commands.recv().await.unwrap();
        assert!(matches!(command, Command::Add(added) if added == slot()));
        assert!(self.ledger.lock().reading().contains(slot()));
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_written_before_is_delivered_partition_by_partition_and_then_the_log_is_read() {
    let rows = vec![
        row(1, first(), Some(30)),
        row(2, first() + 5, Some(20)),
        // A partition that a page cuts, and whose keys are not in the order of writing.
        row(3, first() + 5, Some(10)),
        row(4, first() + 6, Some(BOUND)),
        row(5, first() + 7, None),
        row(6, slot().tokens().1, Some(BOUND - 1)),
    ];
    let mut ground = ground(rows, &begins_at(first()));
    assert!(!ground.ledger.lock().reading().contains(slot()), "the log waits");
    assert_eq!(ground.deliver(4).await, [1, 3, 2, 6]);
    ground.until_handed_over().await;
    // The checkpoint has to say so.
    let delta = ground.ledger.lock().slot_mut(slot()).unwrap().delta().unwrap();
    assert_eq!(delta.resolved, [(SNAPSHOT_SECOND, vec![])]);
    ground.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_log_waits_until_the_last_event_is_delivered() {
    let mut ground = ground(vec![row(1, first(), Some(1))], &begins_at(first()));
    let events = ground.events.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(ground.commands.try_recv().is_err());
    let event = &events[0];
    ground
        .ledger
        .lock()
        .resolve(event.slot, event.time(), event.row_id);
    ground.until_handed_over().await;
    ground.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_takes_it_over_reads_on_from_there_and_repeats_nothing() {
    let at = |at: u8| row(at, first() + i64::from(at), Some(1));
    let rows: Vec<_> = (0..7).map(at).collect();
    let mut before = ground(rows.clone(), &begins_at(first()));
    let mut events = Vec::new();
    while events.len() < 4 {
        events.extend(before.events.recv().await.unwrap());
    }
    // The third one's acknowledgement does not come.
    let delta = {
        let mut ledger = before.ledger.lock();
        for event in [0, 1, 3].map(|index: usize| &events[index]) {
            ledger.resolve(event.slot, event.time(), event.row_id);
        }
        ledger.slot_mut(slot()).unwrap().delta().unwrap()
    };
    before.end().await;
    let [(SNAPSHOT_SECOND, saved)] = &delta.resolved[..] else {
        unreachable!("{delta:?}")
    };
    assert_eq!(*saved, [RowId((first() + 2) as u64), events[3].row_id]);
    let mut next = ground(rows, saved);
    assert_eq!(next.deliver(4).await, [2, 4, 5, 6]);
    assert_eq!(next.table.from.lock()[0], first() + 2);
    next.until_handed_over().await;
    next.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_given_back_is_read_again() {
    let rows = vec![row(1, first() + 1, Some(1)), row(2, first() + 2, Some(1))];
    let mut ground = ground(rows, &begins_at(first()));
    let events = ground.events.recv().await.unwrap();
    assert_eq!(keys(&events), [1, 2]);
    {
        let mut ledger = ground.ledger.lock();
        let ownership = ledger.ownership(slot());
        ledger.resolve(slot(), events[0].time(), events[0].row_id);
        ledger.release(slot(), ownership, events[1].time(), events[1].row_id);
    }
    assert_eq!(ground.deliver(1).await, [2]);
    assert_eq!(*ground.table.from.lock(), [first(), first() + 2]);
    ground.until_handed_over().await;
    ground.end().await;
}
