mod claims;
mod lanes;

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use crate::journal::{Head, Incarnation, Mark, Record, Replay, Replayed, Writer};
use crate::model::SlotId;
use crate::ports::Epoch;

const IDENTITY: &str = "a";
const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(1));
const PROCESSES: usize = 3;
const LANES: usize = 2;
const SLOTS: usize = 4;
/// Of each slot; they are numbered in their order.
const EVENTS: u64 = 20;
const STEPS: usize = 400;

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    NoFence,
    FenceBeforeClaim,
    IdReadBeforeClaim,
    JournalBeforeFence,
    IdReplacedBeforeFence,
    ReleaseForgetsId,
    OwnTransactionLeftOpen,
    OpensItsIdAgain,
    NoAnswerMeansAborted,
}

impl Flaw {
    pub(super) const ALL: [Self; 9] = [
        Self::NoFence,
        Self::FenceBeforeClaim,
        Self::IdReadBeforeClaim,
        Self::JournalBeforeFence,
        Self::IdReplacedBeforeFence,
        Self::ReleaseForgetsId,
        Self::OwnTransactionLeftOpen,
        Self::OpensItsIdAgain,
        Self::NoAnswerMeansAborted,
    ];
}

/// How often what happened.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) commits: u64,
    pub(super) fenced_commits: u64,
    pub(super) lost_answers: u64,
    pub(super) late_commits: u64,
    pub(super) restarted: u64,
    pub(super) superseded: u64,
    pub(super) replayed: u64,
    pub(super) dirty_releases: u64,
    pub(super) own_ids: u64,
}

impl Outcome {
    pub(super) fn add(&mut self, other: &Self) {
        self.commits += other.commits;
        self.fenced_commits += other.fenced_commits;
        self.lost_answers += other.lost_answers;
        self.late_commits += other.late_commits;
        self.restarted += other.restarted;
        self.superseded += other.superseded;
        self.replayed += other.replayed;
        self.dirty_releases += other.dirty_releases;
        self.own_ids += other.own_ids;
    }
}

/// What went wrong.
type Violation = String;

/// One random schedule, then one process that finishes what is left.
pub(super) fn run(seed: u64, flaw: Flaw) -> Result<Outcome, Violation> {
    let mut world = World::new(seed, flaw);
    for _ in 0..STEPS {
        world.step()?;
    }
    world.finish()?;
    Ok(world.outcome)
}

struct World {
    random: StdRng,
    flaw: Flaw,
    /// How likely a claim goes on before anything else happens.
    haste: f64,
    /// 1: all slots; the number of lanes: those of the first lane only, which then get in each other's way.
    stride: usize,
    outcome: Outcome,
    kafka: Kafka,
    rows: Vec<Row>,
    processes: Vec<Process>,
    started: usize,
}

/// Coordinator, journal and topic.
#[derive(Default)]
struct Kafka {
    /// By transactional id: which of its producers is the last.
    ids: BTreeMap<String, u32>,
    journal: Vec<Vec<u8>>,
    /// Committed events of each slot: the next one has this number.
    committed: [u64; SLOTS],
    /// Commits on their way.
    under_way: Vec<(String, u32, Transaction)>,
}

/// A slot in the state store.
#[derive(Default)]
struct Row {
    epoch: i64,
    id: Option<String>,
    saved: Saved,
}

#[derive(Clone, Default)]
struct Saved {
    mark: Mark,
    resolved: BTreeSet<u64>,
}

struct Process {
    lanes: Vec<Lane>,
    claims: BTreeMap<usize, Claim>,
    held: BTreeMap<usize, Held>,
}

