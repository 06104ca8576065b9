//! A sandbox with an outbox table, what was written to it, and readers of its log.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use relay::cdc_log::ScyllaLog;
use relay::cdc_log::table::OutboxTable;
use relay::clock::SystemClock;
use relay::event::SourceEvent;
use relay::health::{Board, Part};
use relay::ledger::Ledger;
use relay::metrics::Metrics;
use relay::model::{Micros, SECOND, SlotSet};
use relay::ports::Clock;
use relay::source::limiter::Limits;
use relay::source::reader::{Command, Reader};
use relay::source::record::Rules;
use relay::source::retention::Retention;
use relay::source::tail::Config;
use sandbox::Sandbox;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;
use scylla::value::CqlValue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const AGGREGATES: i32 = 40;

/// Short, so that sweeping shows within a test.
const HORIZON: Micros = 4 * SECOND;

const INSERT: &str = "INSERT INTO shop.outbox (aggregate_id, sequence, payload) VALUES (?, ?, ?)";

pub(crate) fn now() -> Micros {
    SystemClock::start().now()
}

pub(crate) struct Scene {
    pub(crate) sandbox: Sandbox,
    pub(crate) session: Arc<Session>,
    /// Events written, by aggregate: their sequence numbers count from 0.
    pub(crate) written: HashMap<i32, i32>,
    pub(crate) reading: Reading,
}

/// A reader, and what it works with.
pub(crate) struct Reading {
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) board: Board,
    pub(crate) commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Vec<SourceEvent>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// What came of each aggregate: its sequence numbers in order of arrival, and which of them were late.
#[derive(Default, Debug)]
pub(crate) struct Arrived {
    pub(crate) sequences: BTreeMap<i32, Vec<i32>>,
    pub(crate) late: Vec<(i32, i32)>,
    delays: Vec<Duration>,
}

impl Arrived {
    fn add(&mut self, event: &SourceEvent, now: Micros) {
        let int = |value: &Option<CqlValue>| value.as_ref().and_then(CqlValue::as_int).unwrap();
        let (aggregate, sequence) = (int(&event.values[0]), int(&event.values[1]));
        self.sequences.entry(aggregate).or_default().push(sequence);
        self.delays
            .push(Duration::from_micros((now - event.time()).max(0) as u64));
        if event.late {
            self.late.push((aggregate, sequence));
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.sequences.values().map(Vec::len).sum()
    }

    #[track_caller]
    pub(crate) fn check(&self, written: &HashMap<i32, i32>) {
        for (aggregate, count) in written {
            let arrived = self.sequences.get(aggregate).cloned().unwrap_or_default();
            let mut sorted = arrived.clone();
            sorted.sort_unstable();
            assert_eq!(
                sorted,
                (0..*count).collect::<Vec<_>>(),
                "aggregate {aggregate}: lost or repeated"
            );
            let in_time: Vec<_> = arrived
                .iter()
                .copied()
                .filter(|s| !self.late.contains(&(*aggregate, *s)))
                .collect();
            assert!(in_time.is_sorted(), "aggregate {aggregate}: {in_time:?}");
        }
    }

    pub(crate) fn percentile(&mut self, percent: usize) -> Duration {
        self.delays.sort_unstable();
        self.delays[(self.delays.len() - 1) * percent / 100]
    }
}

impl Reading {
    /// Reads the slots from a minute ago.
    pub(crate) async fn start(session: &Arc<Session>, slots: SlotSet, clock: impl Clock) -> Self {
        let mut ledger = Ledger::default();
        for slot in slots.iter() {
            ledger.open(slot, now() - 60 * SECOND, []);
        }
        Self::with(session, ledger, Rules::default(), clock).await
    }

    pub(crate) async fn with(
        session: &Arc<Session>,
        ledger: Ledger,
        rules: Rules,
        clock: impl Clock,
    ) -> Self {
        let ledger = Arc::new(Mutex::new(ledger));
        let metrics = Arc::new(Metrics::new().unwrap());
        let (out, events) = mpsc::channel(16);
        let (commands, receiver) = mpsc::channel(16);
        let table = OutboxTable::read(session, "shop", "outbox")
            .await
            .unwrap()
            .unwrap();
        let mapped = ["aggregate_id", "sequence", "payload"].map(str::to_owned);
        let log = ScyllaLog::open(session.clone(), &table, &mapped, Consistency::LocalQuorum)
            .await
            .unwrap();
        let board = Board::new(now());
        let reader = Reader {
            log: Arc::new(log),
            ledger: ledger.clone(),
            tail: Config {
                horizon: HORIZON,
                duplicate_window: 0,
                rules,
                id_column: None,
            },
            limits: Limits {
                max_in_flight: 32,
                queries_per_second: 4000,
                ramp: Duration::ZERO,
            },
            retention: Retention::new(table.cdc.ttl),
            out,
            commands: Arc::new(tokio::sync::Mutex::new(receiver)),
            metrics: metrics.clone(),
            board: board.clone(),
            clock: Arc::new(clock),
        };
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        Self {
            ledger,
            metrics,
            board,
            commands,
            events,
            stop,
            task: tokio::spawn(async move { reader.run(stopping).await.unwrap() }),
        }
    }

    /// The next batch, acknowledged; None if there is none within `patience`.
    pub(crate) async fn next(&mut self, patience: Duration) -> Option<Vec<SourceEvent>> {
        let events = tokio::time::timeout(patience, self.events.recv()).await.ok()??;
        let mut ledger = self.ledger.lock();
        for event in &events {
            ledger.resolve(event.slot, event.time(), event.row_id);
        }
        Some(events)
    }

