//! Exactly-once: events go out in transactions, and a commit resolves them. An event that the broker has acknowledged is
//! only *written*; when the transaction ends, its journal records go into it, and what fails takes all of it back.

mod ending;

use std::sync::Arc;
use std::time::Duration;

use crds::relay_status::BreakerState;

use super::dead_lettering::letter;
use super::ring::{Entry, Seq, State};
use super::{Action, Event, Generation, Lane, Now, Phase};
use crate::dead_letters::message::message;
use crate::deliver::narrowing::Narrowing;
use crate::encode::Message;
use crate::journal::{Incarnation, Mark, Record, Writer};
use crate::model::{SlotId, SlotSet};
use crate::ports::{DeadLetterError, DeliveryError, Epoch, ErrorClass, Report, Role};

pub use ending::End;

/// How long a transaction stays open for more when nothing waits. A broker refuses the next transaction for some
/// milliseconds while it ends the one before, and a client waits 20 ms before it asks again (`retry.backoff`), so
/// shorter ones would not be faster.
const TICK: Duration = Duration::from_millis(25);

/// How long it stays open while more waits. Ending one costs about 10 ms in which nothing is sent.
const BACKLOG_TICK: Duration = Duration::from_millis(250);

/// Events of one transaction: their ids fill at most 800 KB of one journal record, below the usual limit of 1 MB.
const MAX_EVENTS: usize = 100_000;

/// Tokens from here on are those of what seals a transaction: dead letters, then journal records. Places of events stay
/// far below.
const RECORDS: u64 = 1 << 63;

/// How soon a call that had no answer is made again. Most of them have waited for seconds already.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Whose journal a lane writes, and where.
#[derive(Debug, Clone)]
pub struct JournalOf {
    pub identity: Arc<str>,
    pub topic: Arc<str>,
    pub incarnation: Incarnation,
    /// Where dead letters go inside the transactions, if they go to a topic.
    pub letters: Option<LettersTo>,
}

/// The topic for dead letters.
#[derive(Debug, Clone)]
pub struct LettersTo {
    pub topic: Arc<str>,
    /// A table has them as well, so a payload that the topic does not take may be left out.
    pub in_table: bool,
}

/// The current transaction of a lane, and what goes on from one to the next.
#[derive(Debug)]
pub(super) struct Transaction {
    journal: JournalOf,
    writer: Writer,
    narrowing: Narrowing,
    stage: Stage,
    /// Places of its events, rising.
    events: Vec<Seq>,
    bytes: usize,
    /// Durable dead letters whose events it resolves.
    letters: Vec<Seq>,
    /// Durable dead letters that wait for the next transaction.
    lettered: Vec<Seq>,
    /// When it got its first event, or the first letter came to wait.
    began: Duration,
    /// What it is sealed with: dead letters, as far as they go to a topic, then the journal's records.
    records: Vec<Message>,
    /// How many of them are dead letters: those of `letters`, in their order.
    letter_records: usize,
    /// Why a dead letter cannot be written.
    letter_failure: Option<DeliveryError>,
    /// It is aborted because of dead letters, and not of its events.
    failed_letters: bool,
    /// How many of them are with the producer, or have been.
    records_sent: usize,
    /// Behind its last record.
    end: i64,
    /// Why it cannot be committed, if that is no event's fault.
    failure: Option<DeliveryError>,
    /// The broker has refused a message of the transaction before: it refuses what follows as well, once.
    healing: bool,
    /// A call that has to be made again, and when.
    again: Option<(End, Duration)>,
    marks: Vec<(SlotId, Mark)>,
    broken: Option<DeliveryError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Takes events.
    Open,
    /// Takes its records, and waits for reports.
    Sealed,
    /// Its commit or abort is under way.
    Ending,
    /// It is aborted; reports of its messages are still to come.
    Aborted,
}

