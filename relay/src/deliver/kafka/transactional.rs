//! Transactional producers on librdkafka. Its calls that wait for the coordinator block, so each producer has a thread
//! of its own that makes them and nothing else.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::oneshot;

use super::{KafkaBroker, KafkaProducer, blocking, internal};
use crate::deliver::classify::delivery_error;
use crate::encode::Message;
use crate::ports::{
    DeliveryError, ErrorClass, Outcome, Producer, Refused, Signal, Signals, TransactionError,
    TransactionalBroker, TransactionalProducer, Verdict,
};

/// One call of librdkafka waits this long for the coordinator; what is called again goes on where it was.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// One call that aborts waits this long, and is made again until [`CALL_TIMEOUT`]. What a broker answers with "again"
/// after the call has emptied librdkafka's queues goes back into them, and nothing sends it any more; only the next
/// call empties them anew.
const ABORT_STEP: Duration = Duration::from_millis(200);

/// How long initialising goes on. A coordinator that was just elected loads its log first; and an id whose transaction
/// is being ended is refused until that is done.
const INITIALISE_LIMIT: Duration = Duration::from_secs(30);

/// librdkafka counts a message as in flight until just after its report was handed over. Committing before costs 100 ms
/// (rdkafka's flush polls in steps of that), so the thread looks this often instead.
const IN_FLIGHT_POLL: Duration = Duration::from_micros(100);

/// The lane asks for one thing at a time.
const COMMANDS: usize = 1;

/// One transactional producer. Dropping it closes what it has open only after [`super::settings::TRANSACTION_TIMEOUT`],
/// or when its id is opened again, so abort first if there is time.
pub struct KafkaTransactionalProducer {
    // Dropped before `commands`, so that the thread has the last one: dropping a producer blocks.
    producer: Arc<KafkaProducer>,
    commands: mpsc::SyncSender<Command>,
    /// Closed once the thread has dropped the producer.
    over: oneshot::Receiver<()>,
}

struct Command {
    end: End,
    answer: oneshot::Sender<Result<(), TransactionError>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    Abort,
}

impl TransactionalBroker for KafkaBroker {
    type Producer = KafkaTransactionalProducer;

    async fn transactional(
        &self,
        id: &str,
        signals: Signals,
    ) -> Result<KafkaTransactionalProducer, TransactionError> {
        let (broker, id) = (self.clone(), id.to_owned());
        let (commands, received) = mpsc::sync_channel(COMMANDS);
        let (opened, answer) = oneshot::channel();
        let (alive, over) = oneshot::channel();
        let work = move || {
            match broker.initialise(&id, signals.clone()) {
                Ok(producer) => {
                    let producer = Arc::new(producer);
                    if opened.send(Ok(Arc::clone(&producer))).is_ok() {
                        serve(&producer, &received, &signals);
                    }
                }
                // Whoever asked may have gone.
                Err(error) => drop(opened.send(Err(error))),
            }
            drop(alive);
        };
        let thread = thread::Builder::new().name("transactions".to_owned());
        // It ends when the producer is dropped, after at most one call of librdkafka.
        thread.spawn(work).map_err(|error| ended(&error.to_string()))?;
        let producer = answer.await.map_err(|_| ended("its thread panicked"))??;
        Ok(KafkaTransactionalProducer {
            producer,
            commands,
            over,
        })
    }

    async fn fence(&self, id: &str) -> Result<(), TransactionError> {
        let (broker, id) = (self.clone(), id.to_owned());
        let fenced = blocking(move || broker.initialise(&id, Signals::new(|_| ())).map(drop)).await;
        fenced.map_err(|error| TransactionError {
            verdict: Verdict::Again,
            error: internal(&error),
        })?
    }
}

impl KafkaBroker {
    /// Blocks for at most [`INITIALISE_LIMIT`] and one call.
    fn initialise(&self, id: &str, signals: Signals) -> Result<KafkaProducer, TransactionError> {
        let config = self.0.settings.transactional(id, self.smallest_limit());
        let producer = self.make(&config, signals).map_err(|error| TransactionError {
            verdict: Verdict::Ended,
            error,
        })?;
        let start = Instant::now();
        loop {
            let Err(error) = producer.producer.init_transactions(CALL_TIMEOUT) else {
                break;
            };
            let failure = producer.judged(&error);
            if failure.verdict != Verdict::Again || start.elapsed() >= INITIALISE_LIMIT {
                // Mistakes of TLS and SASL reach only the error callback.
                let error = producer.producer.client().context().explain(&error);
                return Err(TransactionError { error, ..failure });
            }
        }
        producer.begin()?;
        Ok(producer)
    }
}

