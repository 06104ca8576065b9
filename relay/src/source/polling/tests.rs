//! The poller on a model of a table, with the task that deletes, under virtual time.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use scylla::value::CqlValue;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::*;
use crate::cleanup::Cleanup;
use crate::clock::SystemClock;
use crate::health::{Board, Part};
use crate::ledger::{Ledger, RowKey};
use crate::metrics::Metrics;
use crate::model::{SECOND, SlotSet};
use crate::ports::{LogPage, LogQuery, PageState, StreamSet};
use crate::source::reader::Command;
use crate::source::record::Rules;
use crate::source::retention::Retention;
use crate::source::tail::Config;

const EVERY: Duration = Duration::from_secs(5);

/// The written time of rows, from which tests count.
const AT: Micros = 1_700_000_000 * SECOND;

/// Rows by token, which is their partition, and key; value: the write time and the event's id.
#[derive(Default)]
struct Table {
    rows: Mutex<BTreeMap<(i64, u8), (Micros, i32)>>,
    /// How long a page with rows is under way after it was read; the others are not to be in its way.
    page_takes: Mutex<Duration>,
    /// Rows on a page.
    page_rows: usize,
}

impl Table {
    fn insert(&self, token: i64, key: u8, written: Micros) {
        let id = i32::from(key);
        self.rows.lock().insert((token, key), (written, id));
    }
}

fn key(token: i64, key: u8) -> RowKey {
    token.to_be_bytes().into_iter().chain([key]).collect()
}

impl Outbox for Table {
    fn delete(&self, row: RowKey, at: Micros) -> BoxFuture<'_, Result<(), LogError>> {
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.rows
                .lock()
                .retain(|(token, number), (written, _)| key(*token, *number) != row || *written > at);
            Ok(())
        }
        .boxed()
    }

    fn scan(
        &self,
        tokens: (i64, i64),
        page: Option<PageState>,
        _: i32,
    ) -> BoxFuture<'_, Result<OutboxPage, LogError>> {
        let slot = SlotId::of_token(tokens.0);
        async move {
            let (first, last) = slot.tokens();
            let skip: usize = page.map_or(0, |page| usize::from(page.0[0]));
            let (rows, more) = {
                let rows = self.rows.lock();
                let all = rows.range((first, 0)..=(last, u8::MAX));
                let all: Vec<_> = all.skip(skip).map(|(at, row)| (*at, *row)).collect();
                let more = all.len() > self.page_rows;
                (all.into_iter().take(self.page_rows), more)
            };
            if rows.len() > 0 {
                let takes = *self.page_takes.lock();
                tokio::time::sleep(takes).await;
            }
            let rows = rows.map(|((token, number), (written, id))| OutboxRow {
                key: key(token, number),
                token,
                values: vec![Some(CqlValue::Int(id))],
                written: Some(written),
            });
            Ok(OutboxPage {
                rows: rows.collect(),
                next: more.then(|| PageState(vec![(skip + self.page_rows) as u8].into())),
            })
        }
        .boxed()
    }
}

/// Tells the time of rows.
struct Time;

impl ChangeLog for Time {
    async fn stream_sets(&self) -> Result<Vec<StreamSet>, LogError> {
        Ok(Vec::new())
    }

    async fn read(&self, _: LogQuery) -> Result<LogPage, LogError> {
        Err(LogError::Configuration(String::new()))
    }
}

