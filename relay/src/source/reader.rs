//! The task that reads the log: asks what the tail plans, several groups at once, and hands on what it returns.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cleanup::UNDELETED_MAX;
use crate::event::SourceEvent;
use crate::health::{Board, Part};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::model::{Micros, SECOND, SlotId, SlotSet};
use crate::ports::{Capture, ChangeLog, Clock, Columns, LogError, LogPage, StreamSet};
use crate::source::limiter::{Answer, Limiter, Limits};
use crate::source::retention::Retention;
use crate::source::tail::{Config, Counts, Planned, SKEW, Tail};

/// How often the stream sets and the source's clock are looked at. A switch is announced a minute ahead, and seldom late.
const TOPOLOGY_INTERVAL: Duration = Duration::from_secs(1);

/// Waiting for something other than time, the reader looks again after this long.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// A budget that lacks the last fraction of a query is no reason to spin.
const SHORTEST_WAIT: Duration = Duration::from_micros(100);

/// A wall clock that goes back further than this starts the reader anew: its plans lie in the future.
const CLOCK_STEP: Micros = SECOND;

/// What the reader is told. Sent over a bounded channel; every one is obeyed at once.
#[derive(Debug)]
pub enum Command {
    /// The slot is ours, its ledger is open.
    Add(SlotId),
    /// Read no more of the slots. Answered when nothing of them will be handed on any more.
    Remove(SlotSet, oneshot::Sender<()>),
    /// Ask nothing more until [`Command::Resume`]; what was asked is still handed on.
    Pause,
    Resume,
}

#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    #[error("a query task failed: {0}")]
    Query(String),
    #[error("the wall clock went back by {0:?}")]
    Clock(Duration),
    #[error("nobody takes events any more")]
    Closed,
}

/// What a reader works with. Cheap to clone: a restarted reader continues with the same.
pub struct Reader<L, C> {
    pub log: Arc<L>,
    pub clock: Arc<C>,
    pub ledger: Arc<Mutex<Ledger>>,
    pub tail: Config,
    pub limits: Limits,
    pub retention: Retention,
    /// Bounded: when it is full, reading stops.
    pub out: mpsc::Sender<Vec<SourceEvent>>,
    pub commands: Arc<tokio::sync::Mutex<mpsc::Receiver<Command>>>,
    pub metrics: Arc<Metrics>,
    pub board: Board,
}

impl<L, C> Clone for Reader<L, C> {
    fn clone(&self) -> Self {
        Self {
            log: Arc::clone(&self.log),
            clock: Arc::clone(&self.clock),
            ledger: Arc::clone(&self.ledger),
            tail: self.tail.clone(),
            limits: self.limits,
            retention: self.retention.clone(),
            out: self.out.clone(),
            commands: Arc::clone(&self.commands),
            metrics: Arc::clone(&self.metrics),
            board: self.board.clone(),
        }
    }
}

impl<L: ChangeLog, C: Clock> Reader<L, C> {
    /// Reads until `stop`. Begins with the slots whose ledgers are open.
    ///
    /// # Errors
    /// Only what a new start mends.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ReaderError> {
        let commands = Arc::clone(&self.commands);
        let mut commands = commands.lock().await;
        let mut running = Running::new(self);
        loop {
            running.ask()?;
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(command) = commands.recv() => Step::Command(command),
                step = running.step() => step,
            };
            running.go(step)?;
        }
    }
}

/// What happens next.
enum Step {
    Command(Command),
    Sent,
    Closed,
    Looked(Result<Looked, JoinError>),
    Answer(Result<Answered, JoinError>),
    Time,
}