impl KafkaProducer {
    /// Needs no network: the coordinator hears of a transaction with its first message.
    fn begin(&self) -> Result<(), TransactionError> {
        let begun = self.producer.begin_transaction();
        begun.map_err(|error| self.judged(&error))
    }

    fn end(&self, end: End) -> Result<(), TransactionError> {
        match end {
            End::Commit => {
                self.await_reports()?;
                let committed = self.producer.commit_transaction(CALL_TIMEOUT);
                committed.map_err(|error| self.judged(&error))
            }
            End::Abort => self.abort(),
        }
    }

    fn abort(&self) -> Result<(), TransactionError> {
        let start = Instant::now();
        loop {
            let aborted = self.producer.abort_transaction(ABORT_STEP);
            match aborted.map_err(|error| self.judged(&error)) {
                Err(failure) if failure.verdict == Verdict::Again && start.elapsed() < CALL_TIMEOUT => {}
                ended => return ended,
            }
        }
    }

    fn await_reports(&self) -> Result<(), TransactionError> {
        let start = Instant::now();
        while self.in_flight() > 0 {
            if start.elapsed() >= CALL_TIMEOUT {
                let detail = format!("{} messages have no report yet", self.in_flight());
                return Err(TransactionError {
                    verdict: Verdict::Again,
                    error: delivery_error(Code::OperationTimedOut, detail, self.templated),
                });
            }
            thread::sleep(IN_FLIGHT_POLL);
        }
        Ok(())
    }

    fn judged(&self, error: &KafkaError) -> TransactionError {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        TransactionError {
            verdict: verdict(error),
            error: delivery_error(code, error.to_string(), self.templated),
        }
    }
}

/// librdkafka says what can be done; what it says nothing about is to be taken as fatal.
fn verdict(error: &KafkaError) -> Verdict {
    match error {
        // rdkafka's own flush before a commit, which has not begun then.
        KafkaError::Flush(_) => Verdict::Again,
        KafkaError::Transaction(error) if error.is_fatal() => Verdict::Ended,
        KafkaError::Transaction(error) if error.txn_requires_abort() => Verdict::Abort,
        KafkaError::Transaction(error) if error.is_retriable() => Verdict::Again,
        _ => Verdict::Ended,
    }
}

/// Works until the producer is dropped.
fn serve(producer: &KafkaProducer, commands: &mpsc::Receiver<Command>, signals: &Signals) {
    while let Ok(Command { end, answer }) = commands.recv() {
        let ended = producer.end(end);
        // Before the answer: who has it sends.
        let begun = if ended.is_ok() { producer.begin() } else { Ok(()) };
        // Whoever asked may have gone; then nobody needs to know.
        let _ = answer.send(ended);
        if let Err(failure) = begun {
            // That is no answer to what was asked: it is the end of this producer, between two transactions.
            signals.send(Signal::Fatal(failure.error));
        }
    }
}

impl KafkaTransactionalProducer {
    fn ask(&self, end: End) -> impl Future<Output = Result<(), TransactionError>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let asked = self.commands.try_send(Command { end, answer });
        async move {
            if asked.is_err() {
                return Err(ended("its thread is busy or has ended"));
            }
            answered.await.map_err(|_| ended("its thread panicked"))?
        }
    }
}

impl Producer for KafkaTransactionalProducer {
    fn send(&self, token: u64, message: &Message) -> Result<(), Refused> {
        self.producer.send(token, message)
    }

    fn partition(&self, key: &[u8], partitions: i32) -> i32 {
        self.producer.partition(key, partitions)
    }

    fn in_flight(&self) -> usize {
        self.producer.in_flight()
    }

    fn purge(&self) {
        self.producer.purge();
    }

    async fn close(self) {
        let Self {
            producer,
            commands,
            over,
        } = self;
        drop((producer, commands));
        // An error is what ends the wait: nothing is ever sent.
        let _ = over.await;
    }
}

impl TransactionalProducer for KafkaTransactionalProducer {
    fn commit(&self) -> impl Future<Output = Result<(), TransactionError>> + Send + use<> {
        self.ask(End::Commit)
    }

    fn abort(&self) -> impl Future<Output = Result<(), TransactionError>> + Send + use<> {
        self.ask(End::Abort)
    }
}

fn ended(detail: &str) -> TransactionError {
    TransactionError {
        verdict: Verdict::Ended,
        error: DeliveryError {
            class: ErrorClass::Transient,
            code: "Interrupted".to_owned(),
            detail: detail.to_owned(),
            outcome: Outcome::Unknown,
        },
    }
}
