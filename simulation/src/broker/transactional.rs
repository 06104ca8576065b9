//! A transactional librdkafka producer: what is sent waits in the cluster for its commit; after any failure an abort is all
//! that is left.

mod ending;
mod opening;
mod request;

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use relay::encode::Message;
use relay::ports::{
    Delivered, DeliveryError, ErrorClass, Outcome, Producer, Refused, Report, Signal, Signals,
    TransactionError, TransactionalProducer,
};
use tokio::sync::Notify;

use super::cluster::{JOURNAL, LOGS, What};
use super::line::Line;
use super::{Poison, SHORT_QUEUE, error, named, partition_of, place_of};
use crate::plan::Fault;
use crate::process::{Point, Process};
use crate::world::MS;
pub(super) use ending::apply;

pub(crate) struct ModelTransactional(Arc<Inner>);

struct Inner {
    line: Line,
    id: String,
    epoch: u32,
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Piece>,
    /// By log, the batch on its way: one at a time.
    flying: [Vec<Piece>; LOGS],
    /// The cluster's number of the current transaction, once something of it was written.
    transaction: Option<usize>,
    /// Its events, by the oracle's numbers of their sends.
    sends: Vec<usize>,
    /// It can only be aborted.
    failed: Option<DeliveryError>,
    /// The cluster has refused a message of it, and has not seen its number.
    gap: bool,
    /// So it will refuse what comes next, until that is aborted as well.
    refuses: bool,
    fatal: Option<DeliveryError>,
    ended: bool,
}

/// A message with the producer.
#[derive(Debug, Clone)]
struct Piece {
    token: u64,
    log: usize,
    what: What,
    poison: Option<Poison>,
}

impl Inner {
    fn process(&self) -> &Arc<Process> {
        &self.line.process
    }

