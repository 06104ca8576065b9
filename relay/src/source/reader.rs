//! The task that reads the log: asks what the tail plans, several groups at once, and hands on what it returns.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::event::SourceEvent;
use crate::health::Board;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::model::{Micros, SECOND, SlotId, SlotSet};
use crate::ports::{Capture, ChangeLog, Clock, Columns, LogError, LogPage, StreamSet};
use crate::source::limiter::Limits;
use crate::source::pump::{Answered, Pump, Work, outcome};
use crate::source::retention::Retention;
use crate::source::tail::{Config, Counts, Planned, SKEW, Tail};

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
        let (limits, work) = (self.limits, Reading::new(&self));
        Pump::new(self, limits, work).run(stop).await
    }
}

/// What a reader of the log asks, and what an answer means.
struct Reading {
    tail: Tail,
    /// Why reads of whole rows fail, and reads of identities.
    failing: [Option<String>; 2],
    /// What the source says of itself that is not as it should be, or why it does not say.
    complaint: Option<String>,
    /// Wall clock, as it was read last.
    wall: Micros,
    /// The source's clock, and our monotonic one at that moment.
    source_time: Option<(Micros, Duration)>,
    /// Time as the reader takes it.
    now: Micros,
    /// What it does not go back from.
    reached: Micros,
}

/// What the source says of itself.
struct Looked {
    capture: Result<Capture, LogError>,
    /// Monotonic, when `capture` was answered.
    at: Duration,
    sets: Result<Vec<StreamSet>, LogError>,
}

struct Page {
    planned: Planned,
    started: Micros,
    page: Result<LogPage, LogError>,
}

impl Reading {
    fn new<L, C: Clock>(with: &Reader<L, C>) -> Self {
        let mut tail = Tail::new(with.tail.clone());
        let mut ledger = with.ledger.lock();
        for slot in ledger.reading().iter() {
            tail.add_slot(slot, &mut ledger);
        }
        Self {
            tail,
            failing: [None, None],
            complaint: None,
            wall: with.clock.now(),
            source_time: None,
            now: 0,
            reached: 0,
        }
    }

    fn broken(&mut self, columns: Columns, error: &LogError) {
        let [full, identity] = &mut self.failing;
        let failing = if columns == Columns::Full { full } else { identity };
        failing.get_or_insert_with(|| error.to_string());
    }

    /// Identities may be readable while whole rows are not (a column is missing): only what can do more heals both.
    fn well(&mut self, columns: Columns) {
        let [full, identity] = &mut self.failing;
        *identity = None;
        if columns == Columns::Full {
            *full = None;
        }
    }
}

impl<L: ChangeLog, C: Clock> Work<L, C> for Reading {
    type Looked = Looked;
    type Page = Page;

    const WHAT: &'static str = "the log";

    /// The wall clock, which never goes back by a little, and never further ahead of the source's than clocks may
    /// differ: what a clock that is wrong by minutes called swept would not have been written yet.
    fn tick(&mut self, with: &Reader<L, C>) -> Result<(), ReaderError> {
        let wall = with.clock.now();
        if wall < self.wall - CLOCK_STEP {
            return Err(ReaderError::Clock(Duration::from_micros(
                (self.wall - wall) as u64,
            )));
        }
        self.wall = self.wall.max(wall);
        let most = self.source_time.map_or(Micros::MAX, |(time, at)| {
            let since = with.clock.elapsed().saturating_sub(at);
            time.saturating_add(since.as_micros() as Micros + SKEW)
        });
        self.now = self.reached.max(self.wall.min(most));
        // Before the source has told its time and its streams, nothing holds on to ours.
        if self.source_time.is_some() || !self.tail.is_idle() {
            self.reached = self.now;
        }
        Ok(())
    }