impl Transaction {
    pub(super) fn new(journal: JournalOf) -> Self {
        Self {
            writer: Writer::new(journal.incarnation),
            journal,
            narrowing: Narrowing::default(),
            stage: Stage::Open,
            events: Vec::new(),
            bytes: 0,
            letters: Vec::new(),
            lettered: Vec::new(),
            began: Duration::ZERO,
            records: Vec::new(),
            letter_records: 0,
            letter_failure: None,
            failed_letters: false,
            records_sent: 0,
            end: 0,
            failure: None,
            healing: false,
            again: None,
            marks: Vec::new(),
            broken: None,
        }
    }

    /// Whether this event may go into it now.
    pub(super) fn admits(&self, seq: Seq, slot: SlotId) -> bool {
        self.stage == Stage::Open && self.narrowing.admits(seq) && self.writer.admits(slot)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn sent(&mut self, seq: Seq, event: &Event, now: Now) {
        self.begin(now);
        self.events.push(seq);
        self.bytes += event.message.weight();
        self.writer.sent(event.slot);
    }

    /// Under which its dead letters are written. Nobody owns a slot under epoch 0, so it writes none of a slot that it has
    /// lost.
    pub(super) fn epoch(&self, slot: SlotId) -> Epoch {
        self.writer.epoch(slot).unwrap_or(Epoch(0))
    }

    fn begin(&mut self, now: Now) {
        if self.events.is_empty() && self.lettered.is_empty() {
            self.began = now.elapsed;
        }
    }

    pub(super) fn has_letters(&self) -> bool {
        !(self.letters.is_empty() && self.lettered.is_empty())
    }

    fn letters_failed(&self, error: &DeliveryError) -> DeadLetterError {
        let topic = self.journal.letters.as_ref().map(|letters| &*letters.topic);
        DeadLetterError {
            target: format!("topic {}", topic.unwrap_or_default()),
            detail: error.to_string(),
            fenced: false,
        }
    }

    /// Where its `index`-th record goes.
    fn target(&self, index: usize) -> Option<&LettersTo> {
        self.journal
            .letters
            .as_ref()
            .filter(|_| index < self.letter_records)
    }

    fn message(&self, record: &Record) -> Message {
        Message {
            topic: Arc::clone(&self.journal.topic),
            key: Some(record.key().into()),
            payload: Some(record.encode(&self.journal.identity).into()),
            headers: Vec::new(),
            // The client takes the present.
            timestamp: 0,
        }
    }
}

fn letter_for(entry: &Entry, topic: &Arc<str>) -> Option<Message> {
    let State::Lettered(reason) = entry.state else {
        return None;
    };
    Some(message(&letter(entry, reason, None), topic, entry.bare))
}

impl Lane {
    /// A slot was taken: see [`Writer::open`]. Before its first event is offered.
    pub fn admit(&mut self, slot: SlotId, epoch: Epoch, saved: Mark, mark: Mark) {
        if let Some(transaction) = &mut self.transaction {
            transaction.writer.open(slot, epoch, saved, mark);
        }
    }

    /// A checkpoint of the slot holds everything up to the mark.
    pub fn saved(&mut self, slot: SlotId, mark: Mark) {
        if let Some(transaction) = &mut self.transaction {
            transaction.writer.saved(slot, mark);
        }
    }

    /// Whether no transaction holds anything of the slot.
    pub fn is_free(&self, slot: SlotId) -> bool {
        let transaction = self.transaction.as_ref();
        transaction.is_none_or(|transaction| transaction.writer.is_free(slot))
    }

    /// Whether its producer is there.
    pub fn is_ready(&self) -> bool {
        self.usable(Role::Flow).is_some()
    }

    /// Why the lane can never send again: its producer was fenced, or has failed for ever, and only whoever takes its
    /// slots anew can know what became of its transaction.
    pub fn broken(&self) -> Option<&DeliveryError> {
        self.transaction.as_ref()?.broken.as_ref()
    }

    /// Moves out the marks that the commits since the last call have brought, to be taken over together with what
    /// they resolved.
    pub fn take_marks(&mut self) -> Vec<(SlotId, Mark)> {
        let transaction = self.transaction.as_mut();
        transaction.map_or_else(Vec::new, |transaction| std::mem::take(&mut transaction.marks))
    }

