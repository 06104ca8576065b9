//! Reads journal, topic and dead letters, until every committed event is accounted for or the patience is used up.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::Message;
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use super::{Bounds, Latency, Report, Sighting, verify};
use crate::clock::now_us;
use crate::dead_letters::{DeadLetters, DeadLettersError};
use crate::journal::{Entry, JournalError, JournalReader, Outcome};
use crate::kafka::{Cluster, ReadError, TopicReader, sighting};

/// How often the journal is read on and progress is shown.
const TICK: Duration = Duration::from_millis(100);
/// How often the dead letters are read while events are missing: each time is a full scan.
const DEAD_LETTERS_EVERY: Duration = Duration::from_secs(1);

/// A load that neither adds to its journal nor ends it for this long was killed.
const LOAD_SILENCE: Duration = Duration::from_secs(180);

/// A broker that restarts answers within this time.
const ANSWER: Duration = Duration::from_secs(20);

/// What to read, and for how long.
pub struct Follow {
    pub cluster: Cluster,
    pub topic: String,
    pub journal: PathBuf,
    pub dead_letters: DeadLetters,
    /// Begin while the load is running or has not begun, and wait for its end.
    pub during_load: bool,
    /// How long committed events may take after the load, or after the start where there is none to wait for.
    pub patience: Duration,
    /// How long nothing may arrive before the topic counts as complete: repeats come late.
    pub settle: Duration,
    pub bounds: Bounds,
}

#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Kafka(#[from] ReadError),
    #[error(transparent)]
    DeadLetters(#[from] DeadLettersError),
    #[error("topic {topic} could not be read to its end")]
    Unread { topic: String },
    #[error("journal {path}: no load has added to it or ended it for {} s", LOAD_SILENCE.as_secs())]
    Silence { path: PathBuf },
}

/// What is known while following.
#[derive(Default)]
pub struct Progress {
    pub committed: u64,
    pub delivered: u64,
    pub load_ended: bool,
    /// Lines of the journal.
    entries: usize,
    pub latency: Latency,
    /// Committed, and neither delivered nor found among the dead letters yet.
    awaited: HashMap<Uuid, Entry>,
    /// Seen before the journal named them, or never in it.
    early: HashMap<Uuid, Sighting>,
}

impl Follow {
    /// Follows to the end and judges. `show` is called ten times a second.
    pub async fn run(self, mut show: impl FnMut(&Progress)) -> Result<Report, FollowError> {
        let mut journal = JournalReader::new(&self.journal);
        let mut reader = TopicReader::open(&self.cluster, &self.topic).await?;
        let live_from = reader.live_from();
        let mut sightings = Vec::new();
        let mut progress = Progress::default();
        let mut patience = Patience::new(&self);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                received = reader.next() => if let Some(message) = received? {
                    let is_live = live_from.get(&message.partition()).is_some_and(|from| message.offset() >= *from);
                    let sighting = sighting(&message, is_live.then(now_us));
                    progress.see(sighting);
                    sightings.push(sighting);
                    patience.last_message = Instant::now();
                },
                _ = tick.tick() => {
                    progress.read(&mut journal)?;
                    show(&progress);
                    if patience.load_is_silent(&progress) {
                        return Err(FollowError::Silence { path: self.journal });
                    }
                    if patience.over(&progress, reader.at_end()) {
                        if !reader.complete().await? {
                            if patience.gone() {
                                return Err(FollowError::Unread { topic: self.topic });
                            }
                            continue;
                        }
                        let dead_letters = self.dead_letters.event_ids().await?;
                        progress.bury(&dead_letters);
                        if progress.awaited.is_empty() || patience.exhausted(reader.at_end()) {
                            return Ok(verify(&journal.into_journal(), &sightings, &dead_letters, &self.bounds));
                        }
                    }
                }
            }
        }
    }
}

impl Progress {
    /// Committed events that are neither delivered nor dead letters yet.
    pub fn outstanding(&self) -> usize {
        self.awaited.len()
    }

    /// Age of the oldest outstanding event.
    pub fn oldest_outstanding(&self) -> Option<Duration> {
        let oldest = self
            .awaited
            .values()
            .filter_map(|entry| entry.committed_us)
            .min()?;
        Some(Duration::from_micros(
            u64::try_from(now_us() - oldest).unwrap_or(0),
        ))
    }

    fn read(&mut self, journal: &mut JournalReader) -> Result<(), JournalError> {
        let known = journal.entries().len();
        journal.poll()?;
        self.load_ended = journal.ended().is_some();
        self.entries = journal.entries().len();
        for entry in journal.entries().get(known..).unwrap_or_default() {
            self.committed += u64::from(entry.outcome == Outcome::Committed);
            match self.early.remove(&entry.event_id) {
                Some(sighting) => self.deliver(entry, &sighting),
                None if entry.outcome == Outcome::Committed => {
                    self.awaited.insert(entry.event_id, *entry);
                }
                None => {}
            }
        }
        Ok(())
    }

    fn see(&mut self, sighting: Sighting) {
        let Some(id) = sighting.event_id else { return };
        match self.awaited.remove(&id) {
            Some(entry) => self.deliver(&entry, &sighting),
            None => {
                self.early.entry(id).or_insert(sighting);
            }
        }
    }

    fn deliver(&mut self, entry: &Entry, sighting: &Sighting) {
        self.delivered += 1;
        self.latency.record(entry, sighting);
    }

    fn bury(&mut self, dead_letters: &[Uuid]) {
        for id in dead_letters {
            self.awaited.remove(id);
        }
    }
}

/// When to look for an end.
struct Patience {
    during_load: bool,
    patience: Duration,
    settle: Duration,
    last_message: Instant,
    last_entry: (usize, Instant),
    load_ended: Option<Instant>,
    next_look: Instant,
}

impl Patience {
    fn new(follow: &Follow) -> Self {
        let now = Instant::now();
        Self {
            during_load: follow.during_load,
            patience: follow.patience,
            settle: follow.settle,
            last_message: now,
            last_entry: (0, now),
            load_ended: None,
            next_look: now,
        }
    }

    fn load_is_silent(&mut self, progress: &Progress) -> bool {
        if self.last_entry.0 != progress.entries {
            self.last_entry = (progress.entries, Instant::now());
        }
        self.during_load && !progress.load_ended && self.last_entry.1.elapsed() >= LOAD_SILENCE
    }

    /// Whether the dead letters may explain all that is missing, or the time is up.
    fn over(&mut self, progress: &Progress, at_end: bool) -> bool {
        let now = Instant::now();
        if !progress.load_ended && self.during_load {
            return false;
        }
        self.load_ended.get_or_insert(now);
        let settled = at_end && now - self.last_message >= self.settle;
        if (!settled && !self.exhausted(at_end)) || now < self.next_look {
            return false;
        }
        self.next_look = now + DEAD_LETTERS_EVERY;
        true
    }

    /// A topic that is still being read is not given up, however long it is.
    fn exhausted(&self, at_end: bool) -> bool {
        let waited = self
            .load_ended
            .is_some_and(|ended| ended.elapsed() >= self.patience);
        waited && (at_end || self.last_message.elapsed() >= self.patience)
    }

    /// A topic whose end cannot be reached: nothing comes, and nobody says that nothing is left.
    fn gone(&self) -> bool {
        self.exhausted(false) && self.last_message.elapsed() >= ANSWER
    }
}