    /// The ledger of whoever takes the slots over from a checkpoint of now.
    pub(crate) fn handed_over(&self) -> Ledger {
        let (mut ledger, mut next) = (self.ledger.lock(), Ledger::default());
        for slot in ledger.owned().iter() {
            let owned = ledger.slot_mut(slot).unwrap();
            let ids = owned.delta().map(|delta| delta.resolved).unwrap_or_default();
            let ids = ids
                .into_iter()
                .flat_map(|(second, ids)| ids.into_iter().map(move |id| (second, id)));
            next.open(slot, owned.bound(), ids);
        }
        next
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    pub(crate) fn lowest_bound(&self) -> Micros {
        let ledger = self.ledger.lock();
        let bounds = ledger.owned().iter().filter_map(|slot| ledger.slot(slot));
        bounds.map(|slot| slot.bound()).min().unwrap()
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        let values = text.lines().filter(|line| line.starts_with(name));
        values
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until health says of the source what is asked for; None is that all is well.
    pub(crate) async fn source_says(&self, expected: Option<&str>) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let message = self.board.part(Part::Source).unwrap().message;
            let says = match (expected, &message) {
                (None, None) => true,
                (Some(expected), Some(message)) => message.contains(expected),
                _ => false,
            };
            if says {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "expected {expected:?}, not {message:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Scene {
    pub(crate) async fn new(tablets: bool) -> Self {
        Self::with(tablets, "'enabled': true", Rules::default()).await
    }

    pub(crate) async fn with(tablets: bool, cdc: &str, rules: Rules) -> Self {
        let (sandbox, session) = database(tablets, cdc).await;
        let mut ledger = Ledger::default();
        for slot in SlotSet::ALL.iter() {
            ledger.open(slot, now() - 60 * SECOND, []);
        }
        Self {
            reading: Reading::with(&session, ledger, rules, SystemClock::start()).await,
            sandbox,
            session,
            written: HashMap::new(),
        }
    }

    pub(crate) async fn cql(&self, text: &str) {
        self.session.query_unpaged(text, ()).await.expect(text);
    }

    /// Writes the next event of each of `count` aggregates in turn.
    pub(crate) async fn write(&mut self, count: i32) {
        let written = std::mem::take(&mut self.written);
        self.written = write(self.session.clone(), count, Duration::ZERO, written).await;
    }

    /// Takes and acknowledges events until all that were written are there, at most for `patience`.
    pub(crate) async fn arrive(&mut self, arrived: &mut Arrived, patience: Duration) {
        let all: i32 = self.written.values().sum();
        let deadline = Instant::now() + patience;
        while arrived.count() < all as usize && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(events) = self.reading.next(left).await else {
                return;
            };
            let now = now();
            events.iter().for_each(|event| arrived.add(event, now));
        }
    }

    /// Writes while events arrive.
    pub(crate) async fn write_and_arrive(&mut self, count: i32, pause: Duration, arrived: &mut Arrived) {
        let written = std::mem::take(&mut self.written);
        let writing = tokio::spawn(write(self.session.clone(), count, pause, written));
        while !writing.is_finished() {
            self.written = HashMap::from([(0, i32::MAX)]);
            self.arrive(arrived, Duration::from_millis(50)).await;
        }
        self.written = writing.await.unwrap();
    }

    pub(crate) async fn end(self) {
        self.reading.end().await;
        self.sandbox.stop().await;
    }
}

/// A sandbox with an empty outbox table.
pub(crate) async fn database(tablets: bool, cdc: &str) -> (Sandbox, Arc<Session>) {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let session = SessionBuilder::new()
        .known_node(sandbox.addr().to_string())
        .build()
        .await
        .unwrap();
    make(&session, tablets, cdc).await;
    (sandbox, Arc::new(session))
}

/// The outbox table and its keyspace.
pub(crate) async fn make(session: &Session, tablets: bool, cdc: &str) {
    for text in [
        format!(
            "CREATE KEYSPACE shop WITH replication = {{'class': 'NetworkTopologyStrategy', \
             'replication_factor': 1}} AND tablets = {{'enabled': {tablets}}}"
        ),
        format!(
            "CREATE TABLE shop.outbox (aggregate_id int, sequence int, payload text, \
             PRIMARY KEY (aggregate_id, sequence)) WITH cdc = {{{cdc}}}"
        ),
    ] {
        session.query_unpaged(text, ()).await.unwrap();
    }
}

/// Writes the next event of each of `count` aggregates in turn, one every `pause`; returns what is written then.
pub(crate) async fn write(
    session: Arc<Session>,
    count: i32,
    pause: Duration,
    mut written: HashMap<i32, i32>,
) -> HashMap<i32, i32> {
    let insert = session.prepare(INSERT).await.unwrap();
    let mut ticks = tokio::time::interval(pause.max(Duration::from_micros(1)));
    for i in 0..count {
        if !pause.is_zero() {
            ticks.tick().await;
        }
        let sequence = written.entry(i % AGGREGATES).or_default();
        let values = (i % AGGREGATES, *sequence, "x".repeat(300));
        session.execute_unpaged(&insert, values).await.unwrap();
        *sequence += 1;
    }
    written
}

/// Takes what several readers hand over until there are `count` events, and whatever follows at once; at most for
/// `patience`.
pub(crate) async fn arrive_from(
    readings: &mut [Reading],
    arrived: &mut Arrived,
    count: usize,
    patience: Duration,
) {
    let deadline = Instant::now() + patience;
    let mut quiet = 0;
    while Instant::now() < deadline && (arrived.count() < count || quiet < 20) {
        quiet += 1;
        for reading in readings.iter_mut() {
            if let Some(events) = reading.next(Duration::from_millis(10)).await {
                events.iter().for_each(|event| arrived.add(event, now()));
                quiet = 0;
            }
        }
    }
}
