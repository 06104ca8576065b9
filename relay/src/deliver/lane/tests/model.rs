//! A broker and its producers as a model: batches that fail as a whole, gapless producers, outages, lost answers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crds::dead_letter::{DeadLetterWhen, OnAggregate};
use rand::Rng;

use super::super::*;
use crate::deliver::retry::Schedule;
use crate::encode::Message;
use crate::metrics::EventLabel;
use crate::model::{CdcTime, Micros, RowId, SlotId, SourcePosition, StreamId};
use crate::ports::{DeadLetterError, Delivered, ErrorClass, Outcome, Refused, Report, Signal};

pub(super) const PARTITIONS: u64 = 3;

/// An event's number, in the order in which events are offered.
pub(super) type Id = u64;

/// An event by its number; key and payload tell aggregate and number.
pub(super) fn event(id: Id, slot: SlotId, aggregate: u64) -> Event {
    Event {
        slot,
        position: SourcePosition {
            stream: StreamId([0; 16]),
            time: CdcTime::min_of(id as i64),
            batch_seq_no: 0,
        },
        row_id: RowId(id),
        aggregate,
        label: EventLabel::default(),
        event_id: id.to_string(),
        aggregate_id: Some(aggregate.to_string()),
        event_type: None,
        created_at: None,
        message: Message {
            topic: "t".into(),
            key: Some(aggregate.to_string().into()),
            payload: Some(id.to_be_bytes().to_vec().into()),
            headers: Vec::new(),
            timestamp: 0,
        },
        problem: None,
        trace: None,
        replay: None,
    }
}

pub(super) struct Model {
    pub(super) lane: Lane,
    pub(super) now: Now,
    pub(super) lease_until: Duration,
    pub(super) faults: Faults,
    producers: HashMap<Generation, ModelProducer>,
    /// What the topic holds, per partition.
    pub(super) log: BTreeMap<u64, Vec<(Id, u64)>>,
    pub(super) letters: Vec<(Id, Reason)>,
    pub(super) resolved: Vec<Id>,
    pub(super) notes: Vec<Note>,
    /// Events of which some report did not know whether they were written.
    pub(super) unknown: BTreeSet<Id>,
    pub(super) opened: Vec<Role>,
    random: StdRng,
    next: Id,
}

/// How broker and targets misbehave at present.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    /// Refused with the whole batch that they are in.
    pub(super) poison: HashSet<Id>,
    /// Nothing moves, nothing is said.
    pub(super) stalled: bool,
    /// Nothing moves, and clients know.
    pub(super) down: bool,
    pub(super) topic_missing: bool,
    /// Chance, in percent, that a batch is written and its answer lost.
    pub(super) lost_answers: u32,
    pub(super) letters_fail: bool,
    pub(super) queue_limit: Option<usize>,
}

struct ModelProducer {
    role: Role,
    queue: Vec<(Seq, Id, u64)>,
    dead: bool,
    told_down: bool,
}

impl Model {
    pub(super) fn new(policy: Policy, seed: u64) -> Self {
        let breaker = Breaker::new(&crds::CircuitBreaker::default());
        Self {
            lane: Lane::new(policy, breaker, seed),
            now: Now {
                elapsed: Duration::from_secs(1),
                wall: 1_000_000,
            },
            lease_until: Duration::MAX,
            faults: Faults::default(),
            producers: HashMap::new(),
            log: BTreeMap::new(),
            letters: Vec::new(),
            resolved: Vec::new(),
            notes: Vec::new(),
            unknown: BTreeSet::new(),
            opened: Vec::new(),
            random: StdRng::seed_from_u64(seed),
            next: 0,
        }
    }

    /// Offers an event of an aggregate if the lane takes one; its slot is the aggregate's number.
    pub(super) fn offer(&mut self, aggregate: u64, problem: Option<DeliveryError>) -> Option<Id> {
        self.offer_as(aggregate, problem, false)
    }

    /// Has a dead letter of an aggregate sent again.
    pub(super) fn offer_replay(&mut self, aggregate: u64) -> Id {
        self.offer_as(aggregate, None, true).expect("the lane takes it")
    }

