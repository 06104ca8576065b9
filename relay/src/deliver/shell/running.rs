//! The loop of a running lane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::holding::{Answer, Holding};
use super::inbox::Inbox;
use super::introductions::{Introductions, Place};
use super::start::ASK_TIMEOUT;
use super::transacting::Owner;
use super::{Broken, Delivery, is_open};
use crate::deliver::lane::{Action, End, Event, Generation, Lane, Note, Now, Resolved};
use crate::deliver::prepare::{TopicKnowledge, check_topic};
use crate::deliver::topics::{Advice, Topics};
use crate::encode::Message;
use crate::event::SourceEvent;
use crate::ledger::Known;
use crate::model::SlotSet;
use crate::ports::{
    Broker, Clock, DeadLetterError, DeadLetters, DeliveryError, ErrorClass, Lettered, Outcome, Producer,
    Refused, Report, Role, Signal, TransactionError, Transactional,
};

/// Messages handed to librdkafka in one turn, about a millisecond's work: then reports get their turn.
const SENDS_PER_TURN: usize = 500;

/// Events prepared in one turn, likewise.
const OFFERS_PER_TURN: usize = 500;

/// How long a stop waits for what is in flight. What is unresolved after it is delivered by the next owner.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// The longest sleep: a lease that was renewed, for one, wakes nobody.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// Longest answer awaited when brokers seemed down. It is part of an attempt, so of how soon the breaker opens.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Running<B: Broker, D, C> {
    pub(super) delivery: Delivery<B, Arc<D>, C>,
    pub(super) lane: Lane,
    producers: BTreeMap<Generation, B::Producer>,
    /// In exactly-once: the only producer.
    pub(super) owner: Option<Owner>,
    pub(super) inbox: Inbox,
    topics: Topics,
    introductions: Introductions,
    asking: bool,
    /// Events that the lane has not taken yet.
    backlog: std::vec::IntoIter<SourceEvent>,
    /// The next of them, waiting for what is known of its topic.
    next: Option<Event>,
    /// A dead letter that is sent again, waiting likewise.
    replay: Option<Event>,
    pub(super) holding: Holding,
    pub(super) tasks: JoinSet<Done>,
    /// Tasks that settle dead letters.
    pub(super) settling: usize,
    closing: JoinSet<()>,
    signals: Vec<(Generation, Signal)>,
    pub(super) resolved: Vec<Resolved>,
    pub(super) notes: Vec<Note>,
    /// Health says so until something is delivered.
    pub(super) sink_is_degraded: bool,
}

/// A task that has ended.
pub(super) enum Done {
    Checked(Result<(), DeliveryError>),
    LettersWritten(Result<(), DeadLetterError>),
    Asked(Arc<str>, TopicKnowledge),
    Held(Vec<Answer>),
    Opened(Generation, Result<Box<dyn Transactional>, TransactionError>),
    Ended(Generation, End, Result<(), TransactionError>),
    LettersSettled(Vec<Lettered>, Result<(), DeadLetterError>),
}

impl<B: Broker + Clone, D: DeadLetters, C: Clock> Running<B, D, C> {
    pub(super) fn new(delivery: Delivery<B, D, C>, lane: Lane, topics: Topics) -> Self {
        Self {
            delivery: delivery.share_dead_letters(),
            lane,
            producers: BTreeMap::new(),
            owner: None,
            inbox: Inbox::default(),
            topics,
            introductions: Introductions::default(),
            asking: false,
            backlog: Vec::new().into_iter(),
            next: None,
            replay: None,
            holding: Holding::default(),
            tasks: JoinSet::new(),
            settling: 0,
            closing: JoinSet::new(),
            signals: Vec::new(),
            resolved: Vec::new(),
            notes: Vec::new(),
            sink_is_degraded: false,
        }
    }

