//! The loop of a task that reads: it asks, several queries at once, and hands on what the answers hold. A reader of the log
//! and a poller of the table differ in what they ask and in what an answer means: that is their [`Work`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cleanup::UNDELETED_MAX;
use crate::event::SourceEvent;
use crate::health::Part;
use crate::model::{Micros, SlotId};
use crate::ports::{ChangeLog, Clock, LogError};
use crate::source::limiter::{Answer, Limiter, Limits};
use crate::source::reader::{Command, Reader, ReaderError};
use crate::source::tail::Counts;

/// How often the source is asked what it says of itself. A switch of stream sets is announced a minute ahead, and seldom late.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Waiting for something other than time, it is looked again after this long.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// A budget that lacks the last fraction of a query is no reason to spin.
const SHORTEST_WAIT: Duration = Duration::from_micros(100);

/// What is asked, and what an answer means.
pub(super) trait Work<L, C>: Sized {
    /// What the source says of itself.
    type Looked: Send + 'static;
    type Page: Send + 'static;

    /// What is read, in a log line.
    const WHAT: &'static str;

    /// The time has moved on.
    fn tick(&mut self, with: &Reader<L, C>) -> Result<(), ReaderError>;

    fn look(&self, with: &Reader<L, C>) -> BoxFuture<'static, Self::Looked>;

    fn learn(&mut self, looked: Self::Looked, with: &Reader<L, C>) -> Result<(), ReaderError>;

    /// The next query, if one is due.
    fn next(&mut self, with: &Reader<L, C>) -> Option<BoxFuture<'static, Answered<Self::Page>>>;

    /// The events of a page that nobody has yet. They are taken.
    fn take(
        &mut self,
        answered: Answered<Self::Page>,
        with: &Reader<L, C>,
    ) -> Result<Vec<SourceEvent>, ReaderError>;

    /// How long nothing will be due; None: until an answer comes.
    fn due_in(&self, with: &Reader<L, C>) -> Option<Duration>;

    fn add(&mut self, slot: SlotId, with: &Reader<L, C>);

    fn remove(&mut self, slot: SlotId);

    /// Why it is not read as it should be.
    fn trouble(&self) -> Option<&String>;

    /// The source's time.
    fn now(&self, with: &Reader<L, C>) -> Micros;

    /// How far behind reading is; None with nothing to read.
    fn lag(&self, with: &Reader<L, C>) -> Option<Micros>;

    fn counts(&self) -> &Counts;
}

/// What became of a query.
pub(super) struct Answered<P> {
    pub(super) latency: Duration,
    pub(super) outcome: Answer,
    pub(super) page: P,
}

/// What the limiter is told of it.
pub(super) fn outcome<T>(result: &Result<T, LogError>) -> Answer {
    match result {
        Ok(_) => Answer::Good,
        Err(LogError::Overloaded(_)) => Answer::Overloaded,
        Err(_) => Answer::Failed,
    }
}

/// What happens next.
enum Step<W: Work<L, C>, L, C> {
    Command(Command),
    Sent,
    Closed,
    Looked(Result<W::Looked, JoinError>),
    Answer(Result<Answered<W::Page>, JoinError>),
    Time,
}

pub(super) struct Pump<L, C, W: Work<L, C>> {
    with: Reader<L, C>,
    work: W,
    limiter: Limiter,
    pages: JoinSet<Answered<W::Page>>,
    looking: JoinSet<W::Looked>,
    /// When the source is asked next what it says of itself.
    looking_due: Duration,
    /// Taken, not yet handed on.
    pending: VecDeque<Vec<SourceEvent>>,
    paused: bool,
    /// What health was told last.
    told: Option<String>,
    counted: Counts,
    /// How long nothing may start.
    held_back: Option<Duration>,
}

/// What was taken and nobody got is read again by the next one.
impl<L, C, W: Work<L, C>> Drop for Pump<L, C, W> {
    fn drop(&mut self) {
        let mut ledger = self.with.ledger.lock();
        for event in self.pending.iter().flatten() {
            ledger.release(event.slot, event.ownership, event.time(), event.row_id);
        }
    }
}

impl<L: ChangeLog, C: Clock, W: Work<L, C>> Pump<L, C, W> {
    pub(super) fn new(with: Reader<L, C>, limits: Limits, work: W) -> Self {
        let elapsed = with.clock.elapsed();
        Self {
            limiter: Limiter::new(limits, elapsed),
            pages: JoinSet::new(),
            looking: JoinSet::new(),
            looking_due: elapsed,
            pending: VecDeque::new(),
            paused: false,
            told: Some("starting".into()),
            counted: Counts::default(),
            held_back: None,
            with,
            work,
        }
    }

