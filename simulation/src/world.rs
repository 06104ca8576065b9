//! What all parts of one schedule share: time, choices, models, oracle, trace.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crds::relay_status::DataEventKind;
use relay::health::Board;
use relay::model::SlotId;
use relay::ports::Epoch;

use crate::broker::{Cluster, Late};
use crate::chance::Chance;
use crate::letters::Letter;
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
    pub(crate) cluster: Mutex<Cluster>,
    pub(crate) late: Mutex<Vec<Late>>,
    pub(crate) store: Mutex<Store>,
    pub(crate) letters: Mutex<Vec<Letter>>,
    /// Under which epoch dead letters of a slot are accepted.
    pub(crate) letter_epochs: Mutex<BTreeMap<SlotId, Epoch>>,
    /// What each process says of itself.
    pub(crate) boards: Mutex<Vec<Board>>,
    pub(crate) oracle: Mutex<Oracle>,
    tally: Mutex<Tally>,
    /// The first process is killed at the await with this number, from 1; those that it has passed.
    pub(crate) kill_at: Option<u64>,
    awaits: AtomicU64,
    trace: Option<Mutex<String>>,
}

impl World {
    pub(crate) fn new(plan: Plan, traced: bool, kill_at: Option<u64>) -> Arc<Self> {
        let mut chance = Chance::new(plan.seed ^ 0x5eed_0000_0000_0001);
        let log = Log::new(&plan, &mut chance);
        Arc::new(Self {
            oracle: Mutex::new(Oracle::new(&plan)),
            started: Instant::now(),
            chance: Mutex::new(chance),
            log: Mutex::new(log),
            cluster: Mutex::default(),
            late: Mutex::default(),
            letters: Mutex::default(),
            letter_epochs: Mutex::default(),
            boards: Mutex::default(),
            store: Mutex::new(Store::new()),
            tally: Mutex::default(),
            kill_at,
            awaits: AtomicU64::new(0),
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

    /// The first process passes an await: whether this is where it is killed.
    pub(crate) fn is_kill(&self) -> bool {
        let passed = self.awaits.fetch_add(1, Ordering::Relaxed) + 1;
        self.kill_at == Some(passed)
    }

    pub(crate) fn awaits(&self) -> u64 {
        self.awaits.load(Ordering::Relaxed)
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

    /// Reads what processes say of rows that expired unread.
    pub(crate) fn hear_of_gaps(&self) {
        if self.plan.retention.is_none() {
            return;
        }
        for event in self.boards.lock().iter().flat_map(Board::events) {
            if event.kind != DataEventKind::RetentionGap {
                continue;
            }
            for slot in slots_named(&event.message) {
                if self.judge(|oracle| oracle.gap_told(slot)) {
                    self.count("process: retention gap told");
                }
            }
        }
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

/// "slots 0-3,7: ..."
fn slots_named(message: &str) -> Vec<usize> {
    let ranges = message
        .strip_prefix("slots ")
        .and_then(|rest| Some(rest.split_once(':')?.0));
    let slots = ranges
        .into_iter()
        .flat_map(|ranges| ranges.split(','))
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse().ok()?..=last.parse().ok()?)
        });
    slots.flatten().flatten().collect()
}