struct Running<L, C> {
    reader: Reader<L, C>,
    tail: Tail,
    limiter: Limiter,
    queries: JoinSet<Answered>,
    looking: JoinSet<Looked>,
    /// When the stream sets are looked at next.
    looking_due: Duration,
    /// Taken, not yet handed on.
    pending: VecDeque<Vec<SourceEvent>>,
    paused: bool,
    /// Why reads of whole rows fail, and reads of identities.
    failing: [Option<String>; 2],
    /// What the source says of itself that is not as it should be, or why it does not say.
    complaint: Option<String>,
    /// What health was told last.
    told: Option<String>,
    /// Wall clock, as it was read last.
    wall: Micros,
    /// The source's clock, and our monotonic one at that moment.
    source_time: Option<(Micros, Duration)>,
    /// Time as the reader takes it.
    now: Micros,
    counted: Counts,
    /// How long the limiter lets nothing start.
    held_back: Option<Duration>,
}

/// What was taken and nobody got is read again by the next reader.
impl<L, C> Drop for Running<L, C> {
    fn drop(&mut self) {
        let mut ledger = self.reader.ledger.lock();
        for event in self.pending.iter().flatten() {
            ledger.release(event.slot, event.ownership, event.time(), event.row_id);
        }
    }
}

/// What the source says of itself.
struct Looked {
    capture: Result<Capture, LogError>,
    /// Monotonic, when `capture` was answered.
    at: Duration,
    sets: Result<Vec<StreamSet>, LogError>,
}

struct Answered {
    planned: Planned,
    started: Micros,
    latency: Duration,
    page: Result<LogPage, LogError>,
}

impl<L: ChangeLog, C: Clock> Running<L, C> {
    fn new(reader: Reader<L, C>) -> Self {
        let mut tail = Tail::new(reader.tail.clone());
        let mut ledger = reader.ledger.lock();
        for slot in ledger.reading().iter() {
            tail.add_slot(slot, &mut ledger);
        }
        drop(ledger);
        let (elapsed, wall) = (reader.clock.elapsed(), reader.clock.now());
        Self {
            limiter: Limiter::new(reader.limits, elapsed),
            tail,
            queries: JoinSet::new(),
            looking: JoinSet::new(),
            looking_due: elapsed,
            pending: VecDeque::new(),
            paused: false,
            failing: [None, None],
            complaint: None,
            told: Some("starting".into()),
            wall,
            source_time: None,
            now: 0,
            counted: Counts::default(),
            held_back: None,
            reader,
        }
    }

    /// The wall clock, which never goes back by a little, and never further ahead of the source's than clocks may
    /// differ: what a clock that is wrong by minutes called swept would not have been written yet.
    fn tick(&mut self) -> Result<Micros, ReaderError> {
        let wall = self.reader.clock.now();
        if wall < self.wall - CLOCK_STEP {
            return Err(ReaderError::Clock(Duration::from_micros(
                (self.wall - wall) as u64,
            )));
        }
        self.wall = self.wall.max(wall);
        let most = self.source_time.map_or(Micros::MAX, |(time, at)| {
            let since = self.reader.clock.elapsed().saturating_sub(at);
            time.saturating_add(since.as_micros() as Micros + SKEW)
        });
        let now = self.now.max(self.wall.min(most));
        // Before the source has told its time and its streams, nothing holds on to ours.
        if self.source_time.is_some() || !self.tail.is_idle() {
            self.now = now;
        }
        Ok(now)
    }

    /// Starts what is due and allowed.
    fn ask(&mut self) -> Result<(), ReaderError> {
        let now = self.tick()?;
        let elapsed = self.reader.clock.elapsed();
        if elapsed >= self.looking_due && self.looking.is_empty() {
            self.looking_due = elapsed + TOPOLOGY_INTERVAL;
            let (log, clock) = (Arc::clone(&self.reader.log), Arc::clone(&self.reader.clock));
            self.looking.spawn(async move {
                Looked {
                    capture: log.capture().await,
                    at: clock.elapsed(),
                    sets: log.stream_sets().await,
                }
            });
            self.report(now, elapsed);
        }
        self.held_back = None;
        if self.reader.ledger.lock().undeleted() >= UNDELETED_MAX {
            self.held_back = Some(LONGEST_WAIT);
            return Ok(());
        }
        while !self.paused && self.pending.is_empty() {
            if let Err(wait) = self.limiter.ready(elapsed) {
                self.held_back = Some(wait.unwrap_or(LONGEST_WAIT));
                break;
            }
            let Some(planned) = self.tail.next_query(now) else {
                break;
            };
            self.limiter.begin();
            self.reader
                .metrics
                .reading
                .asked(planned.cursor, planned.query.streams.len());
            let (log, clock) = (Arc::clone(&self.reader.log), Arc::clone(&self.reader.clock));
            self.queries.spawn(async move {
                let asked = clock.elapsed();
                let page = log.read(planned.query.clone()).await;
                let latency = clock.elapsed().saturating_sub(asked);
                Answered {
                    planned,
                    started: now,
                    latency,
                    page,
                }
            });
        }
        Ok(())
    }

