//! Sends letters of a topic again: each with the record that says so, in one transaction; in the order of the log, so an
//! aggregate's in its order. One that is refused again is written as a letter anew, and the rest of its aggregate waits.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::super::message::message;
use super::super::replay::{Refusal, event};
use super::deciding::{DecideError, Decider};
use super::fold::Kept;
use super::record::{Decided, Decision, Letter};
use crate::deliver::lane::Replay;
use crate::deliver::prepare::fingerprint;
use crate::encode::Message;
use crate::metrics::EventLabel;
use crate::model::Micros;
use crate::ports::{DeadLetter, DeliveryError, ErrorClass, Reason};

/// What fails only with its transaction is tried so often: after a refused message the next one fails as a whole, because
/// the broker never saw the numbers of what it refused.
const COLLATERAL_TRIES: u32 = 3;

/// A letter that is to be sent.
pub struct Due {
    letter: Letter,
    event_id: String,
    aggregate: u64,
    message: Message,
    decisions: Vec<Message>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    Delivered,
    Failed(DeliveryError),
    NotSent(Refusal),
}

/// What a transaction of one letter says of it.
#[derive(Debug, PartialEq, Eq)]
enum Verdict<'a> {
    Committed,
    /// The event's message can never be accepted.
    Refused(&'a DeliveryError),
    /// It failed only with its transaction.
    Collateral(&'a DeliveryError),
    /// Anything else: somebody has to act, or the cluster is in trouble.
    Trouble(&'a DeliveryError),
}

/// Of one topic, for as long as its decider lives.
pub struct Replaying {
    topic: Arc<str>,
    decider: Decider,
    /// Aggregates of which a letter failed, with its event.
    stopped: HashMap<u64, String>,
}

impl Due {
    /// # Errors
    /// Why the letter must not be sent.
    pub fn new(
        topic: &Arc<str>,
        kept: &Kept,
        letter: Letter,
        max: u32,
        now: Micros,
    ) -> Result<Self, Refusal> {
        let message = letter.judge(max)?;
        let event_id = letter.stored.event_id.clone().unwrap_or_default();
        let aggregate = fingerprint(letter.stored.aggregate_id.as_deref(), &event_id);
        let decided = Decided::Replayed(kept.replays + 1);
        Ok(Self {
            decisions: decisions(topic, kept, decided, now),
            letter,
            event_id,
            aggregate,
            message,
        })
    }

    fn messages(&self) -> impl Iterator<Item = Message> {
        std::iter::once(&self.message).chain(&self.decisions).cloned()
    }
}

/// The records that say what was done with a letter, one for each partition that has it. They bear the present time, so
/// that a topic that deletes what is old does not forget them before the letter.
pub fn decisions(topic: &Arc<str>, kept: &Kept, decided: Decided, now: Micros) -> Vec<Message> {
    let key = kept
        .letter
        .stored
        .key
        .as_ref()
        .map(|key| Bytes::from(key.clone()));
    let record = |until| {
        let decision = Decision {
            event: kept.letter.event(),
            until,
            decided,
        };
        decision.message(topic, key.clone(), now.div_euclid(1000))
    };
    kept.ends.iter().copied().map(record).collect()
}

impl Replaying {
    pub fn new(topic: &Arc<str>, decider: Decider) -> Self {
        Self {
            topic: topic.clone(),
            decider,
            stopped: HashMap::new(),
        }
    }

    /// Sends these letters, and tells what became of each, as long as there is something to tell: what `told` has not heard
    /// of was not sent.
    ///
    /// # Errors
    /// The cluster is in trouble, or somebody else goes on. What is not committed is not there.
    pub async fn send(
        &mut self,
        batch: Vec<Due>,
        now: impl Fn() -> Micros,
        mut told: impl FnMut(&str, Sent),
    ) -> Result<(), DecideError> {
        let may_go = |due: &Due| !self.stopped.contains_key(&due.aggregate);
        if batch.len() > 1 && batch.iter().all(may_go) {
            let messages: Vec<_> = batch.iter().flat_map(Due::messages).collect();
            if self.decider.attempt(&messages).await?.is_empty() {
                batch.iter().for_each(|due| told(&due.event_id, Sent::Delivered));
                return Ok(());
            }
        }
        // Which of them it was, and what stands behind it, is found one by one.
        for due in batch {
            let sent = match self.stopped.get(&due.aggregate) {
                Some(event_id) => Sent::NotSent(Refusal::Stopped {
                    event_id: event_id.clone(),
                }),
                None => self.send_one(&due, now()).await?,
            };
            told(&due.event_id, sent);
        }
        Ok(())
    }

    pub async fn close(self) {
        self.decider.close().await;
    }

    async fn send_one(&mut self, due: &Due, now: Micros) -> Result<Sent, DecideError> {
        let messages: Vec<_> = due.messages().collect();
        match self.insist(&messages).await? {
            Ok(()) => Ok(Sent::Delivered),
            Err(error) => {
                self.stopped.insert(due.aggregate, due.event_id.clone());
                let letter = failed_again(due, &error, now);
                if let Some(letter) = letter {
                    let anew = message(&letter, &self.topic, false);
                    if let Err(error) = self.insist(&[anew]).await? {
                        return Err(self.decider.gave_up(error));
                    }
                }
                Ok(Sent::Failed(error))
            }
        }
    }

    /// Commits, or tells why the first of the messages can never be accepted.
    async fn insist(&mut self, messages: &[Message]) -> Result<Result<(), DeliveryError>, DecideError> {
        let mut tries = 0;
        loop {
            let refused = self.decider.attempt(messages).await?;
            tries += 1;
            match verdict(&refused) {
                Verdict::Committed => return Ok(Ok(())),
                Verdict::Refused(error) => return Ok(Err(error.clone())),
                Verdict::Collateral(_) if tries < COLLATERAL_TRIES => {}
                Verdict::Collateral(error) | Verdict::Trouble(error) => {
                    return Err(self.decider.gave_up(error.clone()));
                }
            }
        }
    }
}

/// The letter of a replay that failed; None if there could be none.
fn failed_again(due: &Due, error: &DeliveryError, now: Micros) -> Option<DeadLetter> {
    let stored = due.letter.stored.clone();
    let event = event(
        stored,
        due.message.clone(),
        EventLabel::default(),
        Replay::default(),
    )?;
    Some(DeadLetter {
        outcome: error.outcome,
        failures: 1,
        ..event.letter(Reason::Rejected, error.to_string(), now)
    })
}

/// The event's message is the first.
fn verdict(refused: &[(usize, DeliveryError)]) -> Verdict<'_> {
    let own = refused.iter().find(|(place, _)| *place == 0);
    let other = refused
        .iter()
        .find(|(_, error)| error.class != ErrorClass::Collateral);
    match (own, other.or(refused.first())) {
        (Some((_, error)), _) if error.class == ErrorClass::Message => Verdict::Refused(error),
        (_, Some((_, error))) if error.class == ErrorClass::Collateral => Verdict::Collateral(error),
        (_, Some((_, error))) => Verdict::Trouble(error),
        (_, None) => Verdict::Committed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Outcome;

    #[test]
    fn only_the_refused_event_itself_is_given_up_again() {
        let error = |class| DeliveryError {
            class,
            code: format!("{class:?}"),
            detail: String::new(),
            outcome: Outcome::NotWritten,
        };
        use ErrorClass::{Collateral, Configuration, Message, Transient};
        let check = |refused: &[(usize, ErrorClass)], expected: &str| {
            let refused: Vec<_> = refused
                .iter()
                .map(|(place, class)| (*place, error(*class)))
                .collect();
            let verdict = match verdict(&refused) {
                Verdict::Committed => "committed".to_owned(),
                Verdict::Refused(error) => format!("refused {}", error.code),
                Verdict::Collateral(_) => "again".to_owned(),
                Verdict::Trouble(error) => format!("trouble {}", error.code),
            };
            assert_eq!(verdict, expected);
        };
        check(&[], "committed");
        check(&[(1, Collateral), (0, Message)], "refused Message");
        check(&[(0, Collateral), (1, Collateral)], "again");
        check(&[(0, Collateral), (1, Message)], "trouble Message");
        check(&[(1, Transient), (0, Collateral)], "trouble Transient");
        check(&[(0, Configuration)], "trouble Configuration");
    }
}
