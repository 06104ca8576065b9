//! The cluster's logs and its transaction coordinator, from Kafka's protocol: an epoch fences, a marker decides, and whoever
//! reads what is committed sees nothing behind the oldest open transaction.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use super::PARTITIONS;
use crate::world::Micros;

/// The partitions of the topic, then the journal's only one.
pub(super) const LOGS: usize = PARTITIONS + 1;
pub(super) const JOURNAL: usize = PARTITIONS;

#[derive(Default)]
pub(crate) struct Cluster {
    logs: [Log; LOGS],
    ids: BTreeMap<String, Id>,
    transactions: Vec<Transaction>,
}

#[derive(Default)]
struct Log {
    entries: Vec<Entry>,
    /// Up to here consumers of what is committed have seen it.
    shown: usize,
}

struct Entry {
    what: What,
    /// None: written outside of any.
    transaction: Option<usize>,
}

#[derive(Clone)]
pub(super) enum What {
    /// An event, by the oracle's number of its send.
    Message(usize),
    /// Of the journal.
    Record(Bytes),
    /// The end of a transaction.
    Marker,
}

/// A record's bytes say which incarnation of the journal it is of, and that is drawn anew in every run.
impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(send) => write!(f, "message {send}"),
            Self::Record(record) => write!(f, "record of {} bytes", record.len()),
            Self::Marker => f.write_str("marker"),
        }
    }
}

#[derive(Default)]
struct Id {
    epoch: u32,
    /// The last transaction.
    last: Option<usize>,
}

#[derive(Debug)]
struct Transaction {
    id: String,
    began: Micros,
    state: State,
    logs: [bool; LOGS],
    sends: Vec<usize>,
    records: Vec<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Decided, and its markers are on their way.
    Committing,
    Committed,
    Aborted,
}

/// Why the cluster does not do what a producer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// Somebody has initialised its id since, or its transaction has lasted too long.
    Fenced,
    /// Markers of its last transaction are on their way.
    Busy,
}

/// What a step has brought about.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Events and journal records of the transaction that is decided now.
    pub(super) committed: Option<(Vec<usize>, Vec<Bytes>)>,
    /// A transaction with something in it was taken back.
    pub(super) aborted: bool,
    /// Events that consumers of what is committed see now, in this order.
    pub(super) shown: Vec<usize>,
}

impl Cluster {
    /// Makes whoever asks the only producer with this id: what another one has open is taken back, what it has begun to
    /// commit is finished. Its epoch, from 1.
    pub(super) fn initialise(&mut self, id: &str) -> (u32, Effects) {
        let entry = self.ids.entry(id.to_owned()).or_default();
        entry.epoch += 1;
        let epoch = entry.epoch;
        let effects = match entry.last {
            Some(last) if self.transactions[last].state == State::Open => self.abort(last),
            Some(last) => self.complete(last),
            None => Effects::default(),
        };
        (epoch, effects)
    }

    /// Outside of any transaction. The offset of the first.
    pub(super) fn append(&mut self, log: usize, all: impl IntoIterator<Item = What>) -> (i64, Effects) {
        let entries = &mut self.logs[log].entries;
        let offset = entries.len() as i64;
        entries.extend(all.into_iter().map(|what| Entry {
            what,
            transaction: None,
        }));
        let effects = Effects {
            shown: self.show(),
            ..Effects::default()
        };
        (offset, effects)
    }

    /// Inside the producer's transaction, which begins with its first message. The offset of the first.
    pub(super) fn write(
        &mut self,
        (id, epoch): (&str, u32),
        transaction: &mut Option<usize>,
        log: usize,
        all: &[What],
        now: Micros,
    ) -> Result<i64, Denied> {
        self.authorise(id, epoch)?;
        let number = match *transaction {
            Some(number) => number,
            None => self.begin(id, now)?,
        };
        *transaction = Some(number);
        let current = &mut self.transactions[number];
        if current.state != State::Open {
            return Err(Denied::Fenced);
        }
        current.logs[log] = true;
        let entries = &mut self.logs[log].entries;
        let offset = entries.len() as i64;
        for what in all {
            match what {
                What::Message(send) => current.sends.push(*send),
                What::Record(record) => current.records.push(record.clone()),
                What::Marker => {}
            }
            entries.push(Entry {
                what: what.clone(),
                transaction: Some(number),
            });
        }
        Ok(offset)
    }

    fn authorise(&self, id: &str, epoch: u32) -> Result<(), Denied> {
        let current = self.ids.get(id).map(|id| id.epoch);
        if current == Some(epoch) {
            Ok(())
        } else {
            Err(Denied::Fenced)
        }
    }