    fn look(&self, with: &Reader<L, C>) -> BoxFuture<'static, Looked> {
        let (log, clock) = (Arc::clone(&with.log), Arc::clone(&with.clock));
        async move {
            Looked {
                capture: log.capture().await,
                at: clock.elapsed(),
                sets: log.stream_sets().await,
            }
        }
        .boxed()
    }

    fn learn(&mut self, looked: Looked, with: &Reader<L, C>) -> Result<(), ReaderError> {
        match looked.capture {
            Ok(capture) => {
                self.source_time = capture.time.map(|time| (time, looked.at));
                let clock = &with.clock;
                let since = clock.elapsed().saturating_sub(looked.at).as_micros() as Micros;
                with.retention
                    .hear(capture.time, with.log.ttl(), clock.now() - since);
                self.complaint = capture.hidden;
            }
            Err(error) => {
                with.metrics.reading.failed(error.category());
                self.complaint = Some(error.to_string());
                // The first stream sets wait until it is known how far our clock may be trusted.
                if self.tail.is_idle() {
                    return Ok(());
                }
            }
        }
        self.tick(with)?;
        if let Some((time, at)) = self.source_time.filter(|(_, at)| *at == looked.at) {
            let since = with.clock.elapsed().saturating_sub(at).as_micros() as Micros;
            let ahead = self.wall - time - since;
            if ahead > SKEW && self.complaint.is_none() {
                self.complaint = Some(format!(
                    "the clock of this machine is {} s ahead of ScyllaDB's; reading goes by ScyllaDB's",
                    ahead / SECOND
                ));
            }
        }
        match looked.sets {
            Ok(sets) => self.tail.on_stream_sets(&sets, &mut with.ledger.lock()),
            Err(error) => {
                with.metrics.reading.failed(error.category());
                self.complaint = Some(error.to_string());
            }
        }
        Ok(())
    }

    fn next(&mut self, with: &Reader<L, C>) -> Option<BoxFuture<'static, Answered<Page>>> {
        let started = self.now;
        let planned = self.tail.next_query(started)?;
        with.metrics
            .reading
            .asked(planned.cursor, planned.query.streams.len());
        let (log, clock) = (Arc::clone(&with.log), Arc::clone(&with.clock));
        let query = async move {
            let asked = clock.elapsed();
            let page = log.read(planned.query.clone()).await;
            let latency = clock.elapsed().saturating_sub(asked);
            Answered {
                latency,
                outcome: outcome(&page),
                page: Page {
                    planned,
                    started,
                    page,
                },
            }
        };
        Some(query.boxed())
    }

    fn take(
        &mut self,
        answered: Answered<Page>,
        with: &Reader<L, C>,
    ) -> Result<Vec<SourceEvent>, ReaderError> {
        self.tick(with)?;
        let Page {
            planned,
            started,
            page,
        } = answered.page;
        match page {
            Ok(page) => {
                with.metrics.reading.answered(answered.latency, page.rows.len());
                self.well(planned.query.columns);
                let mut ledger = with.ledger.lock();
                Ok(self.tail.on_page(&planned, started, page, self.now, &mut ledger))
            }
            Err(error) => {
                with.metrics.reading.failed(error.category());
                self.tail.on_error(&planned, &error, self.now);
                self.broken(planned.query.columns, &error);
                Ok(Vec::new())
            }
        }
    }

    fn due_in(&self, _: &Reader<L, C>) -> Option<Duration> {
        let due = self.tail.next_due(self.now)?;
        Some(Duration::from_micros((due - self.now).max(0) as u64))
    }

    fn add(&mut self, slot: SlotId, with: &Reader<L, C>) {
        self.tail.add_slot(slot, &mut with.ledger.lock());
    }

    fn remove(&mut self, slot: SlotId) {
        self.tail.remove_slot(slot);
    }

    fn trouble(&self) -> Option<&String> {
        self.failing.iter().flatten().next().or(self.complaint.as_ref())
    }

    fn now(&self, _: &Reader<L, C>) -> Micros {
        self.now
    }

    fn lag(&self, _: &Reader<L, C>) -> Option<Micros> {
        self.tail.lag(self.now)
    }

    fn counts(&self) -> &Counts {
        self.tail.counts()
    }
}
