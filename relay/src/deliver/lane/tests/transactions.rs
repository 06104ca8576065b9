//! A lane that delivers exactly once, and a transactional broker as a model: what is not committed never was.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::Rng;
use uuid::Uuid;

use super::*;
use crate::dead_letters::message::headers::PAYLOAD_OMITTED;
use crate::deliver::lane::transaction::{JournalOf, LettersTo};
use crate::encode::Message;
use crate::journal::{Entry, Incarnation, Mark, Record, decode};
use crate::model::Micros;
use crate::ports::{Delivered, Epoch, Refused, Report, Signal, TransactionError, Verdict};

const IDENTITY: &str = "shop.orders";
const JOURNAL: &str = "journal";
const LETTERS: &str = "letters";
const AGGREGATES: u64 = 6;
const PARTITIONS: u64 = 3;

/// A message with the producer.
#[derive(Clone)]
struct Sent {
    token: u64,
    message: Message,
}

/// What the broker does with the sequence numbers of messages that follow a refused one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Numbers {
    Fine,
    /// A message of the transaction was refused.
    Missing,
    /// What follows is refused, until the next abort.
    Refusing,
}

struct World {
    lane: Lane,
    now: Now,
    random: StdRng,
    queue: Vec<Sent>,
    written: Vec<Sent>,
    numbers: Numbers,
    /// Something of the transaction has failed: the client sends nothing more of it.
    failed: bool,
    generation: Option<Generation>,
    ending: Option<End>,
    /// What `read_committed` consumers see.
    topic: Vec<(Id, u64)>,
    journal: Vec<Record>,
    marks: BTreeMap<SlotId, Mark>,
    letters: Vec<Id>,
    /// What `read_committed` consumers see of the topic for dead letters; None came without its payload.
    letter_topic: Vec<Option<Id>>,
    /// Dead letters whose payload their topic does not take, and whether it takes any at all.
    bulky: BTreeSet<Id>,
    letters_refused: bool,
    settled: usize,
    resolved: Vec<Id>,
    notes: Vec<Note>,
    poison: BTreeSet<Id>,
    transactions: usize,
    aborts: usize,
    offered: Vec<(Id, u64)>,
    stalled: bool,
    /// In percent: a call has no answer; a commit is refused; an answer to a message is lost.
    trouble: [u32; 3],
}

fn slot(index: u64) -> SlotId {
    SlotId::new(index as u8).unwrap()
}

