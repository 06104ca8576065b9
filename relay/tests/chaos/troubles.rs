//! Does what the plan says, and notes when.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use sandbox::Sandbox;
use sandbox::cdc::generations::SwitchDelays;
use sandbox::cdc::tablets::TabletChange;
use sandbox::fault::rule::{Effect, ErrorName, Rule};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::sleep;

use crate::brokers::Brokers;
use crate::plan::{Action, HAZARDS, Line};
use crate::proxy::Proxy;
use crate::relays::Relays;

pub(crate) const KEYSPACE: &str = "chaos";

/// What was done, from when to when; milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trouble {
    pub(crate) action: Action,
    pub(crate) from: i64,
    pub(crate) until: i64,
}

/// Everything that trouble is made for.
pub(crate) struct World {
    pub(crate) node: Sandbox,
    pub(crate) scylla: Proxy,
    pub(crate) brokers: Brokers,
    pub(crate) relays: Relays,
    pub(crate) tablets: bool,
    pub(crate) late_rows: bool,
    pub(crate) troubles: Mutex<Vec<Trouble>>,
    pub(crate) kills: AtomicUsize,
    /// One thing at a time is done to the brokers, to each line, and to the node.
    pub(crate) turns: [AsyncMutex<()>; 4],
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

/// Does it, unless something is being done to the same part.
pub(crate) async fn perform(world: Arc<World>, action: Action) {
    let from = now();
    if world.make(action).await {
        world.troubles.lock().push(Trouble {
            action,
            from,
            until: now(),
        });
    }
}

impl World {
    async fn make(&self, action: Action) -> bool {
        match action {
            Action::Kill(..) | Action::Stop(..) | Action::Freeze(..) => self.relay(action).await,
            Action::KillBroker(node, down) => {
                let Ok(_turn) = self.turns[0].try_lock() else {
                    return false;
                };
                self.brokers.signal("kill", node).await;
                sleep(down).await;
                self.brokers.revive().await;
                true
            }
            Action::PauseBroker(node, length) => {
                let Ok(_turn) = self.turns[0].try_lock() else {
                    return false;
                };
                self.brokers.signal("pause", node).await;
                sleep(length).await;
                self.brokers.signal("resume", node).await;
                true
            }
            Action::Cut(line) => {
                self.proxies(line).iter().for_each(Proxy::cut);
                true
            }
            Action::Slow(line, delay, length) => {
                let Ok(_turn) = self.turns[1 + line as usize].try_lock() else {
                    return false;
                };
                self.proxies(line).iter().for_each(|proxy| proxy.slow(delay));
                sleep(length).await;
                self.proxies(line)
                    .iter()
                    .for_each(|proxy| proxy.slow(Duration::ZERO));
                true
            }
            Action::Silent(line, length) => {
                let Ok(_turn) = self.turns[1 + line as usize].try_lock() else {
                    return false;
                };
                self.proxies(line).iter().for_each(|proxy| proxy.silent(true));
                sleep(length).await;
                self.proxies(line).iter().for_each(|proxy| proxy.silent(false));
                true
            }
            Action::Hazard(number, length) => {
                let Ok(_turn) = self.turns[3].try_lock() else {
                    return false;
                };
                let rule = self.node.faults().add(self.rule(number)).unwrap();
                sleep(length).await;
                self.node.faults().remove(rule);
                true
            }
            Action::Switch(start, publish) => {
                let micros = |duration: Duration| duration.as_micros() as i64;
                let delays = SwitchDelays {
                    start: micros(start),
                    publish: micros(publish),
                    learn: 0,
                };
                self.switch(delays);
                true
            }
        }
    }

    async fn relay(&self, action: Action) -> bool {
        let (Action::Kill(index, _) | Action::Stop(index, _) | Action::Freeze(index, _)) = action else {
            return false;
        };
        let Some(mut seat) = self.relays.seat(index) else {
            return false;
        };
        seat.assert_runs();
        match action {
            Action::Kill(_, down) => {
                self.kills.fetch_add(1, Ordering::Relaxed);
                seat.kill();
                sleep(down).await;
                self.relays.start_in(index, &mut seat);
            }
            Action::Stop(_, down) => {
                tokio::task::block_in_place(|| seat.stop());
                sleep(down).await;
                self.relays.start_in(index, &mut seat);
            }
            _ => {
                let Action::Freeze(_, length) = action else {
                    return false;
                };
                seat.signal("STOP");
                sleep(length).await;
                seat.signal("CONT");
            }
        }
        true
    }

    fn proxies(&self, line: Line) -> &[Proxy] {
        match line {
            Line::Scylla => std::slice::from_ref(&self.scylla),
            Line::Kafka => &self.brokers.proxies,
        }
    }

    fn rule(&self, number: usize) -> Rule {
        const LOG: &str = "_scylla_cdc_log";
        let table = format!("{KEYSPACE}.outbox_messages");
        match number % HAZARDS {
            0 => Rule::missing_rows().table(&table).share_percent(20),
            1 => Rule::slow(Duration::from_millis(200))
                .statement(LOG)
                .share_percent(30),
            2 => Rule::error(ErrorName::Overloaded)
                .statement(LOG)
                .share_percent(30),
            3 => Rule::error(ErrorName::ReadTimeout)
                .statement(LOG)
                .share_percent(30),
            4 => Rule::unlearned_lwt().table("outbox_relay.*").share_percent(30),
            5 => {
                let told = Effect::Error {
                    error: ErrorName::WriteTimeout,
                    executed: true,
                };
                Rule::new(told).statement("outbox_relay").share_percent(20)
            }
            _ if self.late_rows => Rule::late_log_rows(Duration::from_secs(2))
                .table(&table)
                .share_percent(10),
            _ => Rule::disconnect().statement(LOG).share_percent(5),
        }
    }

    fn switch(&self, delays: SwitchDelays) {
        let cdc = self.node.cdc();
        if !self.tablets {
            cdc.switch_generation(None, delays);
            return;
        }
        let change = |change| cdc.change_tablets(KEYSPACE, "outbox_messages", change, delays);
        // There are only so many tablets to split.
        if change(TabletChange::Split).is_err() {
            change(TabletChange::Merge).unwrap();
        }
    }
}
