//! Some seeds have faults until what was written has been read for the last time. Everywhere else all is well again by
//! then: rows that surface nearly a horizon late are found by one read alone, and that one never fails.

use super::{Fault, Hazard, Plan, Window};
use crate::chance::Chance;
use crate::world::{MS, Micros, SECOND, START};

/// Every so many-th seed.
const EVERY: u64 = 9;
const AT: u64 = 4;

/// Behind the horizon: the skew of clocks that a reader has to tolerate, and its pauses between reads and after failures.
const LAST_READ: Micros = 8 * SECOND;

const OF_READS: [Fault; 6] = [
    Fault::ReadsFail,
    Fault::ReadsFail,
    Fault::ReadsFail,
    Fault::ReadsOverloaded,
    Fault::ReadsMisconfigured,
    Fault::ReadsSlow,
];

impl Plan {
    /// Chosen by a generator of its own, so that all else of the seed is what it would be without.
    pub(super) fn linger(&mut self) {
        // With a retention of some seconds, reads that fail for as long lose rows. In exactly-once a set that is published
        // late repeats what bounds had passed, which is said in docs/guarantees.md; here they have passed much.
        let repeats = self.exactly_once && self.has(Hazard::LateSets);
        if self.seed % EVERY != AT || self.has(Hazard::Retention) || repeats {
            return;
        }
        let mut chance = Chance::new(self.seed ^ 0x5eed_0000_0000_0003);
        let until = self.written_until + self.horizon + LAST_READ;
        let mut from = START + SECOND / 2;
        while from < until {
            let window = Window {
                fault: chance.pick(&OF_READS),
                seat: chance
                    .percent(30)
                    .then(|| chance.below(self.seats as i64) as usize),
                from,
                until: (from + chance.within(200 * MS, 3 * SECOND)).min(until),
            };
            from = window.until + chance.within(0, SECOND);
            self.windows.push(window);
        }
        self.hazards
            .extend([Hazard::Lingering, Hazard::Queries, Hazard::Late]);
        self.faults_until = self.faults_until.max(until);
    }
}