impl World {
    fn new(policy: Policy, seed: u64) -> Self {
        let journal = JournalOf {
            identity: IDENTITY.into(),
            topic: JOURNAL.into(),
            incarnation: Incarnation(Uuid::from_u128(1)),
            letters: Some(LettersTo {
                topic: LETTERS.into(),
                in_table: true,
            }),
        };
        let breaker = Breaker::new(&crds::CircuitBreaker::default());
        let mut lane = Lane::transactional(policy, breaker, seed, journal);
        for index in 0..AGGREGATES {
            lane.admit(slot(index), Epoch(1), Mark::default(), Mark::default());
        }
        Self {
            lane,
            now: Now {
                elapsed: Duration::from_secs(1),
                wall: 1_000_000,
            },
            random: StdRng::seed_from_u64(seed),
            queue: Vec::new(),
            written: Vec::new(),
            numbers: Numbers::Fine,
            failed: false,
            generation: None,
            ending: None,
            topic: Vec::new(),
            journal: Vec::new(),
            marks: BTreeMap::new(),
            letters: Vec::new(),
            letter_topic: Vec::new(),
            bulky: BTreeSet::new(),
            letters_refused: false,
            settled: 0,
            resolved: Vec::new(),
            notes: Vec::new(),
            poison: BTreeSet::new(),
            transactions: 0,
            aborts: 0,
            offered: Vec::new(),
            stalled: false,
            trouble: [0; 3],
        }
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn offer(&mut self, aggregate: u64) -> bool {
        if !self.lane.accepts() {
            return false;
        }
        let id = self.offered.len() as Id;
        let event = model::event(id, slot(aggregate), aggregate);
        self.lane.offer(event, self.now);
        self.offered.push((id, aggregate));
        true
    }

    fn turn(&mut self) {
        loop {
            let mut idle = true;
            while let Some(action) = self.lane.next_action(self.now) {
                idle = false;
                self.act(action);
            }
            while let Some((_, _, token, message)) = self.lane.next_to_send(self.now, Duration::MAX) {
                idle = false;
                assert_eq!(self.ending, None, "nothing is sent while a transaction ends");
                let message = message.clone();
                if self.queue.len() >= 50 {
                    self.lane.refused(token, Refused::QueueFull, self.now);
                    break;
                }
                self.queue.push(Sent { token, message });
                self.lane.sent(token, self.now);
            }
            self.collect();
            if idle {
                return;
            }
        }
    }

    fn collect(&mut self) {
        let mut resolved = Vec::new();
        self.lane.take_resolved(&mut resolved);
        self.resolved.extend(resolved.iter().map(|event| event.row_id.0));
        for (slot, mark) in self.lane.take_marks() {
            let before = self.marks.insert(slot, mark).unwrap_or_default();
            assert!(before.offset <= mark.offset && before.sequence <= mark.sequence);
            self.lane.saved(slot, mark);
        }
        self.lane.take_notes(&mut self.notes);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open(role, generation) => {
                assert_eq!((role, self.generation), (Role::Flow, None), "once");
                self.generation = Some(generation);
                self.lane.opened(role, generation);
            }
            Action::End(_, end) => {
                assert!(self.ending.is_none(), "one call at a time");
                self.ending = Some(end);
            }
            Action::Check => self.lane.checked(Ok(()), self.now),
            Action::WriteDeadLetters(letters) => {
                let ids = letters
                    .iter()
                    .map(|letter| letter.event_id.parse::<Id>().unwrap());
                self.letters.extend(ids);
                self.lane.dead_letters_written(Ok(()), self.now);
            }
            Action::SettleDeadLetters(letters) => self.settled += letters.len(),
            Action::Close(_) | Action::Purge(_) => panic!("the only producer is kept"),
        }
    }

    /// The broker does one thing; false if there is none.
    fn step(&mut self) -> bool {
        if self.stalled {
            return false;
        }
        if let Some(end) = self.ending.take() {
            self.end(end);
            return true;
        }
        let Some(first) = self.queue.first().filter(|_| !self.failed) else {
            return false;
        };
        let partition = partition_of(&first.message);
        let size = self.random.random_range(1..=8);
        let mut batch = Vec::new();
        self.queue.retain(|sent| {
            let take = partition_of(&sent.message) == partition && batch.len() < size;
            if take {
                batch.push(sent.clone());
            }
            !take
        });
        let poisoned = batch.iter().any(|sent| {
            let is_letter = &*sent.message.topic == LETTERS;
            let bulky = letter_of(&sent.message).is_some_and(|id| self.bulky.contains(&id));
            is_letter && (bulky || self.letters_refused)
                || id_of(&sent.message).is_some_and(|id| self.poison.contains(&id))
        });
        if self.numbers == Numbers::Refusing {
            self.fail(&batch, &failure(ErrorClass::Collateral, Outcome::NotWritten));
        } else if poisoned {
            self.numbers = Numbers::Missing;
            self.fail(&batch, &failure(ErrorClass::Message, Outcome::NotWritten));
        } else if self.percent(self.trouble[2]) {
            self.fail(&batch, &failure(ErrorClass::Transient, Outcome::Unknown));
        } else {
            let delivered = Delivered {
                partition: partition as i32,
                offset: self.journal.len() as i64,
            };
            self.written.extend(batch.iter().cloned());
            for sent in batch {
                self.report(sent.token, Ok(delivered));
            }
        }
        true
    }

    fn fail(&mut self, batch: &[Sent], error: &DeliveryError) {
        self.failed = true;
        for sent in batch {
            self.report(sent.token, Err(error.clone()));
        }
    }

