//! One life of reader, lane and keeper. If the lane or the keeper fails, all three end: what they held is opened again
//! from the checkpoints, under higher epochs, by the next life.

use std::sync::Arc;
use std::time::Duration;

use crds::RelayConfig;
use crds::dead_letter::OnAggregate;
use crds::sink::journal_topic;
use crds::source::{Cleanup as CleanupMode, Mode, StartFrom};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::holder::SlotHolder;
use super::outlook::{Life, Outlook};
use super::prepare::Ground;
use crate::cleanup::Cleanup;
use crate::deliver::breaker::Breaker;
use crate::deliver::lane::{JournalOf, LettersTo, Policy};
use crate::deliver::shell::{self, Control, Delivery, EVENT_BATCHES, ExactlyOnce};
use crate::health::Part;
use crate::ledger::Ledger;
use crate::model::{Micros, SECOND, SLOTS};
use crate::ports::{Broker, ChangeLog, Clock, DeadLetters, StateStore};
use crate::reconcile::{Reconciler, Target};
use crate::replay::Replayer;
use crate::source::limiter::Limits;
use crate::source::polling::Poller;
use crate::source::reader::{Command, Reader};
use crate::source::record::Rules;
use crate::source::retention::{Retention, Start};
use crate::source::snapshot::Snapshotter;
use crate::source::tail;
use crate::state::keeper::{Deadline, Keeper, KeeperConfig};
use crate::state::ownership::Share;
use crate::supervise::supervise;

/// Slots that may be opened before the reader looks.
const COMMANDS: usize = 2 * SLOTS;

/// The oldest cursor is this much further behind than the horizon, at most, when all is well: skew of clocks, and the
/// time that a sweep of every stream takes.
const SWEEP_SLACK: Micros = 60 * SECOND;

/// How long the source may take to tell its clock, and the pause before it is asked again.
const CLOCK_LIMIT: Duration = Duration::from_secs(5);
const CLOCK_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
#[error("{part} ended: {reason}")]
pub(super) struct WorkError {
    part: &'static str,
    reason: String,
}

/// Lives until `stop`, and then ends in order: reading, delivery, checkpoints, ownership.
pub(super) async fn work<L, S, B, D, C>(
    config: Arc<RelayConfig>,
    share: Share,
    outlook: Arc<Outlook<C>>,
    ground: Arc<Ground<L, S, B, D>>,
    stop: CancellationToken,
) -> Result<(), WorkError>
where
    L: ChangeLog,
    S: StateStore,
    B: Broker + Clone,
    D: DeadLetters,
    C: Clock + Clone,
{
    let ledger = Arc::new(Mutex::new(ledger_for(&config)));
    let (control, deadline) = (Control::default(), Deadline::default());
    let (commands, obeyed) = mpsc::channel(COMMANDS);
    let (events, delivered) = mpsc::channel(EVENT_BATCHES);
    let retention = outlook.retention();
    retention.begin(rows_stay(&config, &ground));
    let needs_now = matches!(config.source.start_from, StartFrom::Now | StartFrom::Snapshot);
    if !source_clock(&outlook, ground.log.as_ref(), needs_now, &stop).await {
        return Ok(());
    }
    let exactly_once = exactly_once(&config, &outlook, &ground);
    if exactly_once.is_some() {
        control.awaits_producer();
    }
    let parts = Parts {
        config,
        outlook,
        ground,
        ledger,
        control,
        deadline,
        retention,
        exactly_once,
    };
    let holder = Arc::new(parts.holder(commands.clone()));
    let keeper = parts.keeper(share, holder.clone());
    parts.outlook.lives(Life {
        ledger: parts.ledger.clone(),
        keeper: keeper.view(),
        control: parts.control.clone(),
    });
    // Each ends when its own token is cancelled: in this order when the process stops.
    let tokens: [CancellationToken; 4] = std::array::from_fn(|_| CancellationToken::new());
    let [stop_reading, stop_delivering, stop_deleting, stop_keeping] = &tokens;
    let (mut tidying, mut deleting) = (JoinSet::new(), JoinSet::new());
    if parts.polls() {
        parts.delete(&mut deleting, stop_deleting);
    } else {
        parts.delete(&mut tidying, stop_reading);
        parts.reconcile(&events, &mut tidying, stop_reading);
        parts.read_old(&events, commands, &mut tidying, stop_reading);
    }
    parts.replay(&mut tidying, stop_reading);
    let mut reading = JoinSet::new();
    reading.spawn(silent(parts.read(events, obeyed, stop_reading.clone())));
    let (watching, watcher) = (stop_reading.clone(), holder);
    let mut watch = JoinSet::new();
    watch.spawn(async move { watcher.watch(&watching).await });
    let mut delivering = JoinSet::new();
    let deliver = shell::run(parts.delivery(), delivered, stop_delivering.clone());
    delivering.spawn(async move { deliver.await.err().map(|broken| broken.to_string()) });
    let mut keeping = JoinSet::new();
    keeping.spawn(silent(keeper.run(stop_keeping.clone())));
    let failed = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        ended = delivering.join_next() => Some(("delivery", ended)),
        ended = keeping.join_next() => Some(("keeper", ended)),
        ended = reading.join_next() => Some(("reader", ended)),
    };
    if stop.is_cancelled() {
        parts.outlook.draining();
    }
    end(stop_reading, &mut reading).await;
    end(stop_delivering, &mut delivering).await;
    end(stop_deleting, &mut deleting).await;
    end(stop_keeping, &mut keeping).await;
    while watch.join_next().await.is_some() {}
    while tidying.join_next().await.is_some() {}
    let Some((part, ended)) = failed else {
        return Ok(());
    };
    let reason = match ended {
        Some(Err(error)) => error.to_string(),
        Some(Ok(Some(reason))) => reason,
        Some(Ok(None)) | None => "without being asked to".into(),
    };
    Err(WorkError { part, reason })
}

