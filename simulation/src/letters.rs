//! The model of the dead letters' table: durable or not, and told or not.

use relay::model::{SlotId, SourcePosition};
use relay::ports::{DeadLetter, DeadLetterError, DeadLetters, Epoch, Lettered};

use crate::plan::Fault;
use crate::process::Point;
use crate::relay_process::Port;
use crate::world::MS;

/// A row of the table.
pub(crate) struct Letter {
    slot: SlotId,
    position: SourcePosition,
    aggregate: Option<String>,
    pending: bool,
}

impl Letter {
    /// Slot and position, if nobody has decided on it.
    pub(crate) fn undecided(&self) -> Option<(usize, String)> {
        self.pending
            .then(|| (self.slot.index(), self.position.to_string()))
    }
}

impl DeadLetters for Port {
    async fn write(&self, letters: &[DeadLetter]) -> Result<(), DeadLetterError> {
        let (process, world) = (&self.0, &self.0.world);
        process.pass(Point::LettersAsked).await;
        process.may_panic();
        if world.fault(Fault::LettersSlow, process.seat) {
            world.count("letters: slow");
            world
                .sleep(world.chance(|chance| chance.within(100 * MS, 1500 * MS)))
                .await;
        }
        world
            .sleep(world.chance(|chance| chance.within(MS / 2, 3 * MS)))
            .await;
        let fails = world.fault(Fault::LettersFail, process.seat);
        let untold = world.fault(Fault::LettersUntold, process.seat) && world.percent(60);
        // Letters are rows of their own: a failed write may have left some of them.
        let written = if fails {
            world.chance(|chance| chance.below(letters.len() as i64)) as usize
        } else {
            letters.len()
        };
        for letter in &letters[..written] {
            if letter.pending.is_some_and(|epoch| !self.owns(letter.slot, epoch)) {
                world.count("letters: one of a former owner refused");
                return Err(DeadLetterError {
                    fenced: true,
                    ..planted()
                });
            }
            world.count("outcome: dead letter");
            self.put(letter);
            let position = letter.position.to_string();
            world.tell(|| {
                format!(
                    "{} dead-letters {position}: {:?} {}",
                    process.name, letter.reason, letter.error
                )
            });
            let now = world.now();
            world.judge(|oracle| oracle.lettered(process.life, letter, now));
        }
        process.pass(Point::LettersWritten).await;
        world
            .sleep(world.chance(|chance| chance.within(MS / 2, 3 * MS)))
            .await;
        process.pass(Point::LettersAnswered).await;
        if fails || untold {
            world.count(if fails {
                "letters: not written"
            } else {
                "letters: written, but not told"
            });
            return Err(planted());
        }
        Ok(())
    }

    async fn settle(&self, letters: &[Lettered]) -> Result<(), DeadLetterError> {
        let (process, world) = (&self.0, &self.0.world);
        process.pass(Point::SettleAsked).await;
        for letter in letters {
            self.round_trip().await?;
            if self.owns(letter.slot, letter.epoch) {
                world.count("letters: settled after the commit");
                self.decide(&letter.position, true);
            }
        }
        process.pass(Point::Settled).await;
        if world.fault(Fault::LettersUntold, process.seat) && world.percent(60) {
            return Err(planted());
        }
        Ok(())
    }

    async fn recover(
        &self,
        slot: SlotId,
        epoch: Epoch,
        resolved: impl Fn(&SourcePosition) -> Option<bool> + Send + Sync,
    ) -> Result<(), DeadLetterError> {
        let (process, world) = (&self.0, &self.0.world);
        process.pass(Point::RecoverAsked).await;
        self.round_trip().await?;
        world.letter_epochs.lock().insert(slot, epoch);
        self.round_trip().await?;
        let pending: Vec<SourcePosition> = {
            let letters = world.letters.lock();
            let pending = letters
                .iter()
                .filter(|letter| letter.slot == slot && letter.pending);
            pending.map(|letter| letter.position).collect()
        };
        for position in pending {
            let Some(settles) = resolved(&position) else {
                return Ok(());
            };
            self.round_trip().await?;
            if !self.owns(slot, epoch) {
                continue;
            }
            world.count(if settles {
                "letters: pending one settled by the next owner"
            } else {
                "letters: pending one removed by the next owner"
            });
            self.decide(&position, settles);
        }
        process.pass(Point::Recovered).await;
        Ok(())
    }

    async fn aggregates(&self, slot: SlotId, limit: usize) -> Result<Vec<String>, DeadLetterError> {
        let (process, world) = (&self.0, &self.0.world);
        process.pass(Point::LettersAsked).await;
        world
            .sleep(world.chance(|chance| chance.within(MS / 2, 3 * MS)))
            .await;
        if world.fault(Fault::LettersFail, process.seat) {
            return Err(planted());
        }
        process.pass(Point::LettersAnswered).await;
        let letters = world.letters.lock();
        let mut aggregates: Vec<String> = letters
            .iter()
            .filter(|letter| letter.slot == slot && !letter.pending)
            .filter_map(|letter| letter.aggregate.clone())
            .collect();
        aggregates.sort();
        aggregates.dedup();
        aggregates.truncate(limit);
        Ok(aggregates)
    }
}

impl Port {
    /// Writing one twice writes it once.
    fn put(&self, letter: &DeadLetter) {
        let mut letters = self.0.world.letters.lock();
        letters.retain(|other| other.position != letter.position);
        letters.push(Letter {
            slot: letter.slot,
            position: letter.position,
            aggregate: letter.aggregate_id.clone(),
            pending: letter.pending.is_some(),
        });
    }

    /// Whether nobody has taken the slot's letters over since.
    fn owns(&self, slot: SlotId, epoch: Epoch) -> bool {
        self.0.world.letter_epochs.lock().get(&slot) == Some(&epoch)
    }

    /// The letter waits from now on, or is gone.
    fn decide(&self, position: &SourcePosition, waits: bool) {
        let world = &self.0.world;
        world.tell(|| {
            format!(
                "{} decides on the letter of {position}: waits {waits}",
                self.0.name
            )
        });
        {
            let mut letters = world.letters.lock();
            if waits {
                let found = letters.iter_mut().find(|letter| letter.position == *position);
                if let Some(letter) = found {
                    letter.pending = false;
                }
            } else {
                letters.retain(|letter| letter.position != *position);
            }
        }
        let position = position.to_string();
        world.judge(|oracle| oracle.letter_decided(&position, waits));
    }

    async fn round_trip(&self) -> Result<(), DeadLetterError> {
        let (process, world) = (&self.0, &self.0.world);
        let slow = world.fault(Fault::LettersSlow, process.seat);
        let most = if slow { 300 * MS } else { 3 * MS };
        world
            .sleep(world.chance(|chance| chance.within(MS / 2, most)))
            .await;
        process.thawed().await;
        if world.fault(Fault::LettersFail, process.seat) {
            return Err(planted());
        }
        Ok(())
    }
}

fn planted() -> DeadLetterError {
    DeadLetterError {
        target: "model".into(),
        detail: "planted".into(),
        fenced: false,
    }
}
