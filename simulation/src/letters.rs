//! The model of the dead letters' table: durable or not, and told or not.

use relay::model::SlotId;
use relay::ports::{DeadLetter, DeadLetterError, DeadLetters};

use crate::plan::Fault;
use crate::process::Point;
use crate::relay_process::Port;
use crate::world::MS;

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
            world.count("outcome: dead letter");
            if let Some(aggregate) = &letter.aggregate_id {
                world.letters.lock().push((letter.slot, aggregate.clone()));
            }
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
            return Err(DeadLetterError {
                target: "model".into(),
                detail: "planted".into(),
            });
        }
        Ok(())
    }

    async fn aggregates(&self, slot: SlotId, limit: usize) -> Result<Vec<String>, DeadLetterError> {
        let (process, world) = (&self.0, &self.0.world);
        process.pass(Point::LettersAsked).await;
        world
            .sleep(world.chance(|chance| chance.within(MS / 2, 3 * MS)))
            .await;
        if world.fault(Fault::LettersFail, process.seat) {
            return Err(DeadLetterError {
                target: "model".into(),
                detail: "planted".into(),
            });
        }
        process.pass(Point::LettersAnswered).await;
        let letters = world.letters.lock();
        let mut aggregates: Vec<String> = letters
            .iter()
            .filter(|(of, _)| *of == slot)
            .map(|(_, aggregate)| aggregate.clone())
            .collect();
        aggregates.sort();
        aggregates.dedup();
        aggregates.truncate(limit);
        Ok(aggregates)
    }
}