    fn offer_as(&mut self, aggregate: u64, problem: Option<DeliveryError>, replay: bool) -> Option<Id> {
        if !self.lane.accepts() {
            return None;
        }
        let id = self.next;
        self.next += 1;
        let slot = SlotId::new(aggregate as u8).unwrap();
        let event = Event {
            problem,
            replay: replay.then(Replay::default),
            ..event(id, slot, aggregate)
        };
        self.lane.offer(event, self.now);
        Some(id)
    }

    pub(super) fn offer_all(&mut self, aggregates: impl IntoIterator<Item = u64>) {
        for aggregate in aggregates {
            self.offer(aggregate, None).expect("the lane takes it");
        }
    }

    /// Does everything that needs no time and no broker.
    pub(super) fn turn(&mut self) {
        loop {
            let mut idle = true;
            while let Some(action) = self.lane.next_action(self.now) {
                idle = false;
                self.act(action);
            }
            while self.send_one() {
                idle = false;
            }
            self.collect();
            if idle {
                return;
            }
        }
    }

    pub(super) fn collect(&mut self) {
        let mut resolved = Vec::new();
        self.lane.take_resolved(&mut resolved);
        self.resolved.extend(resolved.iter().map(|event| event.row_id.0));
        self.lane.take_notes(&mut self.notes);
    }