    /// Waits for what happens next. Nothing is lost if it is dropped before it returns.
    async fn step(&mut self) -> Step {
        let wait = self.wait();
        tokio::select! {
            biased;
            permit = self.reader.out.reserve(), if !self.pending.is_empty() => {
                let Ok(permit) = permit else {
                    return Step::Closed;
                };
                if let Some(events) = self.pending.pop_front() {
                    permit.send(events);
                }
                Step::Sent
            }
            Some(looked) = self.looking.join_next() => Step::Looked(looked),
            // While events wait to be taken, answers wait too.
            Some(answer) = self.queries.join_next(), if self.pending.is_empty() => Step::Answer(answer),
            () = tokio::time::sleep(wait) => Step::Time,
        }
    }

    fn go(&mut self, step: Step) -> Result<(), ReaderError> {
        let ended = |error: JoinError| ReaderError::Query(error.to_string());
        match step {
            Step::Command(command) => self.obey(command),
            Step::Looked(looked) => self.learn(looked.map_err(ended)?)?,
            Step::Answer(answer) => self.take(answer.map_err(ended)?)?,
            Step::Closed => return Err(ReaderError::Closed),
            Step::Sent | Step::Time => {}
        }
        Ok(())
    }

    /// How long nothing will be due. Never nothing: what is due was asked for before, as far as it may be.
    fn wait(&self) -> Duration {
        // Whatever is due then, nothing is asked until events are taken, or until the pause ends.
        let asks = !self.paused && self.pending.is_empty();
        let due = self.tail.next_due(self.now).filter(|_| asks);
        let due = due.map(|due| Duration::from_micros((due - self.now).max(0) as u64));
        let wait = self.held_back.or(due).unwrap_or(LONGEST_WAIT);
        wait.clamp(SHORTEST_WAIT, LONGEST_WAIT)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add(slot) => self.tail.add_slot(slot, &mut self.reader.ledger.lock()),
            Command::Remove(slots, done) => {
                for slot in slots.iter() {
                    self.tail.remove_slot(slot);
                }
                // What nobody has got is not in flight.
                let mut ledger = self.reader.ledger.lock();
                for events in &mut self.pending {
                    for event in events.extract_if(.., |event| slots.contains(event.slot)) {
                        ledger.release(event.slot, event.ownership, event.time(), event.row_id);
                    }
                }
                drop(ledger);
                // Whoever asked may have gone; the slots are removed all the same.
                let _ = done.send(());
            }
            Command::Pause => self.paused = true,
            Command::Resume => self.paused = false,
        }
    }

    fn take(&mut self, answered: Answered) -> Result<(), ReaderError> {
        let now = self.tick()?;
        let Answered {
            planned,
            started,
            latency,
            page,
        } = answered;
        let outcome = match &page {
            Ok(_) => Answer::Good,
            Err(LogError::Overloaded(_)) => Answer::Overloaded,
            Err(_) => Answer::Failed,
        };
        self.limiter.end(outcome, latency, self.reader.clock.elapsed());
        match page {
            Ok(page) => {
                self.reader.metrics.reading.answered(latency, page.rows.len());
                self.well(planned.query.columns);
                self.tell(now);
                let mut ledger = self.reader.ledger.lock();
                let events = self.tail.on_page(&planned, started, page, now, &mut ledger);
                drop(ledger);
                if !events.is_empty() {
                    self.pending.push_back(events);
                }
            }
            Err(error) => {
                self.tail.on_error(&planned, &error, now);
                self.broken(planned.query.columns, &error, now);
            }
        }
        Ok(())
    }

    fn learn(&mut self, looked: Looked) -> Result<(), ReaderError> {
        match looked.capture {
            Ok(capture) => {
                self.source_time = capture.time.map(|time| (time, looked.at));
                let clock = &self.reader.clock;
                let since = clock.elapsed().saturating_sub(looked.at).as_micros() as Micros;
                self.reader
                    .retention
                    .hear(capture.time, self.reader.log.ttl(), clock.now() - since);
                self.complaint = capture.hidden;
            }
            Err(error) => {
                self.reader.metrics.reading.failed(error.category());
                self.complaint = Some(error.to_string());
                self.tell(self.wall);
                // The first stream sets wait until it is known how far our clock may be trusted.
                if self.tail.is_idle() {
                    return Ok(());
                }
            }
        }
        let now = self.tick()?;
        if let Some((time, at)) = self.source_time.filter(|(_, at)| *at == looked.at) {
            let since = self.reader.clock.elapsed().saturating_sub(at).as_micros() as Micros;
            let ahead = self.wall - time - since;
            if ahead > SKEW && self.complaint.is_none() {
                self.complaint = Some(format!(
                    "the clock of this machine is {} s ahead of ScyllaDB's; reading goes by ScyllaDB's",
                    ahead / SECOND
                ));
            }
        }
        match looked.sets {
            Ok(sets) => self.tail.on_stream_sets(&sets, &mut self.reader.ledger.lock()),
            Err(error) => {
                self.reader.metrics.reading.failed(error.category());
                self.complaint = Some(error.to_string());
            }
        }
        self.tell(now);
        Ok(())
    }

    fn broken(&mut self, columns: Columns, error: &LogError, now: Micros) {
        self.reader.metrics.reading.failed(error.category());
        let [full, identity] = &mut self.failing;
        let failing = if columns == Columns::Full { full } else { identity };
        failing.get_or_insert_with(|| error.to_string());
        self.tell(now);
    }

    /// Identities may be readable while whole rows are not (a column is missing): only what can do more heals both.
    fn well(&mut self, columns: Columns) {
        let [full, identity] = &mut self.failing;
        *identity = None;
        if columns == Columns::Full {
            *full = None;
        }
    }

    /// Says once what is wrong, and once that nothing is.
    fn tell(&mut self, now: Micros) {
        let failing = self.failing.iter().flatten().next();
        let trouble = failing.or(self.complaint.as_ref());
        if self.told.as_ref() == trouble {
            return;
        }
        match trouble {
            Some(reason) => {
                warn!(%reason, "the log is not read as it should be");
                self.reader.board.degraded(Part::Source, reason.clone(), now);
            }
            None => {
                info!("reading the log");
                self.reader.board.healthy(Part::Source, now);
            }
        }
        self.told = trouble.cloned();
    }

    fn report(&mut self, now: Micros, elapsed: Duration) {
        let metrics = &self.reader.metrics.reading;
        metrics.lag(self.tail.lag(now));
        metrics.queries_in_flight.set(i64::from(self.limiter.in_flight()));
        metrics
            .queries_allowed
            .set(i64::from(self.limiter.allowed(elapsed)));
        let counts = self.tail.counts().clone();
        metrics.counted(&self.counted, &counts);
        let broken = counts.broken - self.counted.broken;
        if broken > 0 {
            warn!(
                events = broken,
                "records without their end: their events were delivered as far as they were readable"
            );
        }
        self.counted = counts;
        let ledger = self.reader.ledger.lock();
        let bounds = ledger
            .owned()
            .iter()
            .filter_map(|slot| ledger.slot(slot))
            .map(|slot| slot.bound());
        if let Some(bound) = bounds.min() {
            metrics.headroom(self.reader.retention.headroom(bound, now));
        }
    }
}