    pub(super) async fn run(
        &mut self,
        events: &mut mpsc::Receiver<Vec<SourceEvent>>,
        stop: &CancellationToken,
    ) -> Result<(), Broken> {
        self.delivery.control.update(|view| view.started = true);
        let mut ends_at = None;
        let mut open = true;
        loop {
            let now = self.now();
            let busy = self.turn(now);
            if let Some(error) = self.lane.broken().cloned() {
                self.end().await;
                return Err(Broken(error));
            }
            if stop.is_cancelled() {
                let ends_at = *ends_at.get_or_insert(now.elapsed + DRAIN_LIMIT);
                let unread = self.next.is_some() || self.backlog.len() > 0;
                let idle = self.lane.is_empty() && !unread && self.settling == 0;
                if idle || is_open(self.lane.breaker().state()) || now.elapsed >= ends_at {
                    break;
                }
            }
            if busy {
                tokio::task::yield_now().await;
                continue;
            }
            let wake = self.lane.next_deadline(now).unwrap_or(Duration::MAX);
            let sleep = wake.saturating_sub(now.elapsed).min(LONGEST_SLEEP);
            let takes = open && self.backlog.len() == 0 && self.next.is_none() && self.lane.accepts();
            // Each of these leads to a turn, which looks at everything; so what comes first matters only in that the
            // rare come before the frequent.
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => self.done(done),
                Some(_) = self.closing.join_next(), if !self.closing.is_empty() => {}
                batch = events.recv(), if takes && !stop.is_cancelled() => match batch {
                    Some(batch) => self.receive(batch),
                    None => open = false,
                },
                () = self.inbox.filled() => {}
                () = self.delivery.control.changed() => {}
                () = stop.cancelled(), if !stop.is_cancelled() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
        self.end().await;
        Ok(())
    }

    /// Does what can be done at once; true if there may be more.
    fn turn(&mut self, now: Now) -> bool {
        self.let_go_of_revoked(now);
        self.decide_letters(now);
        self.let_go_of_held();
        self.hear(now);
        self.lane.on_tick(now);
        self.offer_replays(now);
        let offered = self.offer(now);
        while let Some(action) = self.lane.next_action(now) {
            self.act(action, now);
        }
        let sent = self.send(now);
        while let Some(action) = self.lane.next_action(now) {
            self.act(action, now);
        }
        self.publish(now);
        self.tell_keeper();
        offered == OFFERS_PER_TURN || sent == SENDS_PER_TURN
    }

    fn hear(&mut self, now: Now) {
        self.inbox.take(&mut self.signals);
        let mut asked = None;
        let mut signals = std::mem::take(&mut self.signals);
        for (generation, signal) in signals.drain(..) {
            // What a dead producer gives up may be told before why it died, and the lane would look for a reason in vain.
            if is_collateral(&signal) && asked.replace(generation) != Some(generation) {
                let cause = self.cause(generation);
                if let Some(cause) = cause {
                    self.lane.on_signal(generation, Signal::Fatal(cause), now);
                }
            }
            if let Signal::Report(Report {
                token,
                result: Ok(at),
            }) = &signal
            {
                self.introductions
                    .delivered(generation, *token, at.partition, now.elapsed);
            }
            let signal = match signal {
                Signal::Fatal(error) => {
                    let cause = self.cause(generation);
                    Signal::Fatal(cause.unwrap_or(error))
                }
                signal => signal,
            };
            self.lane.on_signal(generation, signal, now);
        }
        self.signals = signals;
    }

    /// Why a producer will never send again.
    fn cause(&self, generation: Generation) -> Option<DeliveryError> {
        match &self.owner {
            Some(owner) => owner.fatal(generation),
            None => self.producers.get(&generation).and_then(Producer::fatal),
        }
    }

    fn let_go_of_revoked(&mut self, now: Now) {
        let (revoked, admitted) = self.delivery.control.take_changes();
        if !revoked.is_empty() {
            self.forget(revoked);
            self.holding.lost(revoked);
            self.lane.revoke(revoked, now);
        }
        for slot in admitted {
            if slot.is_transactional(self.delivery.exactly_once.is_some()) {
                self.holding.taken(slot.slot, slot.epoch);
            }
            self.lane.admit(slot.slot, slot.epoch, slot.saved, slot.mark);
        }
    }

    /// What was on its way here when its slot was lost goes no further: an event before it may have been forgotten, and
    /// whoever has the slot now, this process perhaps, reads it again.
    fn receive(&mut self, mut batch: Vec<SourceEvent>) {
        // A slot may have been lost and taken again before the lane's next turn; its new events are here now.
        self.let_go_of_revoked(self.now());
        let refused = self.delivery.control.refused();
        {
            let mut ledger = self.delivery.ledger.lock();
            let ours = |event: &SourceEvent| {
                let (slot, ownership) = (event.slot, event.ownership);
                if refused.contains(slot) {
                    // A slot that was taken again is read before the lane is told so.
                    ledger.release(slot, ownership, event.time(), event.row_id);
                    return false;
                }
                ledger.ownership(slot) == ownership
                    && ledger.known(slot, event.time(), event.row_id) == Known::Taken
            };
            batch.retain(ours);
        }
        self.backlog = batch.into_iter();
    }

    fn offer(&mut self, now: Now) -> usize {
        let mut offered = 0;
        while offered < OFFERS_PER_TURN && self.lane.accepts() {
            let Some(event) = self.next.take().or_else(|| self.prepare_next()) else {
                break;
            };
            if !self.knows_what_is_held(event.slot, now) {
                self.next = Some(event);
                break;
            }
            self.next = self.offer_checked(event, now);
            if self.next.is_some() {
                break;
            }
            offered += 1;
        }
        offered
    }

    /// Hands an event to the lane once enough is known of its topic; gives it back if it has to wait for that.
    fn offer_checked(&mut self, mut event: Event, now: Now) -> Option<Event> {
        if event.problem.is_none() {
            let size = event.message.batch_size();
            let known = match self.topics.advice(&event.message.topic, size, now.elapsed) {
                Advice::Known(known) => Some(known.clone()),
                Advice::Refresh(known) => {
                    let known = known.clone();
                    self.ask(&event.message.topic);
                    Some(known)
                }
                Advice::Ask => {
                    self.ask(&event.message.topic);
                    None
                }
                Advice::Wait => None,
            };
            let Some(known) = known else {
                return Some(event);
            };
            check_topic(&mut event, &known);
        }
        self.lane.offer(event, now);
        None
    }

    /// Dead letters that are sent again, in the order in which they came; there are few at once.
    fn offer_replays(&mut self, now: Now) {
        while self.lane.accepts() {
            let waited = self.replay.take();
            let event = waited.or_else(|| {
                let event = self.delivery.control.next_replay()?;
                let size = event.message.batch_size();
                self.topics.doubt(&event.message.topic, size, now.elapsed);
                Some(event)
            });
            let Some(event) = event else { return };
            self.replay = self.offer_checked(event, now);
            if self.replay.is_some() {
                return;
            }
        }
    }

    fn prepare_next(&mut self) -> Option<Event> {
        let source = self.backlog.next()?;
        let metrics = &self.delivery.metrics.delivery;
        if source.late {
            metrics.late();
            self.delivery.control.update(|view| view.totals.late += 1);
        }
        let event = self
            .delivery
            .preparer
            .prepare(source, |event_type| metrics.label(event_type));
        Some(event)
    }

    fn send(&mut self, now: Now) -> usize {
        let lease_until = (self.delivery.lease)();
        for sent in 0..SENDS_PER_TURN {
            let Some((role, generation, seq, message)) = self.lane.next_to_send(now, lease_until) else {
                return sent;
            };
            let mut place = None;
            let handed = match (&self.owner, self.producers.get(&generation)) {
                (Some(owner), _) => owner.send(seq, message),
                (None, Some(producer)) => {
                    // Of a transaction nothing is seen if anything is refused, and what is isolated needs no order.
                    place = (role == Role::Flow)
                        .then(|| place_of(&self.topics, producer, message))
                        .flatten();
                    if place
                        .as_ref()
                        .is_some_and(|place| !self.introductions.admits(generation, place))
                    {
                        self.lane.refused(seq, Refused::QueueFull, now);
                        return sent;
                    }
                    producer.send(seq, message)
                }
                (None, None) => {
                    error!(generation, "the lane sends to a producer that is gone");
                    return sent;
                }
            };
            match handed {
                Ok(()) => {
                    if let Some(place) = place {
                        self.introductions.sent(generation, seq, place, now.elapsed);
                    }
                    self.lane.sent(seq, now);
                }
                Err(refused) => {
                    if refused == Refused::QueueFull {
                        self.delivery.metrics.delivery.queue_full();
                    }
                    self.lane.refused(seq, refused, now);
                }
            }
        }
        SENDS_PER_TURN
    }

    fn act(&mut self, action: Action, now: Now) {
        match action {
            Action::Open(_, generation) if self.delivery.exactly_once.is_some() => {
                self.open_owner(generation)
            }
            Action::Open(role, generation) => self.open(role, generation, now),
            Action::End(generation, end) => self.end_transaction(generation, end),
            Action::SettleDeadLetters(letters) => self.settle_letters(letters, Duration::ZERO),
            Action::Close(generation) => {
                if let Some(producer) = self.producers.remove(&generation) {
                    self.closing.spawn(producer.close());
                }
            }
            Action::Purge(generation) => {
                if let Some(owner) = &self.owner {
                    owner.purge();
                } else if let Some(producer) = self.producers.get(&generation) {
                    producer.purge();
                }
            }
            Action::Check => {
                let broker = self.delivery.broker.clone();
                let topic = self.delivery.preparer.fixed_topic().map(str::to_owned);
                self.tasks
                    .spawn(async move { Done::Checked(broker.check(topic.as_deref(), CHECK_TIMEOUT).await) });
            }
            Action::WriteDeadLetters(letters) => {
                let target = Arc::clone(&self.delivery.dead_letters);
                self.tasks
                    .spawn(async move { Done::LettersWritten(target.write(&letters).await) });
            }
        }
    }

    fn open(&mut self, role: Role, generation: Generation, now: Now) {
        match self
            .delivery
            .broker
            .producer(role, self.inbox.signals(generation))
        {
            Ok(producer) => {
                self.producers.insert(generation, producer);
                self.lane.opened(role, generation);
            }
            Err(error) => self.lane.not_opened(role, error, now),
        }
    }

    /// Asks about a topic, one at a time: whoever waits for another one asks again after the answer.
    fn ask(&mut self, topic: &Arc<str>) {
        if std::mem::replace(&mut self.asking, true) {
            return;
        }
        let (broker, topic) = (self.delivery.broker.clone(), Arc::clone(topic));
        self.tasks.spawn(async move {
            let knowledge = match broker.topic(&topic, ASK_TIMEOUT).await {
                Ok(info) => TopicKnowledge::Exists(info),
                Err(error) if error.class == ErrorClass::Message => TopicKnowledge::Missing(error),
                Err(_) => TopicKnowledge::Unasked,
            };
            Done::Asked(topic, knowledge)
        });
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let now = self.now();
        match done {
            Ok(Done::Checked(result)) => self.lane.checked(result, now),
            Ok(Done::LettersWritten(result)) => self.lane.dead_letters_written(result, now),
            Ok(Done::Asked(topic, knowledge)) => {
                self.asking = false;
                self.topics.learn(topic, knowledge, now.elapsed);
            }
            Ok(Done::Held(answers)) => self.told_what_is_held(answers, now),
            Ok(Done::Opened(generation, opened)) => self.opened_owner(generation, opened, now),
            Ok(Done::Ended(generation, end, result)) => {
                // Reports came before the answer.
                self.hear(now);
                self.lane.ended(generation, end, result, now);
            }
            Ok(Done::LettersSettled(letters, result)) => self.letters_settled(letters, result),
            Err(panic) => self.task_panicked(&panic, now),
        }
    }

    /// A mistake of ours. Whichever it was, the lane gets an answer: it must not wait for ever.
    fn task_panicked(&mut self, panic: &tokio::task::JoinError, now: Now) {
        error!(%panic, "a delivery task panicked");
        self.asking = false;
        self.asked_in_vain(now);
        let detail = panic.to_string();
        self.lane.step_lost(&detail);
        self.lane.checked(
            Err(DeliveryError {
                class: ErrorClass::Transient,
                code: "Panicked".to_owned(),
                detail: detail.clone(),
                outcome: Outcome::Unknown,
            }),
            now,
        );
        let target = "unknown".to_owned();
        self.lane.dead_letters_written(
            Err(DeadLetterError {
                target,
                detail,
                fenced: false,
            }),
            now,
        );
    }

    /// Events of slots that are not ours any more go no further.
    fn forget(&mut self, slots: SlotSet) {
        let kept: Vec<_> = std::mem::take(&mut self.backlog)
            .filter(|event| !slots.contains(event.slot))
            .collect();
        self.backlog = kept.into_iter();
        let kept = |event: &Event| !slots.contains(event.slot);
        self.next = self.next.take().filter(kept);
        self.replay = self.replay.take().filter(kept);
    }

    /// Letters that are not durable by now are written by the next owner.
    async fn end(&mut self) {
        self.tasks.abort_all();
        self.end_owner().await;
        for producer in std::mem::take(&mut self.producers).into_values() {
            self.closing.spawn(producer.close());
        }
        while self.closing.join_next().await.is_some() {}
    }

    pub(super) fn now(&self) -> Now {
        Now {
            elapsed: self.delivery.clock.elapsed(),
            wall: self.delivery.clock.now(),
        }
    }
}

/// Where a message goes. What has no key goes anywhere, in no order.
fn place_of(topics: &Topics, producer: &impl Producer, message: &Message) -> Option<Place> {
    let key = message.key.as_deref()?;
    let partitions = topics.partitions(&message.topic);
    let partition = partitions.map(|partitions| producer.partition(key, partitions));
    Some((Arc::clone(&message.topic), partition))
}

/// A message that failed only with its producer.
fn is_collateral(signal: &Signal) -> bool {
    let Signal::Report(report) = signal else {
        return false;
    };
    let error = report.result.as_ref().err();
    error.is_some_and(|error| error.class == ErrorClass::Collateral)
}
