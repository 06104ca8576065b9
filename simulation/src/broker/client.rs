//! One librdkafka producer: queue, batches, reports.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use relay::encode::Message;
use relay::ports::{Delivered, DeliveryError, ErrorClass, Outcome, Refused, Report, Role, Signal, Signals};
use tokio::sync::Notify;

use super::line::Line;
use super::{Item, PARTITIONS, Poison, SHORT_QUEUE, error, named, place_of, request};
use crate::plan::Fault;
use crate::process::{Point, Process};
use crate::world::MS;

pub(super) struct Client {
    pub(super) process: Arc<Process>,
    pub(super) role: Role,
    pub(super) line: Line,
    state: Mutex<State>,
    filled: Notify,
    /// Something of a batch on its way has changed.
    moved: Notify,
}

/// Batches of a partition that are on their way at a time. librdkafka sends up to five.
const MOST_FLIGHTS: usize = 2;

/// A batch on its way.
struct Flight {
    /// Of its producer and partition.
    number: usize,
    items: Vec<Item>,
    arrived: bool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Item>,
    /// By partition, in the order of their sequence numbers.
    flying: [VecDeque<Flight>; PARTITIONS],
    /// By partition, the number of the next batch.
    next: [usize; PARTITIONS],
    /// By partition, the batch that the broker expects; None as long as it does not know the producer, and takes any.
    expected: [Option<usize>; PARTITIONS],
    /// Nothing is sent any more.
    over: bool,
    ended: bool,
}

impl Client {
    pub(super) fn start(process: &Arc<Process>, role: Role, signals: Signals) -> Arc<Self> {
        let client = Arc::new(Self {
            process: process.clone(),
            role,
            line: Line::new(process, signals),
            state: Mutex::default(),
            filled: Notify::new(),
            moved: Notify::new(),
        });
        tokio::spawn(client.clone().run());
        client
    }

    pub(super) fn send(&self, token: u64, message: &Message) -> Result<(), Refused> {
        let (process, world) = (&self.process, &self.process.world);
        if !process.point(Point::Sending) {
            return Ok(());
        }
        let short = world.fault(Fault::QueueFull, process.seat) && self.in_flight() >= SHORT_QUEUE;
        if short || !process.may_send() {
            world.count("broker: queue full");
            return Err(Refused::QueueFull);
        }
        if self.state.lock().over {
            return Err(Refused::Error(error(
                ErrorClass::Collateral,
                "Fatal",
                Outcome::NotWritten,
            )));
        }
        let poison = message.payload.as_deref().and_then(Poison::of);
        if poison == Some(Poison::AtOnce) {
            world.count("broker: message refused at once");
            let refused = error(ErrorClass::Message, "MessageSizeTooLarge", Outcome::NotWritten);
            return Err(Refused::Error(refused));
        }
        let now = world.now();
        let frozen = process.frozen_until().is_some();
        let send = world.judge(|oracle| oracle.sent(process.life, message, frozen, now));
        world.tell(|| format!("{} sends message {send}: {}", process.name, named(message)));
        let limit = world.plan.config.memory.in_flight_messages as usize;
        let item = Item {
            token,
            send,
            partition: place_of(message),
            poison,
        };
        self.state.lock().queue.push_back(item);
        if self.in_flight() > limit {
            let detail = format!(
                "{} has {} messages in flight; its limit is {limit}",
                process.name,
                self.in_flight()
            );
            world.judge(|oracle| oracle.fail("message-bound", detail));
        }
        self.filled.notify_one();
        process.point(Point::Sent);
        Ok(())
    }

    pub(super) fn in_flight(&self) -> usize {
        let state = self.state.lock();
        let flying = state.flying.iter().flatten();
        state.queue.len() + flying.map(|flight| flight.items.len()).sum::<usize>()
    }

