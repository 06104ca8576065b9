//! Random schedules of faults: whatever happens, the promises hold.

use std::collections::BTreeSet;

use rand::Rng;

use super::model::{Id, Model, failure, policy};
use super::*;

const AGGREGATES: u64 = 6;
const ROUNDS: u32 = 400;

struct Run {
    model: Model,
    random: StdRng,
    offered: Vec<(Id, u64)>,
    unusable: BTreeSet<Id>,
    /// Slots are lost at times.
    losing: bool,
    /// Events that were unresolved when their slot was lost.
    lost: BTreeSet<Id>,
}

impl Run {
    fn new(policy: Policy, seed: u64) -> Self {
        Self {
            model: Model::new(policy, seed),
            random: StdRng::seed_from_u64(seed ^ 0xfeed),
            offered: Vec::new(),
            unusable: BTreeSet::new(),
            losing: false,
            lost: BTreeSet::new(),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn round(&mut self) {
        for _ in 0..self.random.random_range(0..6) {
            let aggregate = self.random.random_range(0..AGGREGATES);
            let unusable = self.chance(2);
            let problem = unusable.then(|| failure(ErrorClass::Message, Outcome::NotWritten));
            let Some(id) = self.model.offer(aggregate, problem) else {
                break;
            };
            self.offered.push((id, aggregate));
            if unusable {
                self.unusable.insert(id);
            } else if self.chance(5) {
                self.model.faults.poison.insert(id);
            }
        }
        let faults = &mut self.model.faults;
        match self.random.random_range(0..60) {
            0 => faults.stalled = true,
            1 => faults.down = true,
            2 => faults.topic_missing = true,
            3 => faults.letters_fail = true,
            4 => faults.lost_answers = 20,
            5 => faults.queue_limit = Some(4),
            6..12 => {
                let poison = std::mem::take(&mut faults.poison);
                *faults = super::model::Faults {
                    poison,
                    ..Default::default()
                };
            }
            _ => {}
        }
        if self.chance(2) {
            self.model.kill(Role::Isolation);
        }
        if self.losing && self.chance(3) {
            self.lose_a_slot();
        }
        self.model.turn();
        for _ in 0..self.random.random_range(0..4) {
            self.model.broker_step();
            if self.chance(50) {
                self.model.turn();
            }
        }
        let time = self.random.random_range(0..2_000);
        self.model.pass(Duration::from_millis(time));
        assert!(self.model.lane.messages() <= 200, "the bound on the queue");
    }

    fn lose_a_slot(&mut self) {
        let aggregate = self.random.random_range(0..AGGREGATES);
        self.model.collect();
        let mine = self.offered.iter().filter(|(_, of)| *of == aggregate);
        let unresolved = mine.filter(|(id, _)| !self.model.resolved.contains(id));
        self.lost.extend(unresolved.map(|(id, _)| *id));
        let slot = SlotId::new(aggregate as u8).unwrap();
        self.model
            .lane
            .revoke([slot].into_iter().collect(), self.model.now);
    }

    fn settle(&mut self) {
        let poison = std::mem::take(&mut self.model.faults.poison);
        self.model.faults = super::model::Faults {
            poison,
            ..Default::default()
        };
        for _ in 0..200 {
            self.model.run(30 * MINUTE);
        }
        assert!(self.model.lane.is_empty(), "everything comes to an end");
    }

    fn check(&self, exhausting: bool) {
        let model = &self.model;
        let mut resolved = model.resolved.clone();
        resolved.sort_unstable();
        let kept = self.offered.iter().filter(|(id, _)| !self.lost.contains(id));
        let offered: Vec<_> = kept.clone().map(|(id, _)| *id).collect();
        assert_eq!(resolved, offered, "each event is resolved, once");
        let dead: BTreeSet<_> = model.letters.iter().map(|(id, _)| *id).collect();
        for (id, aggregate) in kept {
            let copies = model
                .log
                .values()
                .flatten()
                .filter(|(other, _)| other == id)
                .count();
            if self.unusable.contains(id) || model.faults.poison.contains(id) {
                assert_eq!(
                    (copies, dead.contains(id)),
                    (0, true),
                    "event {id} can never be accepted"
                );
            } else if !exhausting {
                assert!(
                    copies > 0 && !dead.contains(id),
                    "event {id} of {aggregate} is in the topic"
                );
            }
            assert!(copies > 0 || dead.contains(id), "event {id} is lost");
            assert!(
                copies <= 1 || model.unknown.contains(id),
                "event {id} is there {copies} times for no reason"
            );
        }
        for aggregate in 0..AGGREGATES {
            let first = model.first_appearances(aggregate);
            assert!(first.is_sorted(), "aggregate {aggregate}: {first:?}");
        }
    }
}

fn schedules(policy: &Policy, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut run = Run::new(policy.clone(), seed);
        for _ in 0..ROUNDS {
            run.round();
        }
        run.settle();
        run.check(policy.when == DeadLetterWhen::Exhausted);
        assert!(run.offered.len() > 20, "seed {seed} proves nothing");
    }
}

#[test]
fn nothing_is_lost_repeated_without_reason_or_reordered() {
    schedules(&policy(), 0..60);
}

#[test]
fn nor_when_exhausted_events_are_given_up() {
    schedules(&exhausted(), 100..140);
}

#[test]
fn nor_when_slots_are_lost() {
    for seed in 300..360 {
        let when = match seed % 2 {
            0 => policy(),
            _ => exhausted(),
        };
        let mut run = Run::new(when.clone(), seed);
        run.losing = true;
        for _ in 0..ROUNDS {
            run.round();
        }
        run.settle();
        run.check(when.when == DeadLetterWhen::Exhausted);
        assert!(!run.lost.is_empty(), "seed {seed} proves nothing");
    }
}

#[test]
fn held_aggregates_stay_in_order() {
    let policy = Policy {
        on_aggregate: OnAggregate::Hold,
        ..policy()
    };
    for seed in 200..240 {
        let mut run = Run::new(policy.clone(), seed);
        for _ in 0..ROUNDS {
            run.round();
        }
        run.settle();
        for aggregate in 0..AGGREGATES {
            let first_dead =
                run.model.letters.iter().find(|(id, reason)| {
                    *reason == Reason::Rejected && run.offered.contains(&(*id, aggregate))
                });
            let Some((first_dead, _)) = first_dead else {
                continue;
            };
            let delivered = run.model.first_appearances(aggregate);
            assert!(
                delivered.is_sorted() && delivered.iter().all(|id| id < first_dead),
                "seed {seed}"
            );
            let held: Vec<_> = run
                .model
                .letters
                .iter()
                .filter(|(id, _)| run.offered.contains(&(*id, aggregate)))
                .collect();
            assert!(
                held.iter().map(|(id, _)| *id).is_sorted(),
                "seed {seed}: {held:?}"
            );
        }
    }
}
