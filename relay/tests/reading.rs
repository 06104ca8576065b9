//! The reader on a real driver and the sandbox's log: nothing lost, each aggregate in order, whatever the log does.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use relay::cdc_log::ScyllaLog;
use relay::cdc_log::table::OutboxTable;
use relay::clock::SystemClock;
use relay::event::SourceEvent;
use relay::health::Board;
use relay::ledger::Ledger;
use relay::metrics::Metrics;
use relay::model::{Micros, SECOND, SlotId};
use relay::ports::Clock;
use relay::source::limiter::Limits;
use relay::source::reader::{Command, Reader};
use relay::source::record::Rules;
use relay::source::retention::Retention;
use relay::source::tail::Config;
use sandbox::Sandbox;
use sandbox::cdc::generations::SwitchDelays;
use sandbox::cdc::tablets::TabletChange;
use sandbox::fault::rule::{ErrorName, Rule};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlValue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const AGGREGATES: i32 = 40;

/// Short, so that sweeping shows within a test.
const HORIZON: Micros = 4 * SECOND;

struct Scene {
    sandbox: Sandbox,
    session: Arc<Session>,
    insert: PreparedStatement,
    ledger: Arc<Mutex<Ledger>>,
    metrics: Arc<Metrics>,
    events: mpsc::Receiver<Vec<SourceEvent>>,
    stop: CancellationToken,
    reader: tokio::task::JoinHandle<()>,
    commands: mpsc::Sender<Command>,
    written: HashMap<i32, i32>,
}

/// What came of each aggregate: its sequence numbers in order of arrival, and which of them were late.
#[derive(Default, Debug)]
struct Arrived {
    sequences: BTreeMap<i32, Vec<i32>>,
    late: Vec<(i32, i32)>,
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

    fn count(&self) -> usize {
        self.sequences.values().map(Vec::len).sum()
    }

    #[track_caller]
    fn check(&self, written: &HashMap<i32, i32>) {
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

    fn percentile(&mut self, percent: usize) -> Duration {
        self.delays.sort_unstable();
        self.delays[(self.delays.len() - 1) * percent / 100]
    }
}

impl Scene {
    async fn new(tablets: bool) -> Self {
        let sandbox = Sandbox::builder().start().await.unwrap();
        let session = SessionBuilder::new()
            .known_node(sandbox.addr().to_string())
            .build()
            .await
            .unwrap();
        let session = Arc::new(session);
        for text in [
            &format!(
                "CREATE KEYSPACE shop WITH replication = {{'class': 'NetworkTopologyStrategy', \
                 'replication_factor': 1}} AND tablets = {{'enabled': {tablets}}}"
            ),
            "CREATE TABLE shop.outbox (aggregate_id int, sequence int, payload text, \
             PRIMARY KEY (aggregate_id, sequence)) WITH cdc = {'enabled': true}",
        ] {
            session.query_unpaged(text, ()).await.unwrap();
        }
        let text = "INSERT INTO shop.outbox (aggregate_id, sequence, payload) VALUES (?, ?, ?)";
        let insert = session.prepare(text).await.unwrap();
        let clock = SystemClock::start();
        let mut ledger = Ledger::default();
        for slot in SlotId::all() {
            ledger.open(slot, clock.now() - 60 * SECOND, []);
        }
        let ledger = Arc::new(Mutex::new(ledger));
        let metrics = Arc::new(Metrics::new().unwrap());
        let (out, events) = mpsc::channel(16);
        let (commands, receiver) = mpsc::channel(16);
        let table = OutboxTable::read(&session, "shop", "outbox")
            .await
            .unwrap()
            .unwrap();
        assert_eq!((table.tablets, table.cdc.enabled), (tablets, true));
        let mapped = ["aggregate_id", "sequence", "payload"].map(str::to_owned);
        let log = ScyllaLog::open(session.clone(), &table, &mapped, Consistency::LocalQuorum)
            .await
            .unwrap();
        let reader = Reader {
            log: Arc::new(log),
            ledger: ledger.clone(),
            tail: Config {
                horizon: HORIZON,
                duplicate_window: 0,
                rules: Rules::default(),
                id_column: None,
            },
            limits: Limits {
                max_in_flight: 32,
                queries_per_second: 4000,
                ramp: Duration::ZERO,
            },
            retention: Retention {
                ttl: table.cdc.ttl.map(|ttl| ttl.as_micros() as Micros),
            },
            out,
            commands: Arc::new(tokio::sync::Mutex::new(receiver)),
            metrics: metrics.clone(),
            board: Board::new(clock.now()),
            clock: Arc::new(clock),
        };
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let reader = tokio::spawn(async move { reader.run(stopping).await.unwrap() });
        Self {
            sandbox,
            session,
            insert,
            ledger,
            metrics,
            events,
            stop,
            reader,
            commands,
            written: HashMap::new(),
        }
    }