    /// What was given up may be in the topic later all the same, if it was on its way.
    pub(super) fn purge(&self) {
        let (queued, flying) = {
            let mut state = self.state.lock();
            state.over = true;
            (
                std::mem::take(&mut state.queue),
                std::mem::take(&mut state.flying),
            )
        };
        self.moved.notify_waiters();
        for item in flying.into_iter().flatten().flat_map(|flight| flight.items) {
            self.report(
                &item,
                Err(error(ErrorClass::Collateral, "PurgeInflight", Outcome::Unknown)),
            );
        }
        for item in queued {
            self.report(
                &item,
                Err(error(ErrorClass::Collateral, "PurgeQueue", Outcome::NotWritten)),
            );
        }
    }

    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        (state.ended, state.over) = (true, true);
        state.queue.clear();
        drop(state);
        self.filled.notify_one();
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state.lock().ended || self.process.is_dead()
    }

    async fn run(self: Arc<Self>) {
        let world = self.process.world.clone();
        loop {
            self.filled.notified().await;
            // Messages that come at once share a batch.
            world.sleep(world.chance(|chance| chance.within(0, 2 * MS))).await;
            self.process.thawed().await;
            if self.is_ended() {
                return;
            }
            for partition in 0..PARTITIONS {
                while let Some((number, batch)) = self.next_batch(partition) {
                    tokio::spawn(request::run(self.clone(), partition, number, batch));
                }
            }
        }
    }

    fn next_batch(&self, partition: usize) -> Option<(usize, Vec<Item>)> {
        let most = self.process.world.chance(|chance| chance.spread(16)) as usize;
        let flights = if self.role == Role::Flow { MOST_FLIGHTS } else { 1 };
        let mut state = self.state.lock();
        if state.over || state.flying[partition].len() >= flights {
            return None;
        }
        let mut batch = Vec::new();
        state.queue.retain(|item| {
            let takes = item.partition == partition && batch.len() < most;
            if takes {
                batch.push(item.clone());
            }
            !takes
        });
        if batch.is_empty() {
            return None;
        }
        let number = state.next[partition];
        state.next[partition] += 1;
        state.flying[partition].push_back(Flight {
            number,
            items: batch.clone(),
            arrived: false,
        });
        Some((number, batch))
    }

    /// Waits until what was sent before it has arrived: all use one connection.
    pub(super) async fn turn_to_arrive(&self, partition: usize, number: usize) {
        let comes = |state: &State| {
            let mut before = state.flying[partition]
                .iter()
                .take_while(|flight| flight.number < number);
            before.all(|flight| flight.arrived)
        };
        self.until(comes).await;
    }

    /// Waits until what was sent before it has been answered.
    pub(super) async fn turn_to_answer(&self, partition: usize, number: usize) {
        let comes = |state: &State| {
            state.flying[partition]
                .front()
                .is_none_or(|flight| flight.number >= number)
        };
        self.until(comes).await;
    }

    async fn until(&self, comes: impl Fn(&State) -> bool) {
        loop {
            let moved = self.moved.notified();
            if comes(&self.state.lock()) {
                return;
            }
            moved.await;
        }
    }

    /// The broker has the batch before it: whether its sequence numbers are those that it expects.
    pub(super) fn arrives_in_sequence(&self, partition: usize, number: usize) -> bool {
        let mut state = self.state.lock();
        let flight = state.flying[partition]
            .iter_mut()
            .find(|flight| flight.number == number);
        if let Some(flight) = flight {
            flight.arrived = true;
        }
        let in_sequence = state.expected[partition].is_none_or(|expected| expected == number);
        drop(state);
        self.moved.notify_waiters();
        in_sequence || self.role == Role::Isolation
    }

    pub(super) fn written(&self, partition: usize, number: usize) {
        self.state.lock().expected[partition] = Some(number + 1);
    }

    /// Whether the batch is still waited for; it is not any more after this.
    pub(super) fn landed(&self, partition: usize, number: usize) -> bool {
        let mut state = self.state.lock();
        let waits = state.flying[partition]
            .front()
            .is_some_and(|flight| flight.number == number);
        if waits {
            state.flying[partition].pop_front();
        }
        drop(state);
        self.moved.notify_waiters();
        self.filled.notify_one();
        waits
    }

    pub(super) fn is_flying(&self, partition: usize, number: usize) -> bool {
        let state = self.state.lock();
        state.flying[partition]
            .iter()
            .any(|flight| flight.number == number)
    }

    /// Gapless: after a failed batch nothing behind it is written.
    pub(super) fn break_off(&self) {
        let gapless = self.role == Role::Flow;
        if gapless && !std::mem::replace(&mut self.state.lock().over, true) {
            let first = self.process.world.percent(50);
            let fatal = Signal::Fatal(error(
                ErrorClass::Collateral,
                "GaplessGuarantee",
                Outcome::Unknown,
            ));
            if first {
                self.line.signal(fatal.clone());
            }
            self.purge();
            if !first {
                self.line.signal(fatal);
            }
        }
    }

    pub(super) fn report(&self, item: &Item, result: Result<Delivered, DeliveryError>) {
        if self.process.is_dead() || !self.process.point(Point::Reported) {
            return;
        }
        let world = &self.process.world;
        let now = world.now();
        let outcome = result.as_ref().err().map(|error| error.outcome);
        world.judge(|oracle| oracle.reported(item.send, outcome, now));
        world.tell(|| {
            let result = result
                .as_ref()
                .map_or_else(ToString::to_string, |at| format!("at {}", at.offset));
            format!("{} hears of message {}: {result}", self.process.name, item.send)
        });
        self.line.signal(Signal::Report(Report {
            token: item.token,
            result,
        }));
    }
}