    /// Reads until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), ReaderError> {
        let commands = Arc::clone(&self.with.commands);
        let mut commands = commands.lock().await;
        loop {
            self.ask()?;
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(command) = commands.recv() => Step::Command(command),
                step = self.step() => step,
            };
            self.go(step)?;
        }
    }

    /// Starts what is due and allowed.
    fn ask(&mut self) -> Result<(), ReaderError> {
        self.work.tick(&self.with)?;
        let elapsed = self.with.clock.elapsed();
        if elapsed >= self.looking_due && self.looking.is_empty() {
            self.looking_due = elapsed + LOOK_INTERVAL;
            self.looking.spawn(self.work.look(&self.with));
            self.report(elapsed);
        }
        self.held_back = None;
        if self.with.ledger.lock().undeleted() >= UNDELETED_MAX {
            self.held_back = Some(LONGEST_WAIT);
            return Ok(());
        }
        while !self.paused && self.pending.is_empty() {
            if let Err(wait) = self.limiter.ready(elapsed) {
                self.held_back = Some(wait.unwrap_or(LONGEST_WAIT));
                break;
            }
            let Some(query) = self.work.next(&self.with) else {
                break;
            };
            self.limiter.begin();
            self.pages.spawn(query);
        }
        Ok(())
    }

    /// Waits for what happens next. Nothing is lost if it is dropped before it returns.
    async fn step(&mut self) -> Step<W, L, C> {
        let wait = self.wait();
        tokio::select! {
            biased;
            permit = self.with.out.reserve(), if !self.pending.is_empty() => {
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
            Some(answer) = self.pages.join_next(), if self.pending.is_empty() => Step::Answer(answer),
            () = tokio::time::sleep(wait) => Step::Time,
        }
    }

    fn go(&mut self, step: Step<W, L, C>) -> Result<(), ReaderError> {
        let ended = |error: JoinError| ReaderError::Query(error.to_string());
        match step {
            Step::Command(command) => self.obey(command),
            Step::Looked(looked) => {
                self.work.learn(looked.map_err(ended)?, &self.with)?;
                self.tell();
            }
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
        let due = self.work.due_in(&self.with).filter(|_| asks);
        let wait = self.held_back.or(due).unwrap_or(LONGEST_WAIT);
        wait.clamp(SHORTEST_WAIT, LONGEST_WAIT)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add(slot) => self.work.add(slot, &self.with),
            Command::Remove(slots, done) => {
                for slot in slots.iter() {
                    self.work.remove(slot);
                }
                // What nobody has got is not in flight.
                let mut ledger = self.with.ledger.lock();
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

    fn take(&mut self, answered: Answered<W::Page>) -> Result<(), ReaderError> {
        let elapsed = self.with.clock.elapsed();
        self.limiter.end(answered.outcome, answered.latency, elapsed);
        let events = self.work.take(answered, &self.with)?;
        if !events.is_empty() {
            self.pending.push_back(events);
        }
        self.tell();
        Ok(())
    }

    /// Says once what is wrong, and once that nothing is.
    fn tell(&mut self) {
        let trouble = self.work.trouble();
        if self.told.as_ref() == trouble {
            return;
        }
        let (board, now) = (&self.with.board, self.with.clock.now());
        match trouble {
            Some(reason) => {
                warn!(%reason, "{} is not read as it should be", W::WHAT);
                board.degraded(Part::Source, reason.clone(), now);
            }
            None => {
                info!("reading {}", W::WHAT);
                board.healthy(Part::Source, now);
            }
        }
        self.told = trouble.cloned();
    }

    fn report(&mut self, elapsed: Duration) {
        let metrics = &self.with.metrics.reading;
        metrics.lag(self.work.lag(&self.with));
        metrics.queries_in_flight.set(i64::from(self.limiter.in_flight()));
        metrics
            .queries_allowed
            .set(i64::from(self.limiter.allowed(elapsed)));
        let counts = self.work.counts().clone();
        metrics.counted(&self.counted, &counts);
        let broken = counts.broken - self.counted.broken;
        if broken > 0 {
            warn!(
                events = broken,
                "records without their end: their events were delivered as far as they were readable"
            );
        }
        self.counted = counts;
        let now = self.work.now(&self.with);
        let ledger = self.with.ledger.lock();
        let owned = ledger.owned();
        let bounds = owned.iter().filter_map(|slot| ledger.slot(slot));
        if let Some(bound) = bounds.map(|slot| slot.bound()).min() {
            metrics.headroom(self.with.retention.headroom(bound, now));
        }
    }
}