    /// The slot whose next event waits for a checkpoint, because its places in the journal are used up.
    pub fn waits_for_save(&self) -> Option<SlotId> {
        let transaction = self.transaction.as_ref()?;
        let next = self
            .ring
            .find(self.cursor, |entry| entry.state == State::Waiting)?;
        let slot = self.ring.get(next)?.event.slot;
        (!transaction.writer.admits(slot)).then_some(slot)
    }

    /// The slots are not ours any more. What the transaction has of them stays in it, and is told to nobody.
    pub(super) fn close_slots(&mut self, slots: SlotSet) {
        if let Some(transaction) = &mut self.transaction {
            slots.iter().for_each(|slot| transaction.writer.close(slot));
            self.remove_revoked_letters();
            let first = self.ring.first();
            if let Some(transaction) = &mut self.transaction {
                transaction.narrowing.resolved_below(first);
            }
        }
    }

    /// The next journal record to hand over.
    pub(super) fn next_record(&self) -> Option<(Role, Generation, u64, &Message)> {
        let transaction = self.transaction.as_ref()?;
        if transaction.stage != Stage::Sealed
            || !matches!(self.phase, Phase::Flow)
            || self.full && self.outstanding > 0
        {
            return None;
        }
        let at = transaction.records_sent;
        let message = transaction.records.get(at)?;
        Some((Role::Flow, self.usable(Role::Flow)?, RECORDS + at as u64, message))
    }

    pub(super) fn is_record(token: u64) -> bool {
        token >= RECORDS
    }

    pub(super) fn record_sent(&mut self) {
        self.outstanding += 1;
        if let Some(transaction) = &mut self.transaction {
            transaction.records_sent += 1;
        }
    }

    pub(super) fn record_refused(&mut self, token: u64, error: DeliveryError, now: Now) {
        self.record_sent();
        let result = Err(error);
        self.record_reported(Report { token, result }, now);
    }

    pub(super) fn record_reported(&mut self, report: Report, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        self.full = false;
        self.outstanding -= 1;
        let index = (report.token - RECORDS) as usize;
        match (report.result, transaction.target(index)) {
            (Ok(_), Some(_)) => {}
            (Ok(delivered), None) => transaction.end = transaction.end.max(delivered.offset + 1),
            (Err(error), None) => {
                transaction.failure = Some(error);
                self.phase = Phase::Drain;
            }
            (Err(error), Some(target)) => {
                let entry = transaction
                    .letters
                    .get(index)
                    .and_then(|seq| self.ring.get_mut(*seq));
                match entry {
                    Some(entry) if error.class == ErrorClass::Message && target.in_table && !entry.bare => {
                        entry.bare = true;
                    }
                    // What failed only because of others tells nothing.
                    _ if error.class == ErrorClass::Collateral => {}
                    _ => transaction.letter_failure = Some(error),
                }
                transaction.failed_letters = true;
                self.phase = Phase::Drain;
            }
        }
        self.transaction_reported(now);
    }

    /// Something of the transaction got its report: it may be complete, or given up.
    pub(super) fn transaction_reported(&mut self, now: Now) {
        let aborted = |transaction: &Transaction| transaction.stage == Stage::Aborted;
        match self.phase {
            Phase::Drain if self.transaction.as_ref().is_some_and(aborted) => {
                if self.outstanding == 0 {
                    self.aborted(now);
                }
            }
            Phase::Drain => self.end_generation(now),
            _ => self.commit_if_complete(),
        }
    }

    /// A dead letter is durable; the next transaction resolves its event.
    pub(super) fn lettered(&mut self, seq: Seq, now: Now) {
        if let Some(transaction) = &mut self.transaction {
            transaction.begin(now);
            transaction.lettered.push(seq);
        }
    }

    /// Ends the transaction if it is time to.
    pub(super) fn seal_if_due(&mut self, now: Now) {
        if self.is_due(now) {
            self.seal(now);
        }
    }