struct Lane {
    id: String,
    state: LaneState,
    writer: Writer,
    /// In the current transaction: slot, epoch, event.
    open: Vec<(usize, i64, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LaneState {
    Ready(u32),
    Ended,
}

struct Transaction {
    events: Vec<(usize, u64)>,
    records: Vec<Record>,
}

struct Claim {
    epoch: i64,
    step: Step,
    /// The id that the row named when it was claimed.
    named: Option<String>,
    /// What a journal that was read too early said.
    early: Option<Replayed>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The row was looked at before it was claimed.
    Raise,
    /// Read what the row names, and its checkpoint.
    Look,
    Fence,
    Record,
    Open,
}

struct Held {
    epoch: i64,
    mark: Mark,
    resolved: BTreeSet<u64>,
}

fn slot_id(slot: usize) -> SlotId {
    SlotId::new(slot as u8).unwrap()
}

impl Kafka {
    /// A producer with this id, the only one from here on.
    fn initialise(&mut self, id: &str) -> u32 {
        let last = self.ids.entry(id.to_owned()).or_default();
        *last += 1;
        *last
    }

    /// Whether the commit took place: not if the producer was fenced.
    fn commit(&mut self, id: &str, producer: u32, transaction: &Transaction) -> Result<bool, Violation> {
        if self.ids[id] != producer {
            return Ok(false);
        }
        for (slot, event) in &transaction.events {
            let next = &mut self.committed[*slot];
            if *event != *next {
                return Err(format!(
                    "slot {slot}: event {event} is committed, the next is {next}"
                ));
            }
            *next += 1;
        }
        let records = transaction.records.iter().map(|record| record.encode(IDENTITY));
        self.journal.extend(records);
        Ok(true)
    }
}

impl World {
    fn new(seed: u64, flaw: Flaw) -> Self {
        let head = Head {
            identity: IDENTITY.to_owned(),
            incarnation: INCARNATION,
        };
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            flaw,
            haste: (seed % 4) as f64 * 0.25,
            stride: if seed % 8 < 4 { 1 } else { LANES },
            outcome: Outcome::default(),
            kafka: Kafka {
                journal: vec![head.encode()],
                ..Kafka::default()
            },
            rows: (0..SLOTS).map(|_| Row::default()).collect(),
            processes: Vec::new(),
            started: 0,
        };
        for _ in 0..PROCESSES {
            let process = world.process();
            world.processes.push(process);
        }
        world
    }

    /// Its ids are new, and initialised before anything is claimed.
    fn process(&mut self) -> Process {
        self.started += 1;
        let lane = |lane: usize| {
            let id = format!("{}/{lane}", self.started);
            Lane {
                state: LaneState::Ready(self.kafka.initialise(&id)),
                id,
                writer: Writer::new(INCARNATION),
                open: Vec::new(),
            }
        };
        Process {
            lanes: (0..LANES).map(lane).collect(),
            claims: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    fn step(&mut self) -> Result<(), Violation> {
        let at = self.random.random_range(0..PROCESSES);
        let slot = self.random.random_range(0..SLOTS / self.stride) * self.stride;
        match self.random.random_range(0..100) {
            0..8 => self.claim(at, slot),
            8..40 => {
                self.advance(at, slot)?;
                while self.random.random_bool(self.haste) {
                    self.advance(at, slot)?;
                }
            }
            40..65 => self.send(at, slot),
            65..80 => self.commit(at, slot % LANES)?,
            80..83 => self.abort(at, slot % LANES),
            83..90 => self.restart(at, slot % LANES)?,
            90..94 => self.save(at, slot),
            94..96 => self.release(at, slot),
            96..99 => self.arrive()?,
            _ => self.processes[at] = self.process(),
        }
        Ok(())
    }

    /// A refusal is a false alarm, unless the claim was lost meanwhile.
    fn replay(&self, slot: usize, epoch: i64, mark: Mark) -> Result<Replayed, Violation> {
        let mut replay = Replay::new(IDENTITY, INCARNATION, [(slot_id(slot), Epoch(epoch), mark)]);
        let end = self.kafka.journal.len() as i64;
        let values = self.kafka.journal.iter().enumerate();
        for (offset, value) in values.skip(mark.offset as usize) {
            let taken = replay.record(offset as i64, Some(value));
            taken.map_err(|refusal| refusal.to_string())?;
        }
        match replay.finish(end) {
            Ok(mut replayed) => Ok(replayed.remove(&slot_id(slot)).unwrap()),
            Err(_) if self.rows[slot].epoch > epoch => Ok(Replayed::Superseded),
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    /// A commit whose answer was lost takes place after all, or too late.
    fn arrive(&mut self) -> Result<(), Violation> {
        if self.kafka.under_way.is_empty() {
            return Ok(());
        }
        let at = self.random.random_range(0..self.kafka.under_way.len());
        let (id, producer, transaction) = self.kafka.under_way.swap_remove(at);
        if self.kafka.commit(&id, producer, &transaction)? {
            self.outcome.late_commits += 1;
        }
        Ok(())
    }

    fn take_all(&mut self, at: usize) -> Result<(), Violation> {
        for slot in 0..SLOTS {
            self.claim(at, slot);
            while self.processes[at].claims.contains_key(&slot) {
                self.advance(at, slot)?;
            }
        }
        Ok(())
    }

    /// One new process takes everything over and delivers what is left.
    fn finish(&mut self) -> Result<(), Violation> {
        self.processes[0] = self.process();
        self.take_all(0)?;
        while !self.kafka.under_way.is_empty() {
            self.arrive()?;
        }
        for _ in 0..EVENTS * 20 {
            for slot in 0..SLOTS {
                self.send(0, slot);
                self.commit(0, slot % LANES)?;
                self.restart(0, slot % LANES)?;
                self.take_all(0)?;
                self.arrive()?;
            }
            if self.kafka.committed == [EVENTS; SLOTS] {
                return Ok(());
            }
        }
        let committed = self.kafka.committed;
        Err(format!(
            "{committed:?} are committed, {EVENTS} of each slot were written"
        ))
    }
}
