//! The delivering half of a relay on a real broker, fed by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::dead_letter::AutomaticReplay;
use crds::relay_status::BreakerState;
use crds::{RelayConfig, Sink};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use relay::clock::SystemClock;
use relay::dead_letters::Targets;
use relay::deliver::breaker::Breaker;
use relay::deliver::kafka::{KafkaBroker, KafkaSettings};
use relay::deliver::lane::Policy;
use relay::deliver::prepare::Preparer;
use relay::deliver::shell::{self, Admission, Control, Delivery, EVENT_BATCHES, ViewState};
use relay::event::{EventOperation, SourceEvent};
use relay::health::{Board, Part, PartHealth};
use relay::journal::Mark;
use relay::ledger::Ledger;
use relay::metrics::Metrics;
use relay::model::{CdcTime, Micros, SlotId, SlotSet, SourcePosition, StreamId};
use relay::ports::{Clock, DeadLetter, DeadLetterError, DeadLetters, Epoch};
use relay::replay::Replayer;
use scylla::value::CqlValue;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

/// A start, a fault and a recovery on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Relay {
    events: mpsc::Sender<Vec<SourceEvent>>,
    control: Control,
    board: Board,
    metrics: Arc<Metrics>,
    ledger: Arc<Mutex<Ledger>>,
    letters: Target,
    clock: SystemClock,
    stop: CancellationToken,
    task: JoinHandle<Result<(), shell::Broken>>,
}

/// An outbox row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) number: u64,
    pub(crate) aggregate: u64,
    pub(crate) event_type: String,
    pub(crate) payload: Option<String>,
}

type Letters = Arc<Mutex<Vec<DeadLetter>>>;

/// Where dead letters go.
#[derive(Clone)]
pub(crate) enum Target {
    Memory(Letters),
    Real(Arc<Targets>),
}

impl DeadLetters for Target {
    async fn write(&self, letters: &[DeadLetter]) -> Result<(), DeadLetterError> {
        match self {
            Self::Memory(all) => {
                all.lock().extend_from_slice(letters);
                Ok(())
            }
            Self::Real(targets) => targets.write(letters).await,
        }
    }

    async fn aggregates(&self, slot: SlotId, limit: usize) -> Result<Vec<String>, DeadLetterError> {
        match self {
            Self::Memory(_) => Ok(Vec::new()),
            Self::Real(targets) => targets.aggregates(slot, limit).await,
        }
    }
}

impl Row {
    pub(crate) fn new(number: u64, aggregate: u64, payload: String) -> Self {
        Self {
            number,
            aggregate,
            event_type: "T".to_owned(),
            payload: Some(payload),
        }
    }

    /// Aggregates are spread over slots; the write times rise with the numbers.
    fn event(&self, base: i64) -> SourceEvent {
        let position = SourcePosition {
            stream: StreamId([self.aggregate as u8; 16]),
            time: CdcTime::min_of(base + self.number as i64),
            batch_seq_no: 0,
        };
        let text = |text: String| Some(CqlValue::Text(text));
        SourceEvent {
            position,
            row_id: position.row_id(),
            slot: SlotId::new((self.aggregate % 64) as u8).unwrap(),
            ownership: 0,
            token: 0,
            values: vec![
                text(self.number.to_string()),
                text(self.aggregate.to_string()),
                text(self.event_type.clone()),
                self.payload.clone().and_then(text),
            ],
            operation: EventOperation::Insert,
            late: false,
            reconciled: false,
        }
    }
}

impl Relay {
    /// With a breaker that opens for a second.
    pub(crate) fn start(cluster: &Cluster, topic: &str) -> Self {
        Self::start_with(Sink {
            bootstrap_servers: vec![cluster.bootstrap.clone()],
            topic: topic.to_owned(),
            ..Sink::default()
        })
    }

    pub(crate) fn start_with(sink: Sink) -> Self {
        Self::start_configured(RelayConfig {
            sink,
            ..RelayConfig::default()
        })
    }

    /// Dead letters stay in memory: see [`Self::dead_letters`].
    pub(crate) fn start_configured(config: RelayConfig) -> Self {
        Self::start_into(config, Target::Memory(Letters::default()))
    }

    pub(crate) fn start_into(mut config: RelayConfig, letters: Target) -> Self {
        config.circuit_breaker.open_seconds = 1;
        let clock = SystemClock::start();
        let settings = KafkaSettings::new(&config.sink, &config.memory, "test").unwrap();
        let preparer = Preparer::new(&config.source, &config.sink, |_| false).unwrap();
        let mut ledger = Ledger::default();
        SlotId::all().for_each(|slot| ledger.open(slot, 0, []));
        let (ledger, metrics) = (Arc::new(Mutex::new(ledger)), Arc::new(Metrics::new().unwrap()));
        let (control, board) = (Control::default(), Board::new(0));
        let delivery = Delivery {
            broker: KafkaBroker::new(settings, preparer.fixed_topic().is_none()).unwrap(),
            dead_letters: letters.clone(),
            clock: clock.clone(),
            preparer,
            policy: Policy::new(&config),
            breaker: Breaker::new(&config.circuit_breaker),
            ledger: Arc::clone(&ledger),
            metrics: Arc::clone(&metrics),
            board: board.clone(),
            control: control.clone(),
            lease: Arc::new(|| Duration::MAX),
            seed: 1,
            exactly_once: None,
            spans: None,
        };
        let (events, received) = mpsc::channel(EVENT_BATCHES);
        let stop = CancellationToken::new();
        let task = tokio::spawn(shell::run(delivery, received, stop.clone()));
        Self {
            events,
            control,
            board,
            metrics,
            ledger,
            letters,
            clock,
            stop,
            task,
        }
    }