    /// When [`Self::seal_if_due`] has to be asked again.
    pub(super) fn transaction_deadline(&self, now: Now) -> Option<Duration> {
        let transaction = self.transaction.as_ref()?;
        let again = transaction.again.as_ref().map(|(_, at)| *at);
        let open = transaction.stage == Stage::Open
            && !(transaction.events.is_empty() && transaction.lettered.is_empty());
        let ticks = [TICK, BACKLOG_TICK].map(|tick| transaction.began + tick);
        let tick = ticks.into_iter().find(|at| open && *at > now.elapsed);
        again.into_iter().chain(tick).min()
    }

    fn is_due(&self, now: Now) -> bool {
        let Some(transaction) = &self.transaction else {
            return false;
        };
        let letters = !transaction.lettered.is_empty() && now.elapsed >= self.letters_after;
        let nothing = transaction.events.is_empty() && !letters;
        if nothing
            || transaction.stage != Stage::Open
            || !matches!(self.phase, Phase::Flow)
            || !self.is_ready()
        {
            return false;
        }
        let age = now.elapsed.saturating_sub(transaction.began);
        // The other half of the lane is filled while this one is committed.
        let half = self.policy.max_messages.div_ceil(2).min(MAX_EVENTS);
        let large = transaction.events.len() >= half || transaction.bytes >= self.policy.max_bytes / 2;
        if age >= BACKLOG_TICK || large {
            return true;
        }
        let attempting = self.breaker.state() == BreakerState::Closed && now.elapsed >= self.not_before;
        let next = self
            .ring
            .find(self.cursor, |entry| entry.state == State::Waiting)
            .and_then(|seq| Some((seq, self.ring.get(seq)?.event.slot)));
        match next {
            Some((seq, slot)) if attempting && transaction.admits(seq, slot) => false,
            // Nothing more can come before this one has ended.
            Some(_) if attempting => true,
            _ => age >= TICK || !self.accepts(),
        }
    }

    fn seal(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let writer = &transaction.writer;
        let ring = &self.ring;
        let admitted = |seq: &Seq| {
            ring.get(*seq)
                .is_some_and(|entry| writer.admits(entry.event.slot))
        };
        // Those without a place in the journal wait for a checkpoint; after a failure all of them wait for a while.
        let may_go = now.elapsed >= self.letters_after;
        let ready = |seq: &Seq| may_go && admitted(seq);
        let (letters, waiting) = transaction.lettered.drain(..).partition(ready);
        (transaction.letters, transaction.lettered) = (letters, waiting);
        if transaction.events.is_empty() && transaction.letters.is_empty() {
            return;
        }
        let members = transaction.events.iter().chain(&transaction.letters);
        let resolved = members.filter_map(|seq| {
            let event = &ring.get(*seq)?.event;
            let (time, row_id) = event.resolves();
            Some((event.slot, time, row_id))
        });
        transaction.stage = Stage::Sealed;
        match transaction.writer.seal(resolved) {
            Ok(records) => {
                let mut messages = Vec::new();
                if let Some(target) = &transaction.journal.letters {
                    let letters = transaction.letters.iter().filter_map(|seq| ring.get(*seq));
                    messages.extend(letters.filter_map(|entry| letter_for(entry, &target.topic)));
                }
                transaction.letter_records = messages.len();
                messages.extend(records.iter().map(|record| transaction.message(record)));
                (transaction.records, transaction.records_sent) = (messages, 0);
                self.commit_if_complete();
            }
            Err(error) => {
                transaction.failure = Some(ending::unsealed(error));
                transaction.records.clear();
                self.phase = Phase::Drain;
                self.end_generation(now);
            }
        }
    }

    fn commit_if_complete(&mut self) {
        let outstanding = self.outstanding;
        let Some(transaction) = &self.transaction else {
            return;
        };
        let sent = transaction.records_sent == transaction.records.len();
        if transaction.stage == Stage::Sealed && sent && outstanding == 0 {
            self.end(End::Commit);
        }
    }

    fn end(&mut self, end: End) {
        let Some(generation) = self.flow.generation else {
            return;
        };
        if let Some(transaction) = &mut self.transaction {
            transaction.stage = Stage::Ending;
            self.actions.push_back(Action::End(generation, end));
        }
    }
}
