//! Some seeds of exactly-once are about slots that change hands in the middle of a transaction, and about nothing else that
//! would end it: what is left to chance hardly ever meets there.

use crds::dead_letter::DeadLetterWhen;

use super::{Fault, Hazard, Plan, Window};
use crate::chance::Chance;
use crate::world::{MS, SECOND, START};

/// Every so many-th seed; all of them deliver exactly once.
const HALF_FENCED: (u64, u64) = (28, 18);
const TAKEN_BACK: (u64, u64) = (44, 26);
const LETTERS_LEFT: (u64, u64) = (44, 18);

/// It outlasts two leases, and the time after which slots are given up with something in flight.
const TRANSACTION: i64 = 20 * SECOND;

/// Nobody is stopped for longer: two leases and some seconds.
pub(super) const STOPPED: i64 = 10 * SECOND;

/// What else takes slots, or ends transactions.
const UPSETS: [Hazard; 8] = [
    Hazard::Crashes,
    Hazard::Freezes,
    Hazard::Panics,
    Hazard::Stops,
    Hazard::Zombies,
    Hazard::State,
    Hazard::BrokerOutcome,
    Hazard::ClockSteps,
];

impl Plan {
    /// Chosen by generators of their own, so that all other seeds are what they would be without.
    pub(super) fn hand_over(&mut self) {
        let is = |(every, at): (u64, u64)| self.seed % every == at;
        if self.has(Hazard::Retention) {
            return;
        }
        if is(HALF_FENCED) {
            self.fence_halfway();
        } else if is(TAKEN_BACK) {
            self.take_back();
        } else if is(LETTERS_LEFT) {
            self.hazards.extend([Hazard::LettersLeft, Hazard::Poison]);
        }
    }

    /// An owner stops while it seals a transaction: its journal does not tell of it yet, and when it comes back, it goes on
    /// with the commit. Who takes its slots meanwhile dies before it has fenced it.
    fn fence_halfway(&mut self) {
        self.hazards.insert(Hazard::HalfFenced);
        self.transaction_timeout = TRANSACTION;
        // Whoever is to die has the time to do so.
        self.faults_until += 4 * SECOND;
    }

    /// Slots are given up for a process that joins, with a transaction that can neither be committed nor taken back; but it
    /// leaves, so they are there for whoever has the transaction.
    fn take_back(&mut self) {
        let mut chance = Chance::new(self.seed ^ 0x5eed_0000_0000_0005);
        for upset in UPSETS {
            self.hazards.remove(&upset);
        }
        self.hazards.insert(Hazard::Stuck);
        let joins = START + chance.within(1200 * MS, 2500 * MS);
        let leaves = joins + chance.within(1500 * MS, 4500 * MS);
        self.layouts = vec![(START, 2), (joins, 3), (leaves, 2)];
        self.seats = self.seats.max(3);
        self.skews.resize(self.seats + 1, 0);
        self.stops.clear();
        self.clock_steps.clear();
        self.auto = true;
        let window = Window {
            fault: Fault::BrokerStall,
            seat: chance.percent(50).then(|| chance.below(2) as usize),
            from: joins - chance.within(100 * MS, SECOND),
            // Slots are given up after 5 s, even if something of them is in flight.
            until: joins + chance.within(8 * SECOND, 11 * SECOND),
        };
        self.faults_until = self.faults_until.max(window.until);
        self.windows = vec![window];
        self.config.dead_letter.when = DeadLetterWhen::Rejected;
        self.transaction_timeout = TRANSACTION;
    }
}