    /// Writes the next event of each of `count` aggregates in turn, one every `pause`.
    async fn write(&mut self, count: i32, pause: Duration) {
        let mut ticks = tokio::time::interval(pause.max(Duration::from_micros(1)));
        for i in 0..count {
            if !pause.is_zero() {
                ticks.tick().await;
            }
            let sequence = self.written.entry(i % AGGREGATES).or_default();
            let values = (i % AGGREGATES, *sequence, "x".repeat(300));
            self.session.execute_unpaged(&self.insert, values).await.unwrap();
            *sequence += 1;
        }
    }

    /// Takes and acknowledges events until all that were written are there, at most for `patience`.
    async fn arrive(&mut self, arrived: &mut Arrived, patience: Duration) {
        let all: i32 = self.written.values().sum();
        let deadline = Instant::now() + patience;
        while arrived.count() < all as usize && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(Some(events)) = tokio::time::timeout(left, self.events.recv()).await else {
                return;
            };
            let now = SystemClock::start().now();
            let mut ledger = self.ledger.lock();
            for event in events {
                arrived.add(&event, now);
                ledger.resolve(event.slot, event.time(), event.row_id);
            }
        }
    }

    /// Writes while events arrive.
    async fn write_and_arrive(&mut self, count: i32, pause: Duration, arrived: &mut Arrived) {
        let (session, insert) = (self.session.clone(), self.insert.clone());
        let mut written = std::mem::take(&mut self.written);
        let writing = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(pause);
            for i in 0..count {
                ticks.tick().await;
                let sequence = written.entry(i % AGGREGATES).or_default();
                let values = (i % AGGREGATES, *sequence, "x".repeat(300));
                session.execute_unpaged(&insert, values).await.unwrap();
                *sequence += 1;
            }
            written
        });
        while !writing.is_finished() {
            self.written = HashMap::from([(0, i32::MAX)]);
            self.arrive(arrived, Duration::from_millis(50)).await;
        }
        self.written = writing.await.unwrap();
    }

    async fn end(self) {
        self.stop.cancel();
        self.reader.await.unwrap();
        self.sandbox.stop().await;
    }

    fn lowest_bound(&self) -> Micros {
        let ledger = self.ledger.lock();
        let bounds = SlotId::all().map(|slot| ledger.slot(slot).unwrap().bound());
        bounds.min().unwrap()
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        let values = text.lines().filter(|line| line.starts_with(name));
        values
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_in_milliseconds_and_in_order() {
    for tablets in [false, true] {
        let mut scene = Scene::new(tablets).await;
        let mut arrived = Arrived::default();
        scene
            .write_and_arrive(3000, Duration::from_millis(1), &mut arrived)
            .await;
        scene.arrive(&mut arrived, Duration::from_secs(5)).await;
        arrived.check(&scene.written);
        let (p50, p99) = (arrived.percentile(50), arrived.percentile(99));
        eprintln!(
            "tablets {tablets}: p50 {p50:?} p99 {p99:?}, {} queries, {} rows, {} known, {} partitions",
            scene.metric("outbox_relay_cql_queries_total"),
            scene.metric("outbox_relay_log_rows_total"),
            scene.metric("outbox_relay_known_rows_total"),
            scene.metric("outbox_relay_partitions_touched_total"),
        );
        assert!(p50 < Duration::from_millis(100), "p50 {p50:?}, p99 {p99:?}");
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_follow_what_is_swept_and_resolved() {
    let mut scene = Scene::new(false).await;
    scene.write(400, Duration::ZERO).await;
    let mut arrived = Arrived::default();
    scene.arrive(&mut arrived, Duration::from_secs(10)).await;
    let written = SystemClock::start().now();
    arrived.check(&scene.written);
    let deadline = Instant::now() + Duration::from_secs(30);
    let bound = loop {
        let bound = scene.lowest_bound();
        if bound > written || Instant::now() > deadline {
            break bound;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(bound > written, "{} s behind", (written - bound) / SECOND);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_rows_hidden_rows_and_errors_lose_nothing() {
    let mut scene = Scene::new(false).await;
    // Late rows that are also hidden from the horizon's sweep would not have been readable within the horizon, so the
    // faults end before it begins.
    let faults = scene.sandbox.faults();
    for rule in [
        Rule::late_log_rows(Duration::from_millis(700)).share_percent(5),
        Rule::missing_rows().table("*_scylla_cdc_log").share_percent(10),
        Rule::error(ErrorName::Overloaded)
            .statement("SELECT*_scylla_cdc_log*")
            .share_percent(5),
    ] {
        faults.add(rule).unwrap();
    }
    let mut arrived = Arrived::default();
    scene
        .write_and_arrive(4000, Duration::from_millis(1), &mut arrived)
        .await;
    scene.sandbox.faults().clear();
    scene.arrive(&mut arrived, Duration::from_secs(20)).await;
    arrived.check(&scene.written);
    assert!(
        !arrived.late.is_empty(),
        "rows that surfaced 700 ms late were overtaken"
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_generation_and_a_tablet_split_keep_the_order() {
    let second = |n: i64| n * SECOND;
    for (tablets, publish, learn) in [
        (false, 0, 0),
        (false, second(3), 0),
        (false, 0, second(3)),
        (true, 0, 0),
    ] {
        let mut scene = Scene::new(tablets).await;
        let mut arrived = Arrived::default();
        let delays = SwitchDelays {
            start: second(1),
            publish,
            learn,
        };
        if tablets {
            let change = TabletChange::Split;
            scene
                .sandbox
                .cdc()
                .change_tablets("shop", "outbox", change, delays)
                .unwrap();
        } else {
            scene.sandbox.cdc().switch_generation(None, delays);
        }
        scene
            .write_and_arrive(4000, Duration::from_millis(1), &mut arrived)
            .await;
        scene.arrive(&mut arrived, Duration::from_secs(20)).await;
        arrived.check(&scene.written);
        assert!(
            arrived.late.is_empty(),
            "tablets {tablets} {publish} {learn}: {:?}",
            arrived.late
        );
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_reader_asks_nothing_and_goes_on_where_it_was() {
    let mut scene = Scene::new(false).await;
    let mut arrived = Arrived::default();
    scene.write(40, Duration::ZERO).await;
    scene.arrive(&mut arrived, Duration::from_secs(10)).await;
    scene.commands.send(Command::Pause).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = scene.metric("outbox_relay_cql_queries_total");
    scene.write(400, Duration::ZERO).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(scene.metric("outbox_relay_cql_queries_total"), asked);
    scene.commands.send(Command::Resume).await.unwrap();
    scene.arrive(&mut arrived, Duration::from_secs(10)).await;
    arrived.check(&scene.written);
    scene.end().await;
}