struct Scene {
    table: Arc<Table>,
    ledger: Arc<Mutex<Ledger>>,
    poller: Poller<Time, SystemClock>,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Vec<SourceEvent>>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Scene {
    /// All slots are open from `bound` on, and rows are deleted.
    fn new(bound: Micros) -> Self {
        let mut ledger = Ledger::default().with_cleanup();
        SlotId::all().for_each(|slot| ledger.open(slot, bound, []));
        let ledger = Arc::new(Mutex::new(ledger));
        let table = Arc::new(Table {
            page_rows: 4,
            ..Table::default()
        });
        let (out, events) = mpsc::channel(8);
        let (commands, obeyed) = mpsc::channel(8);
        let clock = Arc::new(SystemClock::start());
        let with = Reader {
            log: Arc::new(Time),
            clock: clock.clone(),
            ledger: ledger.clone(),
            tail: Config {
                horizon: SECOND,
                duplicate_window: 60 * SECOND,
                rules: Rules {
                    forward_changes: false,
                    own_deletes: true,
                    required: 0,
                    from_postimage: false,
                },
                id_column: Some(0),
            },
            limits: Limits {
                max_in_flight: 32,
                queries_per_second: 1000,
                ramp: Duration::ZERO,
            },
            retention: Retention::default(),
            out,
            commands: Arc::new(tokio::sync::Mutex::new(obeyed)),
            metrics: Arc::new(Metrics::new().unwrap()),
            board: Board::new(0),
        };
        with.board.add(Part::Cleanup, 0);
        with.board.add(Part::Source, 0);
        let poller = Poller {
            with,
            outbox: table.clone(),
            interval: EVERY,
            seed: 0,
        };
        let mut scene = Self {
            table,
            ledger,
            poller,
            commands,
            events,
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
        };
        scene.start();
        scene
    }

    fn start(&mut self) {
        let cleanup = Cleanup {
            ledger: self.ledger.clone(),
            outbox: self.table.clone(),
            clock: self.poller.with.clock.clone(),
            retention: Retention::default(),
            deletes_per_second: 1000,
            polled: true,
            ramp: Duration::ZERO,
            metrics: self.poller.with.metrics.clone(),
            board: self.poller.with.board.clone(),
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move { cleanup.run(stop).await.unwrap() });
        let (poller, stop) = (self.poller.clone(), self.stop.clone());
        self.tasks.spawn(async move { poller.run(stop).await.unwrap() });
    }

    /// What is handed over within this time; each event is delivered at once.
    async fn delivered(&mut self, within: Duration) -> Vec<(i64, i32, bool)> {
        let events = self.handed(within).await;
        let mut ledger = self.ledger.lock();
        for event in &events {
            assert_eq!(
                ledger.known(event.slot, event.time(), event.row_id),
                crate::ledger::Known::Taken,
                "the lane delivers no other"
            );
            ledger.resolve(event.slot, event.time(), event.row_id);
        }
        let id = |event: &SourceEvent| match event.values[0] {
            Some(CqlValue::Int(id)) => id,
            _ => unreachable!(),
        };
        events
            .iter()
            .map(|event| (event.token, id(event), event.late))
            .collect()
    }

    async fn handed(&mut self, within: Duration) -> Vec<SourceEvent> {
        let mut events = Vec::new();
        let deadline = tokio::time::Instant::now() + within;
        while let Ok(batch) = tokio::time::timeout_at(deadline, self.events.recv()).await {
            events.extend(batch.unwrap());
        }
        events
    }

    fn rows(&self) -> usize {
        self.table.rows.lock().len()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_table_is_delivered_once_in_order_and_then_gone() {
    let mut scene = Scene::new(0);
    // Partitions larger than a page, in one slot and another; keys do not follow the write times.
    for (number, token) in [7, 8, i64::MAX].into_iter().enumerate() {
        for key in 0..6_u8 {
            let (key, at) = (key + 6 * number as u8, Micros::from(5 - key) * SECOND);
            scene.table.insert(token, key, AT + at);
        }
    }
    let delivered = scene.delivered(2 * EVERY).await;
    let expected = [7, 8, i64::MAX]
        .into_iter()
        .enumerate()
        .flat_map(|(number, token)| {
            (0..6)
                .rev()
                .map(move |key| (token, key + 6 * number as i32, false))
        });
    assert_eq!(delivered, expected.collect::<Vec<_>>());
    assert_eq!(scene.delivered(3 * EVERY).await, [], "each once");
    assert_eq!((scene.rows(), scene.ledger.lock().undeleted()), (0, 0));
    let slot = SlotId::of_token(7);
    let bound = scene.ledger.lock().slot(slot).unwrap().bound();
    assert!(bound > AT, "a reader of the log would begin after them");
}

#[tokio::test(start_paused = true)]
async fn a_row_on_a_page_that_is_older_than_its_delete_is_not_delivered_again() {
    let mut scene = Scene::new(0);
    scene.table.insert(7, 1, AT);
    let events = scene.handed(EVERY).await;
    assert_eq!(events.len(), 1);
    *scene.table.page_takes.lock() = Duration::from_secs(30);
    // The next page has the row; it is delivered and deleted before that page arrives.
    tokio::time::sleep(2 * EVERY).await;
    let event = &events[0];
    scene
        .ledger
        .lock()
        .resolve(event.slot, event.time(), event.row_id);
    tokio::time::sleep(EVERY).await;
    assert_eq!(scene.rows(), 0);
    *scene.table.page_takes.lock() = Duration::ZERO;
    assert_eq!(scene.delivered(Duration::from_secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_waits_for_the_next_page_while_it_is_deleted_is_not_delivered_again() {
    let mut scene = Scene::new(0);
    for key in 1..=6 {
        scene.table.insert(7, key, AT + Micros::from(key));
    }
    let events = scene.handed(EVERY).await;
    assert_eq!(events.len(), 6);
    *scene.table.page_takes.lock() = Duration::from_secs(30);
    // The next look has read a page of them, and is about to read the other, when they are delivered and deleted.
    tokio::time::sleep(2 * EVERY).await;
    for event in &events {
        let mut ledger = scene.ledger.lock();
        ledger.resolve(event.slot, event.time(), event.row_id);
    }
    tokio::time::sleep(EVERY).await;
    assert_eq!(scene.rows(), 0);
    *scene.table.page_takes.lock() = Duration::ZERO;
    assert_eq!(scene.delivered(Duration::from_secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn what_shows_up_after_its_successor_is_late() {
    let mut scene = Scene::new(0);
    scene.table.insert(7, 2, AT + 9);
    assert_eq!(scene.delivered(EVERY).await, [(7, 2, false)]);
    scene.table.insert(7, 1, AT + 8);
    scene.table.insert(8, 3, AT + 8);
    scene.table.insert(7, 4, AT + 10);
    let delivered = scene.delivered(2 * EVERY).await;
    assert_eq!(delivered, [(7, 1, true), (7, 4, false), (8, 3, false)]);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_nobody_delivered_is_found_again() {
    let mut scene = Scene::new(0);
    scene.table.insert(7, 1, AT);
    let events = scene.handed(EVERY).await;
    assert!(scene.handed(3 * EVERY).await.is_empty(), "it is on its way");
    let event = &events[0];
    scene
        .ledger
        .lock()
        .release(event.slot, event.ownership, event.time(), event.row_id);
    assert_eq!(scene.delivered(2 * EVERY).await, [(7, 1, false)]);
}

#[tokio::test(start_paused = true)]
async fn a_second_row_of_an_event_and_a_row_from_before_the_start_are_not_delivered() {
    let mut scene = Scene::new(AT);
    scene.table.insert(7, 1, AT - 1);
    scene.table.insert(7, 2, AT);
    scene.table.rows.lock().insert((7, 3), (AT + 1, 2));
    assert_eq!(scene.delivered(EVERY).await, [(7, 2, false)]);
    assert_eq!(scene.delivered(2 * EVERY).await, []);
    assert_eq!(scene.rows(), 1, "what may have been delivered by others is left");
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_slot_is_handed_over_once_it_was_given_up() {
    let mut scene = Scene::new(0);
    *scene.table.page_takes.lock() = Duration::from_secs(1);
    let slots: SlotSet = [SlotId::of_token(7)].into_iter().collect();
    scene.table.insert(7, 1, AT);
    tokio::time::sleep(EVERY).await;
    while scene.events.try_recv().is_ok() {}
    scene.table.insert(7, 2, AT + 1);
    let (done, obeyed) = oneshot::channel();
    scene.commands.send(Command::Remove(slots, done)).await.unwrap();
    obeyed.await.unwrap();
    assert!(scene.handed(3 * EVERY).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_is_open_pauses_the_looks() {
    let mut scene = Scene::new(0);
    scene.commands.send(Command::Pause).await.unwrap();
    tokio::time::sleep(EVERY).await;
    scene.table.insert(7, 1, AT);
    assert!(scene.handed(3 * EVERY).await.is_empty());
    scene.commands.send(Command::Resume).await.unwrap();
    assert_eq!(scene.delivered(2 * EVERY).await, [(7, 1, false)]);
}

/// The end waits for the deletes of what was delivered: the next owner would deliver it again.
#[tokio::test(start_paused = true)]
async fn what_was_delivered_before_the_end_is_deleted_before_the_end() {
    let mut scene = Scene::new(0);
    scene.table.insert(7, 1, AT);
    let events = scene.handed(EVERY).await;
    for event in &events {
        scene
            .ledger
            .lock()
            .resolve(event.slot, event.time(), event.row_id);
    }
    scene.stop.cancel();
    while scene.tasks.join_next().await.is_some() {}
    assert_eq!((events.len(), scene.rows()), (1, 0));
}