    fn send(&self, token: u64, message: &Message) -> Result<(), Refused> {
        let (process, world) = (self.process(), &self.process().world);
        if !process.point(Point::Sending) {
            return Ok(());
        }
        let in_flight = self.in_flight();
        let short = world.fault(Fault::QueueFull, process.seat) && in_flight >= SHORT_QUEUE;
        if short || !process.may_send() {
            world.count("broker: queue full");
            return Err(Refused::QueueFull);
        }
        {
            let state = self.state.lock();
            let refused = state.fatal.as_ref().map(|_| "Fatal");
            if let Some(code) = refused.or(state.failed.as_ref().map(|_| "State")) {
                let refused = error(ErrorClass::Collateral, code, Outcome::NotWritten);
                return Err(Refused::Error(refused));
            }
        }
        let journal = &*message.topic != world.plan.config.sink.topic.as_str();
        let poison = message
            .payload
            .as_deref()
            .and_then(Poison::of)
            .filter(|_| !journal);
        if poison == Some(Poison::AtOnce) {
            world.count("broker: message refused at once");
            let refused = error(ErrorClass::Message, "MessageSizeTooLarge", Outcome::NotWritten);
            return Err(Refused::Error(refused));
        }
        let (log, what) = if journal {
            let record = message.payload.clone().unwrap_or_default();
            (JOURNAL, What::Record(record))
        } else {
            let now = world.now();
            let frozen = process.frozen_until().is_some();
            let send = world.judge(|oracle| oracle.sent(process.life, message, frozen, now));
            world.tell(|| format!("{} sends message {send}: {}", process.name, named(message)));
            self.state.lock().sends.push(send);
            (place_of(message), What::Message(send))
        };
        self.state.lock().queue.push_back(Piece {
            token,
            log,
            what,
            poison,
        });
        let limit = world.plan.config.memory.in_flight_messages as usize;
        if !journal && self.in_flight() > limit {
            let detail = format!(
                "{} has {} messages in flight; its limit is {limit}",
                process.name,
                in_flight + 1
            );
            world.judge(|oracle| oracle.fail("message-bound", detail));
        }
        self.filled.notify_one();
        process.point(Point::Sent);
        if journal {
            process.point(Point::Sealing);
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        let state = self.state.lock();
        state.queue.len() + state.flying.iter().map(Vec::len).sum::<usize>()
    }

    fn is_over(&self) -> bool {
        self.state.lock().ended || self.process().is_dead()
    }

    /// Sends what comes in, batch by batch.
    async fn run(self: Arc<Self>) {
        let world = self.process().world.clone();
        loop {
            self.filled.notified().await;
            // Messages that come at once share a batch.
            world.sleep(world.chance(|chance| chance.within(0, 2 * MS))).await;
            self.process().thawed().await;
            if self.is_over() {
                return;
            }
            for log in 0..LOGS {
                if let Some(batch) = self.next_batch(log) {
                    tokio::spawn(request::run(self.clone(), log, batch));
                }
            }
        }
    }

    fn next_batch(&self, log: usize) -> Option<Vec<Piece>> {
        let most = self.process().world.chance(|chance| chance.spread(16)) as usize;
        let mut state = self.state.lock();
        if state.failed.is_some() || state.fatal.is_some() || !state.flying[log].is_empty() {
            return None;
        }
        let mut batch = Vec::new();
        state.queue.retain(|piece| {
            let takes = piece.log == log && batch.len() < most;
            if takes {
                batch.push(piece.clone());
            }
            !takes
        });
        state.flying[log].clone_from(&batch);
        (!batch.is_empty()).then_some(batch)
    }

    fn report(&self, piece: &Piece, result: Result<Delivered, DeliveryError>) {
        let process = self.process();
        if process.is_dead() || !process.point(Point::Reported) {
            return;
        }
        process.world.tell(|| {
            let result = result
                .as_ref()
                .map_or_else(ToString::to_string, |at| format!("at {}", at.offset));
            format!("{} hears of {:?}: {result}", process.name, piece.what)
        });
        self.line.signal(Signal::Report(Report {
            token: piece.token,
            result,
        }));
    }

    /// From here on the transaction can only be aborted; what waits is not sent any more.
    fn fails(&self, cause: &DeliveryError) {
        self.state.lock().failed.get_or_insert_with(|| cause.clone());
        self.purge_queue();
    }

    /// It will never send again. What fails with it may be told before why it died.
    fn dies(&self, code: &str) -> DeliveryError {
        let cause = error(ErrorClass::Collateral, code, Outcome::Unknown);
        let first = {
            let mut state = self.state.lock();
            state.fatal.replace(cause.clone()).is_none()
        };
        if first {
            let world = &self.process().world;
            world.judge(|oracle| oracle.lost_transaction(self.process().life));
            let cause_first = world.percent(50);
            if cause_first {
                self.line.signal(Signal::Fatal(cause.clone()));
            }
            self.purge_queue();
            self.purge_flying();
            if !cause_first {
                self.line.signal(Signal::Fatal(cause.clone()));
            }
        }
        cause
    }

    fn purge_queue(&self) {
        let queued = std::mem::take(&mut self.state.lock().queue);
        for piece in queued {
            let purged = error(ErrorClass::Collateral, "PurgeQueue", Outcome::NotWritten);
            self.report(&piece, Err(purged));
        }
    }

    fn purge_flying(&self) {
        let flying = std::mem::take(&mut self.state.lock().flying);
        for piece in flying.into_iter().flatten() {
            let purged = error(ErrorClass::Collateral, "PurgeInflight", Outcome::Unknown);
            self.report(&piece, Err(purged));
        }
    }

    /// Whether the batch is still waited for; it is not any more after this.
    fn landed(&self, log: usize, batch: &[Piece]) -> bool {
        let waits = self.is_flying(log, batch);
        if waits {
            self.state.lock().flying[log].clear();
        }
        self.filled.notify_one();
        waits
    }

    fn is_flying(&self, log: usize, batch: &[Piece]) -> bool {
        let token = |pieces: &[Piece]| pieces.first().map(|piece| piece.token);
        token(&self.state.lock().flying[log]) == token(batch)
    }

    fn end(&self) {
        self.state.lock().ended = true;
        self.filled.notify_one();
    }
}

impl Producer for ModelTransactional {
    fn send(&self, token: u64, message: &Message) -> Result<(), Refused> {
        self.0.send(token, message)
    }

    fn partition(&self, key: &[u8], partitions: i32) -> i32 {
        partition_of(key, partitions)
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    fn purge(&self) {
        self.0.process().point(Point::Purging);
        self.0.purge_queue();
    }

    fn fatal(&self) -> Option<DeliveryError> {
        self.0.state.lock().fatal.clone()
    }

    async fn close(self) {
        self.0.process().thawed().await;
        self.0.end();
    }
}

impl Drop for ModelTransactional {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl TransactionalProducer for ModelTransactional {
    fn commit(&self) -> impl Future<Output = Result<(), TransactionError>> + Send + use<> {
        ending::end(self.0.clone(), true)
    }

    fn abort(&self) -> impl Future<Output = Result<(), TransactionError>> + Send + use<> {
        ending::end(self.0.clone(), false)
    }
}

fn start(process: &Arc<Process>, id: &str, epoch: u32, signals: Signals) -> ModelTransactional {
    let inner = Arc::new(Inner {
        line: Line::new(process, signals),
        id: id.to_owned(),
        epoch,
        state: Mutex::default(),
        filled: Notify::new(),
    });
    tokio::spawn(inner.clone().run());
    ModelTransactional(inner)
}