/// What is read stays for so long; None is for ever.
fn rows_stay<L, S, B, D>(config: &RelayConfig, ground: &Ground<L, S, B, D>) -> Option<Duration> {
    match config.source.mode {
        Mode::Streaming => ground.table.cdc.ttl,
        Mode::Polling => ground.table.ttl,
    }
}

fn ledger_for(config: &RelayConfig) -> Ledger {
    let ledger = Ledger::default();
    if config.source.cleanup == CleanupMode::Delete {
        ledger.with_cleanup()
    } else {
        ledger
    }
}

async fn end<T: 'static>(token: &CancellationToken, tasks: &mut JoinSet<T>) {
    token.cancel();
    while tasks.join_next().await.is_some() {}
}

/// A part that has no reason to end.
async fn silent(part: impl Future<Output = ()>) -> Option<String> {
    part.await;
    None
}

/// Each life has an id of its own, initialised once. So nobody ever undoes the fence of whoever took its slots.
fn exactly_once<L, S, B, D, C: Clock>(
    config: &RelayConfig,
    outlook: &Outlook<C>,
    ground: &Ground<L, S, B, D>,
) -> Option<ExactlyOnce> {
    let (identity, incarnation) = (&config.identity, ground.incarnation?);
    Some(ExactlyOnce {
        transactions: ground.transactions.clone(),
        transactional_id: format!("{identity}/{}/{}", outlook.process(), outlook.next_life()),
        journal: JournalOf {
            identity: identity.as_str().into(),
            topic: journal_topic(identity).into(),
            incarnation,
            letters: config.dead_letter.topic.as_deref().map(|topic| LettersTo {
                topic: topic.into(),
                in_table: config.dead_letter.to_table(),
            }),
        },
    })
}

/// Learns the source's clock: our own may be ahead, and "now" by it would skip rows. Without the need for it, reading
/// starts even if the source does not answer. False if `stop` came first.
async fn source_clock<L: ChangeLog, C: Clock>(
    outlook: &Outlook<C>,
    log: &L,
    needed: bool,
    stop: &CancellationToken,
) -> bool {
    loop {
        let asked = tokio::select! {
            biased;
            () = stop.cancelled() => return false,
            asked = tokio::time::timeout(CLOCK_LIMIT, log.capture()) => asked,
        };
        let now = outlook.clock().now();
        let reason = match asked {
            Ok(Ok(capture)) => {
                outlook.retention().hear(capture.time, log.ttl(), now);
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CLOCK_LIMIT.as_secs()),
        };
        if !needed {
            return true;
        }
        warn!(%reason, "source.startFrom: Now or Snapshot waits for the source's clock");
        outlook.board().failed(Part::Source, reason, now);
        tokio::select! {
            biased;
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(CLOCK_PAUSE) => {}
        }
    }
}

struct Parts<L, S, B, D, C> {
    config: Arc<RelayConfig>,
    outlook: Arc<Outlook<C>>,
    ground: Arc<Ground<L, S, B, D>>,
    ledger: Arc<Mutex<Ledger>>,
    control: Control,
    deadline: Deadline,
    retention: Retention,
    exactly_once: Option<ExactlyOnce>,
}

