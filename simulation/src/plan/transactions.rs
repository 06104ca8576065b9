//! What a seed decides of exactly-once, from a generator of its own: the other seeds are what they would be without.

use std::collections::BTreeSet;

use super::{Fault, Hazard, Window, within_faults};
use crate::chance::Chance;
use crate::world::{MS, Micros, SECOND, START};

const OF_TRANSACTIONS: [Fault; 5] = [
    Fault::CoordinatorDown,
    Fault::CoordinatorUntold,
    Fault::CommitRefused,
    Fault::MarkersSlow,
    Fault::JournalFails,
];

/// Every so many-th seed delivers exactly once.
const EXACTLY_ONCE_EVERY: u64 = 4;
const EXACTLY_ONCE_AT: u64 = 2;

/// At least so many processes share the work, unless it is reshared.
const SEATS_USUALLY: i64 = 2;

/// What only exactly-once has.
pub(super) struct Transactions {
    pub(super) timeout: Micros,
    pub(super) windows: Vec<Window>,
    /// It is about owners that die, or come back, more often than about anything else.
    pub(super) hazards: Vec<Hazard>,
    pub(super) stuck: Option<Stuck>,
}

/// Slots go to a process that joins, while their owner's transaction can neither be committed nor taken back; or they go
/// back, because whoever joined has left by then.
pub(super) struct Stuck {
    pub(super) layouts: Vec<(Micros, usize)>,
    pub(super) window: Window,
}

impl Stuck {
    fn of(chance: &mut Chance) -> Self {
        let from = START + chance.within(SECOND, 1500 * MS);
        let joins = from + chance.within(300 * MS, 1500 * MS);
        let mut layouts = vec![(START, 2), (joins, 3)];
        if chance.percent(50) {
            layouts.push((joins + chance.within(1500 * MS, 4000 * MS), 2));
        }
        let window = Window {
            fault: chance.pick(&[Fault::BrokerStall, Fault::CoordinatorDown]),
            seat: Some(chance.below(2) as usize),
            from,
            // Slots are given up after 5 s, even if something of them is in flight.
            until: joins + chance.within(7500 * MS, 10 * SECOND),
        };
        Self { layouts, window }
    }
}

impl Transactions {
    pub(super) fn of(seed: u64, others: &BTreeSet<Hazard>, faults_until: Micros) -> Option<Self> {
        if seed % EXACTLY_ONCE_EVERY != EXACTLY_ONCE_AT {
            return None;
        }
        let mut chance = Chance::new(seed ^ 0x5eed_0000_0000_0002);
        let count = chance.within(1, 4);
        let window = |chance: &mut Chance| {
            let fault = chance.pick(&OF_TRANSACTIONS);
            let from = within_faults(chance, faults_until);
            let seat = chance.percent(50).then(|| chance.below(SEATS_USUALLY) as usize);
            Window {
                fault,
                seat: seat.filter(|_| fault != Fault::MarkersSlow),
                from,
                until: (from + chance.within(200 * MS, 2500 * MS)).min(faults_until),
            }
        };
        let mut hazards: Vec<Hazard> = [Hazard::Crashes, Hazard::Freezes, Hazard::Zombies]
            .into_iter()
            .filter(|_| chance.percent(40))
            .collect();
        let may_stick = !others.contains(&Hazard::Retention);
        let stuck = (may_stick && chance.percent(20)).then(|| Stuck::of(&mut chance));
        hazards.extend(stuck.is_some().then_some(Hazard::Stuck));
        // What is to be found open must outlast the lease of its owner, or that of the next one as well.
        let timeouts: &[Micros] = if stuck.is_some() {
            &[12, 20]
        } else if hazards.contains(&Hazard::Zombies) {
            &[6, 10]
        } else {
            &[2, 3, 8]
        };
        Some(Self {
            timeout: chance.pick(timeouts) * SECOND,
            windows: (0..count).map(|_| window(&mut chance)).collect(),
            hazards,
            stuck,
        })
    }
}