    /// Carries out requests for replays until it stops, as a running relay does.
    pub(crate) fn replays<D: DeadLetters>(&self, letters: Arc<D>, max_replays: u32) -> JoinHandle<()> {
        self.replays_of(letters, max_replays, false)
    }

    /// Also those that are due.
    pub(crate) fn replays_when_due<D: DeadLetters>(
        &self,
        letters: Arc<D>,
        automatic: AutomaticReplay,
    ) -> JoinHandle<()> {
        self.replayer(letters, 5, false, Some(automatic))
    }

    /// The same, with `onAggregate: Hold` or without.
    pub(crate) fn replays_of<D: DeadLetters>(
        &self,
        letters: Arc<D>,
        max_replays: u32,
        holds: bool,
    ) -> JoinHandle<()> {
        self.replayer(letters, max_replays, holds, None)
    }

    fn replayer<D: DeadLetters>(
        &self,
        letters: Arc<D>,
        max_replays: u32,
        holds: bool,
        automatic: Option<AutomaticReplay>,
    ) -> JoinHandle<()> {
        let replayer = Replayer {
            holds,
            exactly_once: false,
            automatic,
            letters,
            ledger: self.ledger.clone(),
            control: self.control.clone(),
            clock: Arc::new(self.clock.clone()),
            max_replays,
            metrics: self.metrics.clone(),
            board: self.board.clone(),
        };
        let stop = self.stop.clone();
        tokio::spawn(async move { replayer.run(stop).await.unwrap() })
    }

    /// Hands rows over as the reader would: taken in the ledger first.
    pub(crate) async fn offer(&self, rows: Vec<Row>) {
        let events = self.take(&rows, self.clock.now());
        self.events.send(events).await.expect("the lane runs");
    }

    fn take(&self, rows: &[Row], now: Micros) -> Vec<SourceEvent> {
        let base = now - rows.len() as i64;
        let mut events: Vec<_> = rows.iter().map(|row| row.event(base)).collect();
        let mut ledger = self.ledger.lock();
        for event in &mut events {
            event.ownership = ledger.ownership(event.slot);
            ledger.take(event.slot, event.time(), event.row_id);
        }
        events
    }

    /// Every slot is lost and taken back while rows are on their way to the lane; they are read again.
    pub(crate) async fn offer_across_a_loss(&self, rows: Vec<Row>) {
        let now = self.clock.now();
        let before = self.take(&rows, now);
        self.control.revoke(SlotSet::ALL);
        for slot in SlotId::all() {
            let mut ledger = self.ledger.lock();
            ledger.close(slot);
            ledger.open(slot, 0, []);
            self.control.admit(Admission {
                slot,
                epoch: Epoch(2),
                saved: Mark::default(),
                mark: Mark::default(),
            });
        }
        let anew = self.take(&rows, now);
        for events in [before, anew] {
            self.events.send(events).await.expect("the lane runs");
        }
    }

    pub(crate) async fn offer_in_batches(&self, rows: Vec<Row>, size: usize, pause: Duration) {
        for batch in rows.chunks(size) {
            self.offer(batch.to_vec()).await;
            tokio::time::sleep(pause).await;
        }
    }

    pub(crate) async fn delivered(&self, count: u64) {
        wait_until("deliveries", PATIENCE, || self.view().totals.processed >= count).await;
        assert_eq!(self.view().totals.processed, count);
    }

    /// Delivered or dead-lettered; then nothing is in flight and the ledger says the same.
    pub(crate) async fn resolved(&self, count: u64) {
        let resolved = || {
            let totals = self.view().totals;
            totals.processed + totals.dead_lettered
        };
        wait_until("resolutions", PATIENCE, || resolved() >= count).await;
        let ledger = self.ledger.lock();
        let taken: usize = SlotId::all()
            .filter_map(|slot| ledger.slot(slot))
            .map(|slot| slot.taken())
            .sum();
        assert_eq!((resolved(), taken), (count, 0));
    }

    pub(crate) fn dead_letters(&self) -> Vec<DeadLetter> {
        match &self.letters {
            Target::Memory(letters) => letters.lock().clone(),
            Target::Real(_) => panic!("they are where the configuration says"),
        }
    }

    pub(crate) fn letters_health(&self) -> PartHealth {
        self.board.part(Part::DeadLetters).unwrap()
    }

    pub(crate) fn view(&self) -> ViewState {
        self.control.view()
    }

    pub(crate) fn sink_health(&self) -> PartHealth {
        self.board.part(Part::Sink).unwrap()
    }

    /// The sum over the labels of a metric, as `/metrics` shows it.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let text = self.metrics.render();
        let values = text.lines().filter_map(|line| {
            let (metric, value) = line.rsplit_once(' ')?;
            let of_that_name = metric == name || metric.strip_prefix(name)?.starts_with('{');
            of_that_name.then(|| value.parse::<f64>().ok())?
        });
        values.reduce(|a, b| a + b)
    }

    pub(crate) async fn stop(self) {
        assert_ne!(self.view().breaker, BreakerState::Open);
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

pub(crate) async fn wait_until(what: &str, limit: Duration, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < limit, "waited for {what} for {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Text that no compression makes small.
pub(crate) fn incompressible(seed: u64, length: usize) -> String {
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    (0..length)
        .map(|_| char::from(random.random_range(b'!'..=b'~')))
        .collect()
}