    fn report(&mut self, token: u64, result: Result<Delivered, DeliveryError>) {
        let signal = Signal::Report(Report { token, result });
        self.lane.on_signal(self.generation.unwrap(), signal, self.now);
    }

    fn end(&mut self, end: End) {
        let verdict = if self.percent(self.trouble[0]) {
            Some(Verdict::Again)
        } else if end == End::Commit && self.percent(self.trouble[1]) {
            Some(Verdict::Abort)
        } else {
            None
        };
        let result = verdict.map_or(Ok(()), |verdict| {
            let error = failure(ErrorClass::Transient, Outcome::Unknown);
            Err(TransactionError { verdict, error })
        });
        if result.is_ok() {
            self.ended(end);
        }
        self.lane.ended(self.generation.unwrap(), end, result, self.now);
    }

    fn ended(&mut self, end: End) {
        let written = std::mem::take(&mut self.written);
        if end == End::Abort {
            self.aborts += 1;
            let rest = std::mem::take(&mut self.queue);
            self.fail(&rest, &failure(ErrorClass::Collateral, Outcome::NotWritten));
            self.failed = false;
            self.numbers = match self.numbers {
                Numbers::Missing => Numbers::Refusing,
                _ => Numbers::Fine,
            };
            return;
        }
        assert!(self.queue.is_empty(), "a commit waits for every report");
        self.transactions += 1;
        for sent in written {
            if let Some(id) = id_of(&sent.message) {
                self.topic.push((id, aggregate_of(&sent.message)));
                continue;
            }
            if &*sent.message.topic == LETTERS {
                self.letter_topic.push(letter_of(&sent.message));
                continue;
            }
            let value = sent.message.payload.as_deref();
            let Ok(Entry::Record(record)) = decode(IDENTITY, value) else {
                panic!("no record")
            };
            self.journal.push(record);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.elapsed + time;
        while let Some(deadline) = self.lane.next_deadline(self.now).filter(|at| *at < end) {
            self.pass_to(deadline);
            self.turn();
        }
        self.pass_to(end);
        self.turn();
    }

    fn pass_to(&mut self, elapsed: Duration) {
        self.now.elapsed = self.now.elapsed.max(elapsed);
        self.now.wall = self.now.elapsed.as_micros() as Micros;
        self.lane.on_tick(self.now);
    }

    fn run(&mut self) {
        let end = self.now.elapsed + 100 * MINUTE;
        while !self.lane.is_empty() {
            self.turn();
            if self.step() {
                continue;
            }
            match self.lane.next_deadline(self.now) {
                Some(deadline) => self.pass_to(deadline),
                None if self.lane.is_empty() => return,
                None => panic!("nothing would ever wake it"),
            }
            assert!(self.now.elapsed < end, "everything comes to an end");
        }
        self.turn();
    }

    fn check(&self) {
        let mut resolved = self.resolved.clone();
        resolved.sort_unstable();
        assert_eq!(
            resolved,
            ids(0..self.offered.len() as Id),
            "each is resolved, once"
        );
        for (id, aggregate) in &self.offered {
            let copies = self.topic.iter().filter(|(other, _)| other == id).count();
            let letters = self.letters.iter().filter(|other| *other == id).count();
            let expected = if self.poison.contains(id) { (0, 1) } else { (1, 0) };
            assert_eq!((copies, letters), expected, "event {id} of {aggregate}");
        }
        assert_eq!(self.settled, self.letters.len());
        let bulky = self.poison.intersection(&self.bulky).count();
        let bare = self.letter_topic.iter().filter(|id| id.is_none()).count();
        assert!(bare >= bulky && self.letter_topic.len() == self.letters.len());
        assert!(
            self.letter_topic.iter().flatten().is_sorted(),
            "in their order, and each once"
        );
        for aggregate in 0..AGGREGATES {
            let seen = self.topic.iter().filter(|(_, of)| *of == aggregate);
            assert!(seen.map(|(id, _)| id).is_sorted(), "aggregate {aggregate}");
            let records: Vec<_> = self
                .journal
                .iter()
                .filter(|record| record.slot == slot(aggregate))
                .collect();
            let sequences = records.iter().map(|record| record.sequence);
            assert!(sequences.eq(1..=records.len() as u64), "none is left out");
            let noted = records.iter().flat_map(|record| &record.resolved);
            let mut noted: Vec<_> = noted.flat_map(|(_, ids)| ids).map(|id| id.0).collect();
            noted.sort_unstable();
            let all = self.offered.iter().filter(|(_, of)| *of == aggregate);
            assert!(
                noted.iter().eq(all.map(|(id, _)| id)),
                "the journal names each once"
            );
        }
    }
}

fn id_of(message: &Message) -> Option<Id> {
    let bytes = message.payload.as_deref()?;
    let is_event = ![JOURNAL, LETTERS].contains(&&*message.topic);
    is_event.then(|| Id::from_be_bytes(bytes.try_into().unwrap()))
}

/// The event of a dead letter that has its payload.
fn letter_of(message: &Message) -> Option<Id> {
    let whole = message.headers.iter().all(|(name, _)| &**name != PAYLOAD_OMITTED);
    let payload = message
        .payload
        .as_deref()
        .filter(|_| &*message.topic == LETTERS)?;
    assert!(whole);
    Some(Id::from_be_bytes(payload.try_into().unwrap()))
}

fn aggregate_of(message: &Message) -> u64 {
    let key = std::str::from_utf8(message.key.as_deref().unwrap());
    key.unwrap().parse().unwrap()
}

fn partition_of(message: &Message) -> u64 {
    match &*message.topic {
        JOURNAL => PARTITIONS,
        LETTERS => PARTITIONS + 1,
        _ => aggregate_of(message) % PARTITIONS,
    }
}

#[test]
fn events_are_resolved_by_the_commit_and_not_before() {
    let mut world = World::new(policy(), 1);
    (0..20).for_each(|i| assert!(world.offer(i % AGGREGATES)));
    world.turn();
    while world.step() {
        world.turn();
    }
    assert_eq!((world.written.len(), world.resolved.len()), (20, 0));
    world.pass(Duration::from_millis(24));
    while world.step() {
        world.turn();
    }
    assert_eq!(world.transactions, 0, "more may come");
    world.pass(Duration::from_millis(1));
    while world.step() {
        world.turn();
    }
    assert_eq!((world.transactions, world.resolved.len()), (1, 20));
    world.check();
}

#[test]
fn a_full_lane_does_not_wait_for_the_tick() {
    let mut world = World::new(policy(), 1);
    while world.offer(0) {}
    let before = world.now.elapsed;
    world.turn();
    while world.step() {
        world.turn();
    }
    assert_eq!((world.transactions, world.now.elapsed), (1, before));
    // What the rest of the lane held is committed by the tick.
    world.run();
    assert_eq!(world.transactions, 2);
    world.check();
}

#[test]
fn the_guilty_become_dead_letters_and_nobody_counts_an_attempt() {
    let mut world = World::new(policy(), 3);
    world.poison = [7, 30, 31, 90].into();
    (0..100).for_each(|i| assert!(world.offer(i % AGGREGATES)));
    world.run();
    world.check();
    assert_eq!(world.letters, [7, 30, 31, 90]);
    let attempts = world
        .notes
        .iter()
        .filter(|note| matches!(note, Note::AttemptFailed { .. }));
    assert_eq!(attempts.count(), 0, "{:?}", world.notes);
}

#[test]
fn a_dead_letter_that_is_too_large_for_its_topic_goes_without_its_payload() {
    let mut world = World::new(policy(), 3);
    world.poison = [7, 30, 31, 90].into();
    world.bulky = [30].into();
    (0..100).for_each(|i| assert!(world.offer(i % AGGREGATES)));
    world.run();
    world.check();
    let failed = |note: &Note| matches!(note, Note::AttemptFailed { .. } | Note::DeadLettersNotWritten(_));
    assert!(!world.notes.iter().any(failed), "{:?}", world.notes);
}

#[test]
fn nothing_goes_on_while_dead_letters_cannot_be_written_and_no_event_is_blamed() {
    let mut world = World::new(policy(), 3);
    world.poison = [3].into();
    world.letters_refused = true;
    (0..10).for_each(|i| assert!(world.offer(i % AGGREGATES)));
    for _ in 0..600 {
        world.turn();
        world.step();
        world.pass(Duration::from_millis(100));
    }
    assert_eq!((world.letters.len(), world.letter_topic.len()), (1, 0));
    assert!(
        world.aborts < 50,
        "{} aborts: it waits for the circuit's probes",
        world.aborts
    );
    let blamed = |note: &Note| matches!(note, Note::AttemptFailed { .. });
    assert!(!world.notes.iter().any(blamed), "{:?}", world.notes);
    let told =
        |note: &Note| matches!(note, Note::DeadLettersNotWritten(error) if error.target == "topic letters");
    assert!(world.notes.iter().any(told), "{:?}", world.notes);
    world.letters_refused = false;
    world.run();
    world.check();
}

#[test]
fn what_fails_again_and_again_opens_the_circuit() {
    let mut world = World::new(policy(), 1);
    world.trouble = [0, 100, 0];
    assert!(world.offer(0));
    for _ in 0..100 {
        world.turn();
        world.step();
        world.pass(Duration::from_millis(100));
    }
    assert_eq!(world.lane.breaker().state(), Open);
    assert!(world.topic.is_empty() && world.letters.is_empty());
    world.trouble = [0; 3];
    world.run();
    world.check();
}

#[test]
fn a_slot_that_is_lost_leaves_with_its_transaction_and_is_told_to_nobody() {
    let mut world = World::new(policy(), 1);
    assert!(world.offer(0) && world.offer(1));
    world.turn();
    while world.step() {}
    world.lane.revoke([slot(0)].into_iter().collect(), world.now);
    assert!(!world.lane.is_free(slot(0)), "its event is in the transaction");
    world.pass(Duration::from_millis(25));
    while world.step() {
        world.turn();
    }
    assert_eq!((world.topic.len(), world.resolved.clone()), (2, vec![1]));
    assert_eq!(world.journal.len(), 2, "with its record");
    assert!(world.lane.is_free(slot(0)));
}

#[test]
fn a_producer_that_has_ended_breaks_the_lane() {
    let mut world = World::new(policy(), 1);
    world.turn();
    let error = failure(ErrorClass::Collateral, Outcome::Unknown);
    world
        .lane
        .on_signal(world.generation.unwrap(), Signal::Fatal(error), world.now);
    assert!(world.lane.broken().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn whatever_happens_each_event_is_committed_once_and_in_order(
        seed in any::<u64>(),
        trouble in [0..30_u32, 0..30_u32, 0..10_u32],
        poisonous in 0..15_u32,
    ) {
        let mut world = World::new(policy(), seed);
        for _ in 0..60 {
            world.trouble = if world.percent(50) { trouble } else { [0; 3] };
            world.stalled = world.percent(5);
            for _ in 0..world.random.random_range(0..12) {
                let aggregate = world.random.random_range(0..AGGREGATES);
                let id = world.offered.len() as Id;
                if world.offer(aggregate) && world.percent(poisonous) {
                    world.poison.insert(id);
                    if world.percent(20) {
                        world.bulky.insert(id);
                    }
                }
            }
            world.turn();
            for _ in 0..world.random.random_range(0..6) {
                world.step();
                if world.percent(50) {
                    world.turn();
                }
            }
            let time = world.random.random_range(0..500);
            world.pass(Duration::from_millis(time));
            prop_assert!(world.lane.messages() <= 200, "the bound on the queue");
        }
        (world.trouble, world.stalled) = ([0; 3], false);
        world.run();
        world.check();
    }
}
