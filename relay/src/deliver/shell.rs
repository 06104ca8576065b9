//! Drives a lane with a real broker, real dead letters and real time. It decides nothing: it feeds the lane with events
//! and signals, and does what the lane says, in batches, woken by what happens.

mod control;
mod holding;
mod inbox;
mod introductions;
mod running;
mod start;
mod told;
mod transacting;

use std::sync::Arc;
use std::time::Duration;

use crds::{RelayConfig, relay_status::BreakerState};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::deliver::breaker::Breaker;
use crate::deliver::lane::{JournalOf, Lane, Policy};
use crate::deliver::prepare::Preparer;
use crate::deliver::retry::Schedule;
use crate::event::SourceEvent;
use crate::health::Board;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::ports::{Broker, Clock, DeadLetters, DeliveryError, Transactions};
use crate::spans::Spans;

pub use control::{Admission, Control, View, ViewState};
use running::Running;

/// Batches of events that wait for the lane. The lane itself holds what the memory limits allow; this only keeps the
/// reader busy while the lane takes a turn.
pub const EVENT_BATCHES: usize = 4;

/// What delivery stands on.
pub struct Delivery<B, D, C> {
    pub broker: B,
    pub dead_letters: D,
    pub clock: C,
    pub preparer: Preparer,
    pub policy: Policy,
    pub breaker: Breaker,
    pub ledger: Arc<Mutex<Ledger>>,
    pub metrics: Arc<Metrics>,
    pub board: Board,
    pub control: Control,
    /// Until when, on the monotonic clock, events may be handed to a producer: the lease.
    pub lease: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// For jitter.
    pub seed: u64,
    /// None: at least once.
    pub exactly_once: Option<ExactlyOnce>,
    /// Where traced events are told.
    pub spans: Option<Spans>,
}

/// What a lane needs to deliver exactly once.
#[derive(Clone)]
pub struct ExactlyOnce {
    pub transactions: Arc<dyn Transactions>,
    /// Its own: no other lane, process or life of a process has it.
    pub transactional_id: String,
    pub journal: JournalOf,
}

/// A lane that can never send again: its slots have to be taken anew, which finds out what became of its transaction.
#[derive(Debug, thiserror::Error)]
#[error("its transactional producer has ended: {0}")]
pub struct Broken(pub DeliveryError);

impl<B, D, C> Delivery<B, D, C> {
    fn share_dead_letters(self) -> Delivery<B, Arc<D>, C> {
        Delivery {
            dead_letters: Arc::new(self.dead_letters),
            broker: self.broker,
            clock: self.clock,
            preparer: self.preparer,
            policy: self.policy,
            breaker: self.breaker,
            ledger: self.ledger,
            metrics: self.metrics,
            board: self.board,
            control: self.control,
            lease: self.lease,
            seed: self.seed,
            exactly_once: self.exactly_once,
            spans: self.spans,
        }
    }
}

impl Policy {
    pub fn new(config: &RelayConfig) -> Self {
        Self {
            schedule: Schedule::new(&config.retry),
            max_attempts: config.retry.max_attempts,
            attempt_timeout: config.retry.attempt_timeout(),
            when: config.dead_letter.when,
            on_aggregate: config.dead_letter.on_aggregate,
            max_messages: config.memory.in_flight_messages as usize,
            max_bytes: usize::try_from(config.memory.in_flight_bytes).unwrap_or(usize::MAX),
        }
    }
}

/// Delivers until `stop` is cancelled and what is in flight is resolved, or will not be soon. What is unresolved then
/// stays *taken* in the ledger, so no checkpoint passes it.
///
/// If this ends by a panic, what it held is lost to this process: its slots have to be opened again from their
/// checkpoints.
///
/// # Errors
/// The same, in exactly-once: its transactional producer was fenced, or has failed for ever.
pub async fn run<B: Broker + Clone, D: DeadLetters, C: Clock>(
    delivery: Delivery<B, D, C>,
    mut events: mpsc::Receiver<Vec<SourceEvent>>,
    stop: CancellationToken,
) -> Result<(), Broken> {
    let Some(topics) = start::wait_for_sink(&delivery, &stop).await else {
        return Ok(());
    };
    let (policy, breaker) = (delivery.policy.clone(), delivery.breaker.clone());
    let lane = match &delivery.exactly_once {
        Some(exactly) => Lane::transactional(policy, breaker, delivery.seed, exactly.journal.clone()),
        None => Lane::new(policy, breaker, delivery.seed),
    };
    let mut running = Running::new(delivery, lane, topics);
    running.run(&mut events, &stop).await
}

/// Whether the circuit lets events through.
pub(super) fn is_open(state: BreakerState) -> bool {
    state == BreakerState::Open
}
