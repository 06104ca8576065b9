//! An open-loop load: every write has its time on a fixed schedule, and a slow answer delays neither the schedule nor
//! hides in the latencies, which count from the scheduled time.

pub mod target;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::clock::now_us;
use crate::journal::{Entry, JournalError, JournalWriter, Outcome, Totals, digest};
use crate::verify::latency::histogram;
use target::{Answer, Target};
use work::Work;

/// Answers on their way to the journal: 50 ms of the fastest load.
const JOURNAL_QUEUE: usize = 4096;
/// How often the journal becomes readable for a verifier that follows it.
const FLUSH_EVERY: Duration = Duration::from_millis(20);
/// How long a load may run over its end while it works off writes that are behind schedule.
const OVERRUN: Duration = Duration::from_secs(60);
/// A write that was not answered may still be on its way; afterwards it is looked up.
const LOOK_UP_AFTER: Duration = Duration::from_secs(3);

/// What to write, and when.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Writes in all.
    pub events: u64,
    /// Writes per second; None: as fast as the answers come (not open-loop).
    pub rate: Option<u32>,
    /// Writers. Each works in sequence, so the rate they can hold is their number by the time of a write.
    pub writers: usize,
    /// Orders that are written to at the same time.
    pub orders: usize,
    /// Events of one order before the next one takes its place, at least 1.
    pub events_per_order: u32,
    /// Bytes of a payload, half of them random; about, for the fields around it vary.
    pub payload_bytes: usize,
    /// Every how many writes the payload has how many bytes instead.
    pub large: Option<(u64, usize)>,
    pub journal: PathBuf,
}

/// How a load went.
#[derive(Debug)]
pub struct Summary {
    pub totals: Totals,
    pub elapsed: Duration,
    /// From the scheduled time to the answer, in microseconds; committed writes only.
    pub latency: Histogram<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("a writer stopped")]
    Writer(#[from] tokio::task::JoinError),
}

struct Written {
    entry: Entry,
    answer: Answer,
}

/// Runs a plan to its end, or until `stop`; what is in flight then is still answered and noted.
pub async fn run(
    plan: Plan,
    target: Target,
    stop: CancellationToken,
    show: impl FnMut(Totals) + Send + 'static,
) -> Result<Summary, LoadError> {
    let journal = JournalWriter::open(&plan.journal)?;
    let target = Arc::new(target);
    let (answers, queue) = mpsc::channel(JOURNAL_QUEUE);
    let notary = tokio::spawn(note(journal, queue, Arc::clone(&target), show));

    let start = Instant::now();
    let schedule = Schedule {
        start,
        start_us: now_us(),
        rate: plan.rate,
        stop: stop.clone(),
    };
    let mut writers = JoinSet::new();
    for writer in 0..plan.writers {
        let work = Work::new(&plan, writer);
        writers.spawn(write(
            work,
            schedule.clone(),
            Arc::clone(&target),
            answers.clone(),
        ));
    }
    drop(answers);
    let end = plan
        .rate
        .map(|rate| start + Duration::from_secs_f64(plan.events as f64 / f64::from(rate)) + OVERRUN);
    let overrun = async {
        match end {
            Some(end) => sleep_until(end).await,
            None => std::future::pending().await,
        }
    };
    let all = async {
        while let Some(writer) = writers.join_next().await {
            writer?;
        }
        Ok::<_, LoadError>(())
    };
    tokio::pin!(all);
    tokio::select! {
        done = &mut all => done?,
        () = overrun => {
            stop.cancel();
            all.await?;
        }
    }
    let elapsed = start.elapsed();
    let (totals, latency) = notary.await??;
    Ok(Summary {
        totals,
        elapsed,
        latency,
    })
}

/// Times of the writes.
#[derive(Clone)]
struct Schedule {
    start: Instant,
    start_us: i64,
    rate: Option<u32>,
    stop: CancellationToken,
}

impl Schedule {
    /// Waits until a write is due. Its scheduled time in microseconds since the Unix epoch; None if the load stops.
    async fn due(&self, number: u64) -> Option<i64> {
        let Some(rate) = self.rate else {
            return (!self.stop.is_cancelled()).then(now_us);
        };
        let after = Duration::from_secs_f64(number as f64 / f64::from(rate));
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            () = sleep_until(self.start + after) => {
                Some(self.start_us + i64::try_from(after.as_micros()).unwrap_or(i64::MAX))
            }
        }
    }
}

async fn write(mut work: Work, schedule: Schedule, target: Arc<Target>, answers: mpsc::Sender<Written>) {
    while let Some(number) = work.next_number() {
        let Some(scheduled_us) = schedule.due(number).await else {
            return;
        };
        let write = work.next_write(number);
        let content = write.content().ok();
        let answer = target.write(&write).await;
        work.answered(&answer);
        let entry = Entry {
            event_id: write.event_id,
            aggregate_id: write.order_id,
            sequence: write.sequence,
            scheduled_us,
            committed_us: matches!(answer, Answer::Committed).then(now_us),
            outcome: Outcome::Committed,
            digest: content.map(|(event_type, payload)| digest(event_type.as_bytes(), payload.as_bytes())),
        };
        // The journal gone means that the load has failed and says so elsewhere.
        if answers.send(Written { entry, answer }).await.is_err() {
            return;
        }
    }
}

/// Writes the journal; at the end looks up what was not answered.
async fn note(
    mut journal: JournalWriter,
    mut queue: mpsc::Receiver<Written>,
    target: Arc<Target>,
    mut show: impl FnMut(Totals),
) -> Result<(Totals, Histogram<u64>), JournalError> {
    let mut totals = Totals::default();
    let mut latency = histogram();
    let mut unanswered: Vec<Entry> = Vec::new();
    let mut refusals = Refusals::default();
    let mut flush = interval(FLUSH_EVERY);
    flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            written = queue.recv() => {
                let Some(Written { entry, answer }) = written else { break };
                totals.offered += 1;
                match answer {
                    Answer::Committed => {
                        totals.committed += 1;
                        let micros = entry.committed_us.unwrap_or(entry.scheduled_us) - entry.scheduled_us;
                        latency.saturating_record(u64::try_from(micros).unwrap_or(0));
                        journal.write(entry)?;
                    }
                    Answer::Refused(reason) => {
                        totals.refused += 1;
                        refusals.report(&reason);
                    }
                    Answer::Unknown(reason) => {
                        refusals.report(&reason);
                        unanswered.push(entry);
                    }
                }
            }
            _ = flush.tick() => {
                journal.flush()?;
                show(totals);
            }
        }
    }
    if !unanswered.is_empty() {
        sleep(LOOK_UP_AFTER).await;
    }
    for entry in unanswered {
        let outcome = target.look_up(&entry).await;
        totals.committed += u64::from(outcome == Outcome::Committed);
        totals.unknown += u64::from(outcome == Outcome::Unknown);
        journal.write(Entry { outcome, ..entry })?;
    }
    journal.end(totals)?;
    show(totals);
    Ok((totals, latency))
}

/// Says why writes fail, without a line per write.
#[derive(Default)]
struct Refusals {
    reported: Option<Instant>,
    unreported: u64,
}

impl Refusals {
    fn report(&mut self, reason: &str) {
        const EVERY: Duration = Duration::from_secs(5);
        self.unreported += 1;
        if self.reported.is_none_or(|last| last.elapsed() >= EVERY) {
            tracing::warn!(count = self.unreported, reason, "writes failed");
            self.reported = Some(Instant::now());
            self.unreported = 0;
        }
    }
}
