//! What a client hears of the cluster of its own accord.

use std::sync::Arc;

use parking_lot::Mutex;
use relay::ports::{ErrorClass, Outcome, Signal, Signals};

use super::error;
use crate::plan::Fault;
use crate::process::Process;
use crate::world::MS;

/// Between one client and the cluster.
pub(super) struct Line {
    pub(super) process: Arc<Process>,
    signals: Signals,
    /// An outage is told once.
    told_down: Mutex<bool>,
}

impl Line {
    pub(super) fn new(process: &Arc<Process>, signals: Signals) -> Self {
        Self {
            process: process.clone(),
            signals,
            told_down: Mutex::new(false),
        }
    }

    /// Tells the process, unless it is dead.
    pub(super) fn signal(&self, signal: Signal) {
        if self.process.is_dead() {
            return;
        }
        if !matches!(signal, Signal::Report(_)) {
            let world = &self.process.world;
            world.tell(|| format!("{} hears {signal:?}", self.process.name));
        }
        self.signals.send(signal);
    }

    /// Waits until the cluster can be reached; what it hears of the outage, the client tells. Whether it stalled.
    pub(super) async fn arrive(&self) -> bool {
        let (world, seat) = (&self.process.world, self.process.seat);
        if world.fault(Fault::BrokerTrouble, seat) && world.percent(30) {
            world.count("broker: trouble told");
            self.signal(Signal::Trouble(error(
                ErrorClass::Configuration,
                "SSL",
                Outcome::NotWritten,
            )));
        }
        while let Some(until) = world.fault_until(Fault::BrokersDown, seat) {
            self.tell_down();
            world.sleep_until(until).await;
        }
        *self.told_down.lock() = false;
        let mut stalled = false;
        while let Some(until) = world.fault_until(Fault::BrokerStall, seat) {
            world.count("broker: stall without error");
            world.sleep_until(until).await;
            stalled = true;
        }
        stalled
    }

    /// Waits until an answer is back, and the process runs.
    pub(super) async fn answered(&self) {
        let (world, seat) = (&self.process.world, self.process.seat);
        let refused = world.fault(Fault::BrokerRefusesLate, seat);
        let late = refused || world.fault(Fault::BrokerReportsLate, seat) && world.percent(50);
        if late {
            world.count("broker: report late");
        }
        let delay = world.chance(|chance| {
            if late {
                chance.within(100 * MS, 2500 * MS)
            } else {
                chance.within(0, 3 * MS)
            }
        });
        world.sleep(delay).await;
        self.process.thawed().await;
    }

    fn tell_down(&self) {
        if !std::mem::replace(&mut *self.told_down.lock(), true) {
            self.process.world.count("broker: all brokers down");
            let down = error(ErrorClass::Transient, "AllBrokersDown", Outcome::Unknown);
            self.signal(Signal::AllBrokersDown(down));
        }
    }
}