impl<L, S, B, D, C> Parts<L, S, B, D, C>
where
    L: ChangeLog,
    S: StateStore,
    B: Broker + Clone,
    D: DeadLetters,
    C: Clock + Clone,
{
    fn holder(&self, commands: mpsc::Sender<Command>) -> SlotHolder<C> {
        SlotHolder {
            commands,
            control: self.control.clone(),
            ledger: self.ledger.clone(),
            outlook: self.outlook.clone(),
            retention: self.retention.clone(),
            on_gap: self.config.source.on_retention_gap,
            exactly_once: self.exactly_once.is_some(),
            polls: self.polls(),
            sweep_lag: Micros::from(self.config.source.horizon_seconds) * SECOND
                + SWEEP_SLACK
                + self
                    .config
                    .source
                    .poll_interval()
                    .map_or(0, |every| 2 * every.as_micros() as Micros),
            gaps: Mutex::default(),
        }
    }

    fn keeper(&self, share: Share, holder: Arc<SlotHolder<C>>) -> Keeper<S, C, SlotHolder<C>> {
        let from = match self.config.source.start_from {
            StartFrom::Oldest => Start::Oldest,
            StartFrom::Now => Start::Now,
            StartFrom::Snapshot => Start::Snapshot {
                settled: Micros::from(self.config.source.horizon_seconds) * SECOND + tail::SKEW,
            },
            StartFrom::At(time) => Start::At(time.milliseconds() as Micros * 1000),
        };
        let (retention, first_set) = (self.retention.clone(), self.ground.first_set);
        let outlook = self.outlook.clone();
        let own_id = self.exactly_once.as_ref().map(|own| own.transactional_id.clone());
        let config = KeeperConfig {
            process: self.outlook.process(),
            share,
            lease: self.config.state.lease(),
            checkpoint_interval: self.config.state.checkpoint_interval(),
            snapshot: self.config.source.start_from == StartFrom::Snapshot,
            start: Box::new(move || retention.start(from, first_set, outlook.source_time())),
            transactional_ids: own_id.into_iter().collect(),
            transactions: self.ground.transactions.clone(),
        };
        let (state, clock) = (self.ground.state.clone(), self.outlook.clock());
        Keeper::new(
            config,
            state,
            clock,
            holder,
            self.ledger.clone(),
            self.deadline.clone(),
        )
    }

    /// A reader that fails starts again on its own: the ledger knows what it has handed on.
    fn read(
        &self,
        events: mpsc::Sender<Vec<crate::event::SourceEvent>>,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<L, S, B, D, C> {
        let source = &self.config.source;
        let reader = Reader {
            log: self.ground.log.clone(),
            clock: self.outlook.clock(),
            ledger: self.ledger.clone(),
            tail: self.tail(),
            limits: Limits {
                max_in_flight: source.load.max_concurrent_queries,
                queries_per_second: source.load.queries_per_second,
                ramp: source.load.ramp(),
            },
            retention: self.retention.clone(),
            out: events,
            commands: Arc::new(tokio::sync::Mutex::new(commands)),
            metrics: self.outlook.shared_metrics(),
            board: self.outlook.board().clone(),
        };
        let (board, clock) = (self.outlook.board().clone(), self.outlook.clock());
        let polled = source.poll_interval().zip(self.ground.outbox.clone());
        let seed = self.ground.seed;
        async move {
            let (part, clock) = (Part::Source, clock.as_ref());
            if let Some((interval, outbox)) = polled {
                let poller = Poller {
                    with: reader,
                    outbox,
                    interval,
                    seed,
                };
                supervise(part, &board, clock, &stop, || poller.clone().run(stop.clone())).await;
            } else {
                supervise(part, &board, clock, &stop, || reader.clone().run(stop.clone())).await;
            }
        }
    }

    /// Whether events are found in the table itself.
    fn polls(&self) -> bool {
        self.config.source.poll_interval().is_some()
    }

    /// Deletes rows, where that is wanted.
    fn delete(&self, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        let (source, Some(outbox)) = (&self.config.source, &self.ground.outbox) else {
            return;
        };
        if source.cleanup == CleanupMode::Keep {
            return;
        }
        let cleanup = Cleanup {
            ledger: self.ledger.clone(),
            outbox: outbox.clone(),
            clock: self.outlook.clock(),
            retention: self.retention.clone(),
            deletes_per_second: source.load.deletes_per_second,
            polled: self.polls(),
            ramp: source.load.ramp(),
            metrics: self.outlook.shared_metrics(),
            board: self.outlook.board().clone(),
        };
        self.keep_up(Part::Cleanup, tasks, stop, move |stop| cleanup.clone().run(stop));
    }

    /// Looks for rows that were never read, where that is wanted. Does not hold up the end.
    fn reconcile(
        &self,
        events: &mpsc::Sender<Vec<crate::event::SourceEvent>>,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        let (source, Some(outbox)) = (&self.config.source, &self.ground.outbox) else {
            return;
        };
        let Some(reconcile) = &source.reconcile else {
            return;
        };
        let reconciler = Reconciler {
            config: reconcile.clone(),
            grace: Micros::from(source.horizon_seconds) * SECOND + tail::SKEW,
            ledger: self.ledger.clone(),
            outbox: outbox.clone(),
            clock: self.outlook.clock(),
            retention: self.retention.clone(),
            target: if self.exactly_once.is_some() {
                Target::DeadLetters(
                    self.ground.dead_letters.clone(),
                    Box::new(self.ground.preparer.clone()),
                )
            } else {
                Target::Lane(events.clone())
            },
            metrics: self.outlook.shared_metrics(),
            board: self.outlook.board().clone(),
            seed: self.ground.seed,
        };
        self.keep_up(Part::Cleanup, tasks, stop, move |stop| {
            reconciler.clone().run(stop)
        });
    }

    /// Reads what the table holds from before the log is read, of slots whose checkpoints say so: whatever
    /// `source.startFrom` says by now, what was begun is done.
    fn read_old(
        &self,
        events: &mpsc::Sender<Vec<crate::event::SourceEvent>>,
        commands: mpsc::Sender<Command>,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        let Some(outbox) = &self.ground.outbox else { return };
        let snapshotter = Snapshotter {
            ledger: self.ledger.clone(),
            outbox: outbox.clone(),
            clock: self.outlook.clock(),
            rows_per_second: self.config.source.load.snapshot_rows_per_second,
            out: events.clone(),
            commands,
            metrics: self.outlook.shared_metrics(),
            board: self.outlook.board().clone(),
        };
        self.keep_up(Part::Snapshot, tasks, stop, move |stop| {
            snapshotter.clone().run(stop)
        });
    }

    /// Sends dead letters again when somebody asks for it.
    fn replay(&self, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        let settings = &self.config.dead_letter;
        if !self.ground.dead_letters.replays() {
            return;
        }
        let replayer = Replayer {
            letters: self.ground.dead_letters.clone(),
            ledger: self.ledger.clone(),
            control: self.control.clone(),
            clock: self.outlook.clock(),
            max_replays: settings.max_replays,
            holds: settings.on_aggregate == OnAggregate::Hold,
            exactly_once: self.exactly_once.is_some(),
            automatic: settings.replay.clone(),
            metrics: self.outlook.shared_metrics(),
            board: self.outlook.board().clone(),
        };
        self.keep_up(Part::DeadLetters, tasks, stop, move |stop| {
            replayer.clone().run(stop)
        });
    }

    fn keep_up<F, E>(
        &self,
        part: Part,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
        mut make: impl FnMut(CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let (board, clock, stop) = (self.outlook.board().clone(), self.outlook.clock(), stop.clone());
        tasks.spawn(async move {
            let make = || make(stop.clone());
            supervise(part, &board, clock.as_ref(), &stop, make).await;
        });
    }

    fn tail(&self) -> tail::Config {
        let (source, mapped) = (&self.config.source, self.ground.preparer.columns());
        tail::Config {
            horizon: Micros::from(source.horizon_seconds) * SECOND,
            duplicate_window: Micros::from(source.duplicate_window_seconds) * SECOND,
            rules: Rules::of(source, &self.ground.table.cdc, mapped.len()),
            id_column: mapped.iter().position(|name| *name == source.columns.id),
        }
    }

    fn delivery(&self) -> Delivery<B, Arc<D>, C> {
        let deadline = self.deadline.clone();
        Delivery {
            broker: self.ground.broker.clone(),
            dead_letters: self.ground.dead_letters.clone(),
            clock: self.outlook.clock().as_ref().clone(),
            preparer: self.ground.preparer.clone(),
            policy: Policy::new(&self.config),
            breaker: Breaker::new(&self.config.circuit_breaker),
            ledger: self.ledger.clone(),
            metrics: self.outlook.shared_metrics(),
            board: self.outlook.board().clone(),
            control: self.control.clone(),
            lease: Arc::new(move || deadline.get()),
            seed: self.ground.seed,
            exactly_once: self.exactly_once.clone(),
            spans: self.ground.spans.clone(),
        }
    }
}