    fn begin(&mut self, id: &str, now: Micros) -> Result<usize, Denied> {
        let number = self.transactions.len();
        let last = &mut self.ids.entry(id.to_owned()).or_default().last;
        let busy = last.is_some_and(|last| self.transactions[last].state == State::Committing);
        if busy {
            return Err(Denied::Busy);
        }
        *last = Some(number);
        self.transactions.push(Transaction {
            id: id.to_owned(),
            began: now,
            state: State::Open,
            logs: [false; LOGS],
            sends: Vec::new(),
            records: Vec::new(),
        });
        Ok(number)
    }

    /// Ends a transaction. A commit that is asked for again is answered as the first time; [`Self::complete`] makes it seen.
    pub(super) fn end(
        &mut self,
        (id, epoch): (&str, u32),
        number: usize,
        commit: bool,
    ) -> Result<Effects, Denied> {
        self.authorise(id, epoch)?;
        let transaction = &mut self.transactions[number];
        match (transaction.state, commit) {
            (State::Open, true) => {
                transaction.state = State::Committing;
                let decided = (transaction.sends.clone(), transaction.records.clone());
                Ok(Effects {
                    committed: Some(decided),
                    ..Effects::default()
                })
            }
            (State::Open, false) => Ok(self.abort(number)),
            (State::Committing | State::Committed, true) | (State::Aborted, false) => Ok(Effects::default()),
            (State::Committing | State::Committed, false) | (State::Aborted, true) => Err(Denied::Fenced),
        }
    }

    /// The markers of a commit are written.
    pub(super) fn complete(&mut self, number: usize) -> Effects {
        if self.transactions[number].state != State::Committing {
            return Effects::default();
        }
        self.transactions[number].state = State::Committed;
        self.mark(number);
        Effects {
            shown: self.show(),
            ..Effects::default()
        }
    }

    fn abort(&mut self, number: usize) -> Effects {
        self.transactions[number].state = State::Aborted;
        self.mark(number);
        Effects {
            aborted: true,
            shown: self.show(),
            ..Effects::default()
        }
    }

    /// Takes back what has been open for too long; its producer is fenced.
    pub(super) fn expire(&mut self, began_before: Micros) -> Vec<Effects> {
        let old: Vec<usize> = (0..self.transactions.len())
            .filter(|number| {
                let transaction = &self.transactions[*number];
                transaction.state == State::Open && transaction.began < began_before
            })
            .collect();
        for number in &old {
            if let Some(id) = self.ids.get_mut(&self.transactions[*number].id) {
                id.epoch += 1;
            }
        }
        old.into_iter().map(|number| self.abort(number)).collect()
    }

    fn mark(&mut self, number: usize) {
        let touched = self.transactions[number].logs;
        for (log, _) in self.logs.iter_mut().zip(touched).filter(|(_, touched)| *touched) {
            log.entries.push(Entry {
                what: What::Marker,
                transaction: None,
            });
        }
    }

    fn show(&mut self) -> Vec<usize> {
        let mut shown = Vec::new();
        for at in 0..PARTITIONS {
            let stable = self.stable(at) as usize;
            let log = &mut self.logs[at];
            let new = &log.entries[log.shown.min(stable)..stable];
            let seen = new.iter().filter(|entry| {
                let of = entry.transaction.map(|number| self.transactions[number].state);
                of.is_none_or(|state| state == State::Committed)
            });
            shown.extend(seen.filter_map(|entry| match entry.what {
                What::Message(send) => Some(send),
                What::Record(_) | What::Marker => None,
            }));
            log.shown = stable;
        }
        shown
    }

    pub(super) fn end_of(&self, log: usize) -> i64 {
        self.logs[log].entries.len() as i64
    }

    /// The last stable offset: from here on something is undecided.
    pub(super) fn stable(&self, log: usize) -> i64 {
        let undecided = |entry: &Entry| {
            let of = entry.transaction.map(|number| self.transactions[number].state);
            of.is_some_and(|state| matches!(state, State::Open | State::Committing))
        };
        let entries = &self.logs[log].entries;
        entries.iter().position(undecided).unwrap_or(entries.len()) as i64
    }

    /// What is committed in the journal, from one offset to another, which is stable.
    pub(super) fn journal(&self, from: i64, until: i64) -> Vec<(i64, Bytes)> {
        let entries = self.logs[JOURNAL].entries.iter().enumerate();
        let asked = entries.filter(|(offset, _)| (from..until).contains(&(*offset as i64)));
        let committed = asked.filter(|(_, entry)| {
            let of = entry.transaction.map(|number| self.transactions[number].state);
            of.is_none_or(|state| state == State::Committed)
        });
        committed
            .filter_map(|(offset, entry)| match &entry.what {
                What::Record(record) => Some((offset as i64, record.clone())),
                What::Message(_) | What::Marker => None,
            })
            .collect()
    }

    /// Whether consumers have seen all that they will.
    pub(crate) fn is_seen(&self) -> bool {
        (0..PARTITIONS).all(|log| self.stable(log) == self.end_of(log))
    }

    /// Whether an id was ever initialised.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.ids.contains_key(id)
    }
}
