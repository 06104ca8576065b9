//! What all parts of one schedule share: time, choices, models, oracle, trace.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::broker::Topic;
use crate::chance::Chance;
use crate::log::Log;
use crate::oracle::Oracle;
use crate::plan::{Fault, Plan};
use crate::store::Store;
use crate::tally::Tally;

/// Microseconds.
pub(crate) type Micros = i64;

pub(crate) const MS: Micros = 1_000;
pub(crate) const SECOND: Micros = 1_000_000;

/// True time when a schedule starts, since the Unix epoch.
pub(crate) const START: Micros = 1_800_000_000 * SECOND;

pub(crate) struct World {
    pub(crate) plan: Plan,
    started: Instant,
    chance: Mutex<Chance>,
    pub(crate) log: Mutex<Log>,
    pub(crate) topic: Mutex<Topic>,
    pub(crate) store: Mutex<Store>,
    /// Slot and aggregate of each dead letter.
    pub(crate) letters: Mutex<Vec<(relay::model::SlotId, String)>>,
    pub(crate) oracle: Mutex<Oracle>,
    tally: Mutex<Tally>,
    trace: Option<Mutex<String>>,
}

impl World {
    pub(crate) fn new(plan: Plan, traced: bool) -> Arc<Self> {
        let mut chance = Chance::new(plan.seed ^ 0x5eed_0000_0000_0001);
        let log = Log::new(&plan, &mut chance);
        Arc::new(Self {
            oracle: Mutex::new(Oracle::new(&plan)),
            started: Instant::now(),
            chance: Mutex::new(chance),
            log: Mutex::new(log),
            topic: Mutex::default(),
            letters: Mutex::default(),
            store: Mutex::new(Store::new()),
            tally: Mutex::default(),
            trace: traced.then(Mutex::default),
            plan,
        })
    }

    /// True time, which nobody's clock tells.
    pub(crate) fn now(&self) -> Micros {
        START + self.started.elapsed().as_micros() as Micros
    }

    pub(crate) fn chance<R>(&self, choose: impl FnOnce(&mut Chance) -> R) -> R {
        choose(&mut self.chance.lock())
    }

    pub(crate) fn percent(&self, of: i64) -> bool {
        of > 0 && self.chance(|chance| chance.percent(of))
    }

    pub(crate) async fn sleep(&self, micros: Micros) {
        tokio::time::sleep(Duration::from_micros(micros.max(0) as u64)).await;
    }

    pub(crate) async fn sleep_until(&self, at: Micros) {
        self.sleep(at - self.now()).await;
    }

    /// Whether a fault is on, for a seat's process.
    pub(crate) fn fault(&self, fault: Fault, seat: usize) -> bool {
        self.fault_until(fault, seat).is_some()
    }

    pub(crate) fn fault_until(&self, fault: Fault, seat: usize) -> Option<Micros> {
        let now = self.now();
        let on = self.plan.windows.iter().filter(|window| {
            window.fault == fault
                && window.seat.is_none_or(|of| of == seat)
                && (window.from..window.until).contains(&now)
        });
        on.map(|window| window.until).max()
    }

    /// Faults may still happen.
    pub(crate) fn is_faulty(&self) -> bool {
        self.now() < self.plan.faults_until
    }

    pub(crate) fn count(&self, what: &str) {
        self.tally.lock().count(what);
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().clone()
    }

    pub(crate) fn tell(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let at = self.now() - START;
            // Writing to a String cannot fail.
            let _ = writeln!(trace.lock(), "{:>10}.{:03} {}", at / MS, at % MS, line());
        }
    }

    pub(crate) fn trace(&self) -> String {
        self.trace
            .as_ref()
            .map_or_else(String::new, |trace| trace.lock().clone())
    }

    /// Asks the oracle, and tells what it found.
    pub(crate) fn judge<R>(&self, ask: impl FnOnce(&mut Oracle) -> R) -> R {
        let (answer, new) = {
            let mut oracle = self.oracle.lock();
            let before = oracle.violation.is_some();
            let answer = ask(&mut oracle);
            (answer, oracle.violation.clone().filter(|_| !before))
        };
        if let Some(violation) = new {
            self.tell(|| format!("VIOLATION {violation}"));
        }
        answer
    }
}