    fn send_one(&mut self) -> bool {
        let Some((role, generation, seq, message)) = self.lane.next_to_send(self.now, self.lease_until)
        else {
            return false;
        };
        let id = Id::from_be_bytes(message.payload.as_deref().unwrap().try_into().unwrap());
        let aggregate = std::str::from_utf8(message.key.as_deref().unwrap())
            .unwrap()
            .parse()
            .unwrap();
        let producer = self.producers.get_mut(&generation).unwrap();
        assert_eq!(producer.role, role);
        if self
            .faults
            .queue_limit
            .is_some_and(|limit| producer.queue.len() >= limit)
        {
            self.lane.refused(seq, Refused::QueueFull, self.now);
            return false;
        }
        if producer.dead {
            let error = failure(ErrorClass::Collateral, Outcome::NotWritten);
            self.lane.refused(seq, Refused::Error(error), self.now);
            return true;
        }
        producer.queue.push((seq, id, aggregate));
        self.lane.sent(seq, self.now);
        true
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open(role, generation) => {
                self.opened.push(role);
                let producer = ModelProducer {
                    role,
                    queue: Vec::new(),
                    dead: false,
                    told_down: false,
                };
                self.producers.insert(generation, producer);
                self.lane.opened(role, generation);
            }
            Action::Close(generation) => {
                let producer = self.producers.remove(&generation).unwrap();
                assert!(
                    producer.queue.is_empty(),
                    "closed with messages that have no report"
                );
            }
            Action::Purge(generation) => self.purge(generation),
            Action::End(..) | Action::SettleDeadLetters(_) => panic!("no transactions here"),
            Action::Check => {
                let down = self.faults.down;
                let error = || failure(ErrorClass::Transient, Outcome::Unknown);
                self.lane
                    .checked(if down { Err(error()) } else { Ok(()) }, self.now);
            }
            Action::WriteDeadLetters(letters) => {
                let result = if self.faults.letters_fail {
                    Err(DeadLetterError {
                        target: "t".into(),
                        detail: String::new(),
                        fenced: false,
                    })
                } else {
                    let written = letters
                        .iter()
                        .map(|letter| (letter.event_id.parse().unwrap(), letter.reason));
                    self.letters.extend(written);
                    Ok(())
                };
                self.lane.dead_letters_written(result, self.now);
            }
        }
    }

    /// Lets the brokers do one thing; false if there is nothing that they could do.
    pub(super) fn broker_step(&mut self) -> bool {
        if self.faults.stalled {
            return false;
        }
        let mut generations: Vec<_> = self.producers.keys().copied().collect();
        generations.sort_unstable();
        if self.faults.down {
            return generations
                .into_iter()
                .any(|generation| self.tell_down(generation));
        }
        let start = self.random.random_range(0..generations.len().max(1));
        generations.rotate_left(start);
        generations
            .into_iter()
            .any(|generation| self.take_batch(generation))
    }

    /// Runs brokers and time until the lane is empty, or `limit` has passed.
    pub(super) fn run(&mut self, limit: Duration) {
        let end = self.now.elapsed + limit;
        loop {
            self.turn();
            if self.lane.is_empty() {
                return;
            }
            if self.broker_step() {
                continue;
            }
            match self.lane.next_deadline(self.now) {
                Some(deadline) if deadline <= end => self.pass_to(deadline),
                _ => return self.pass_to(end),
            }
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.elapsed + time;
        while let Some(deadline) = self
            .lane
            .next_deadline(self.now)
            .filter(|deadline| *deadline < end)
        {
            self.pass_to(deadline);
            self.turn();
        }
        self.pass_to(end);
        self.turn();
    }

    /// Lets time pass, and nothing else.
    pub(super) fn step(&mut self, time: Duration) {
        self.pass_to(self.now.elapsed + time);
    }

    fn pass_to(&mut self, elapsed: Duration) {
        self.now.elapsed = self.now.elapsed.max(elapsed);
        self.now.wall = self.now.elapsed.as_micros() as Micros;
        self.lane.on_tick(self.now);
    }

    fn tell_down(&mut self, generation: Generation) -> bool {
        let producer = self.producers.get_mut(&generation).unwrap();
        if std::mem::replace(&mut producer.told_down, true) {
            return false;
        }
        let error = failure(ErrorClass::Transient, Outcome::Unknown);
        self.lane
            .on_signal(generation, Signal::AllBrokersDown(error), self.now);
        true
    }

    /// One request: some messages of one partition, decided upon as a whole.
    fn take_batch(&mut self, generation: Generation) -> bool {
        let producer = self.producers.get_mut(&generation).unwrap();
        producer.told_down = false;
        let Some((_, _, aggregate)) = producer.queue.first() else {
            return false;
        };
        let partition = aggregate % PARTITIONS;
        let size = self.random.random_range(1..=8);
        let mut batch = Vec::new();
        producer.queue.retain(|message| {
            let take = message.2 % PARTITIONS == partition && batch.len() < size;
            if take {
                batch.push(*message);
            }
            !take
        });
        let refused = batch.iter().any(|(_, id, _)| self.faults.poison.contains(id));
        let lost = self.random.random_range(0..100) < self.faults.lost_answers;
        if !refused && !self.faults.topic_missing {
            let log = self.log.entry(partition).or_default();
            log.extend(batch.iter().map(|(_, id, aggregate)| (*id, *aggregate)));
        }
        let error = match (refused, self.faults.topic_missing, lost) {
            (_, true, _) => failure(ErrorClass::Configuration, Outcome::NotWritten),
            (true, ..) => failure(ErrorClass::Message, Outcome::NotWritten),
            (false, _, true) => failure(ErrorClass::Transient, Outcome::Unknown),
            (false, _, false) => {
                self.report(generation, batch, None);
                return true;
            }
        };
        self.report(generation, batch, Some(error));
        if self.producers[&generation].role == Role::Flow {
            self.die(generation);
        }
        true
    }

    /// Gapless: behind a failed message nothing is written.
    fn die(&mut self, generation: Generation) {
        self.producers.get_mut(&generation).unwrap().dead = true;
        let error = failure(ErrorClass::Collateral, Outcome::Unknown);
        self.lane.on_signal(generation, Signal::Fatal(error), self.now);
        let Some(producer) = self.producers.get_mut(&generation) else {
            return;
        };
        let rest = std::mem::take(&mut producer.queue);
        self.report(
            generation,
            rest,
            Some(failure(ErrorClass::Collateral, Outcome::NotWritten)),
        );
    }

    /// A producer of this role, if there is one, fails for ever.
    pub(super) fn kill(&mut self, role: Role) {
        let found = self
            .producers
            .iter()
            .find(|(_, producer)| producer.role == role && !producer.dead);
        if let Some(generation) = found.map(|(generation, _)| *generation) {
            self.die(generation);
        }
    }

    /// The broker refuses messages of the flow as a batch while it has not answered for those before them.
    pub(super) fn refuse_early(&mut self, ids: &[Id]) {
        let flow = self.of_role(Role::Flow);
        let queue = &mut self.producers.get_mut(&flow).unwrap().queue;
        let (batch, rest) = queue.drain(..).partition(|(_, id, _)| ids.contains(id));
        *queue = rest;
        let error = failure(ErrorClass::Message, Outcome::NotWritten);
        self.report(flow, batch, Some(error));
        self.die(flow);
    }

    /// The broker refuses messages of the flow, whose producer dies of it and keeps the others to itself.
    pub(super) fn refuse_in_silence(&mut self, id: Id) {
        let flow = self.of_role(Role::Flow);
        let producer = self.producers.get_mut(&flow).unwrap();
        producer.dead = true;
        let refused = producer
            .queue
            .extract_if(.., |(_, other, _)| *other == id)
            .collect();
        self.report(
            flow,
            refused,
            Some(failure(ErrorClass::Message, Outcome::NotWritten)),
        );
        let error = failure(ErrorClass::Collateral, Outcome::Unknown);
        self.lane.on_signal(flow, Signal::Fatal(error), self.now);
    }

    /// What a producer says when brokers have closed its connections.
    pub(super) fn disconnect(&mut self, role: Role) {
        let error = failure(ErrorClass::Transient, Outcome::Unknown);
        self.lane
            .on_signal(self.of_role(role), Signal::AllBrokersDown(error), self.now);
    }

    fn of_role(&self, role: Role) -> Generation {
        let mut producers = self.producers.iter();
        *producers.find(|(_, producer)| producer.role == role).unwrap().0
    }

    /// Part of what is purged may have been on the wire.
    fn purge(&mut self, generation: Generation) {
        let producer = self.producers.get_mut(&generation).unwrap();
        producer.dead = true;
        let mut rest = std::mem::take(&mut producer.queue);
        let on_the_wire = if self.faults.down { 0 } else { rest.len().min(2) };
        let queued = rest.split_off(on_the_wire);
        self.report(
            generation,
            rest,
            Some(failure(ErrorClass::Collateral, Outcome::Unknown)),
        );
        self.report(
            generation,
            queued,
            Some(failure(ErrorClass::Collateral, Outcome::NotWritten)),
        );
    }

    fn report(&mut self, generation: Generation, batch: Vec<(Seq, Id, u64)>, error: Option<DeliveryError>) {
        for (seq, id, _) in batch {
            if error
                .as_ref()
                .is_some_and(|error| error.outcome == Outcome::Unknown)
            {
                self.unknown.insert(id);
            }
            let delivered = Delivered {
                partition: 0,
                offset: 0,
            };
            let report = Report {
                token: seq,
                result: error.clone().map_or(Ok(delivered), Err),
            };
            self.lane.on_signal(generation, Signal::Report(report), self.now);
        }
    }

    /// What the topic holds of an aggregate, first appearances only.
    pub(super) fn first_appearances(&self, aggregate: u64) -> Vec<Id> {
        let mut seen = HashSet::new();
        let log = self.log.get(&(aggregate % PARTITIONS)).into_iter().flatten();
        log.filter(|(id, of)| *of == aggregate && seen.insert(*id))
            .map(|(id, _)| *id)
            .collect()
    }

    pub(super) fn breaker(&self) -> BreakerState {
        self.lane.breaker().state()
    }

    pub(super) fn failed_attempts(&mut self) -> Vec<u32> {
        self.lane.take_notes(&mut self.notes);
        let attempts = self.notes.iter().filter_map(|note| match note {
            Note::AttemptFailed { attempt, .. } => Some(*attempt),
            _ => None,
        });
        attempts.collect()
    }
}

pub(super) fn failure(class: ErrorClass, outcome: Outcome) -> DeliveryError {
    DeliveryError {
        class,
        code: format!("{class:?}"),
        detail: String::new(),
        outcome,
    }
}

pub(super) fn policy() -> Policy {
    let retry = crds::Retry {
        jitter: crds::retry::Jitter::None,
        ..crds::Retry::default()
    };
    Policy {
        schedule: Schedule::new(&retry),
        max_attempts: retry.max_attempts,
        attempt_timeout: retry.attempt_timeout(),
        when: DeadLetterWhen::Rejected,
        on_aggregate: OnAggregate::Continue,
        max_messages: 200,
        max_bytes: 1 << 20,
    }
}
