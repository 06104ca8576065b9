//! What the endpoints see: everything that the parts tell, gathered when asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crds::RelayConfig;
use crds::relay_status::{Breaker, RelayStatus};
use parking_lot::Mutex;
use uuid::Uuid;

use super::prepare::Ground;
use crate::clock::SystemClock;
use crate::deliver::shell::Control;
use crate::health::{Board, timestamp};
use crate::http::Telltale;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::model::{Micros, SECOND};
use crate::ports::Clock;
use crate::state::keeper::KeeperView;
use crate::state::ownership::Share;
use crate::status::{About, Progress, View, document};

pub struct Outlook<C = SystemClock> {
    about: Mutex<About>,
    clock: Arc<C>,
    board: Board,
    metrics: Arc<Metrics>,
    /// Of the current life of reader, lane and keeper.
    life: Mutex<Option<Life>>,
    stopped: Mutex<Option<String>>,
    draining: AtomicBool,
}

#[derive(Clone)]
pub(super) struct Life {
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) keeper: KeeperView,
    pub(super) control: Control,
}

impl<C: Clock> Outlook<C> {
    /// `process` is unique per start: a restarted process is another owner.
    pub fn new(
        config: &RelayConfig,
        share: Share,
        process: String,
        clock: Arc<C>,
        board: Board,
        metrics: Metrics,
    ) -> Self {
        let about = About {
            identity: config.identity.clone(),
            share,
            process,
            started: clock.now(),
            retention: None,
            order: None,
        };
        Self {
            about: Mutex::new(about),
            clock,
            board,
            metrics: Arc::new(metrics),
            life: Mutex::default(),
            stopped: Mutex::default(),
            draining: AtomicBool::new(false),
        }
    }

    pub(super) fn process(&self) -> String {
        self.about.lock().process.clone()
    }

    pub(super) fn clock(&self) -> Arc<C> {
        self.clock.clone()
    }

    pub(super) fn board(&self) -> &Board {
        &self.board
    }

    pub(super) fn shared_metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    pub(super) fn prepared<L, S, B, D>(&self, ground: &Ground<L, S, B, D>) {
        let mut about = self.about.lock();
        about.retention = ground.table.cdc.ttl;
        about.order = ground.order.clone();
        self.metrics
            .process
            .order_preserved
            .set(i64::from(ground.order.is_none()));
        if let Some(reason) = &ground.order {
            let kind = crds::relay_status::DataEventKind::OrderNotPreserved;
            self.board.event(kind, reason.clone(), self.clock.now());
        }
    }

    pub(super) fn lives(&self, life: Life) {
        *self.life.lock() = Some(life);
    }

    pub(super) fn life(&self) -> Option<Life> {
        self.life.lock().clone()
    }

    pub(super) fn stopped(&self, reason: String) {
        *self.stopped.lock() = Some(reason);
    }

    pub(super) fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn view(&self) -> (View, Progress) {
        let mut view = View {
            stopped: self.stopped.lock().clone(),
            draining: self.draining.load(Ordering::Relaxed),
            elapsed: self.clock.elapsed(),
            read_lag: self.metrics.reading.current_lag(),
            dead_letters_pending: self.metrics.delivery.dead_letters_pending.get().max(0) as u64,
            ..View::default()
        };
        let Some(life) = self.life() else {
            return (view, Progress::default());
        };
        let lane = life.control.view();
        view.keeper = life.keeper.get();
        view.breaker = Breaker {
            state: lane.breaker,
            consecutive_failures: lane.consecutive_failures,
            since: lane.breaker_since.map(timestamp),
            last_error: lane.last_error,
        };
        view.totals = lane.totals;
        view.totals.duplicates_suppressed = self.metrics.reading.suppressed();
        view.totals.changes_ignored = self.metrics.reading.ignored();
        let progress = Progress::of(&life.ledger.lock());
        (view, progress)
    }

    /// Age of the oldest event that is not resolved, or of the oldest part of the log that is not read.
    pub(super) fn oldest_unresolved(&self) -> Option<Micros> {
        self.life()
            .and_then(|life| Progress::of(&life.ledger.lock()).oldest_unresolved())
    }
}

impl<C: Clock> Telltale for Outlook<C> {
    fn metrics(&self) -> String {
        let (view, progress) = self.view();
        let now = self.clock.now();
        let process = &self.metrics.process;
        process.owned_slots.set(view.keeper.owned.len() as i64);
        process
            .known_rows
            .set(self.life().map_or(0, |life| known_rows(&life.ledger.lock())));
        let age = view
            .keeper
            .saved_at
            .map_or(Duration::ZERO, |at| view.elapsed.saturating_sub(at));
        process.checkpoint_age.set(age.as_secs_f64());
        let age = progress.oldest_unresolved().map_or(0, |at| (now - at).max(0));
        self.metrics
            .delivery
            .oldest_unresolved_seconds
            .set(age as f64 / SECOND as f64);
        process.saves.set(view.keeper.saves as i64);
        process.save_failures.set(view.keeper.save_failures as i64);
        process.fenced.set(view.keeper.fenced as i64);
        for (part, health) in self.board.parts() {
            self.metrics.delivery.component(part.name(), health.health);
        }
        self.metrics.render()
    }

    fn status(&self) -> RelayStatus {
        let (view, progress) = self.view();
        document(
            &self.about.lock(),
            &view,
            &progress,
            &self.board,
            self.clock.now(),
        )
    }
}

fn known_rows(ledger: &Ledger) -> i64 {
    ledger
        .owned()
        .iter()
        .filter_map(|slot| ledger.slot(slot))
        .map(|slot| slot.ids() as i64)
        .sum()
}

/// Another one with every start.
pub(super) fn process_name() -> String {
    let host = std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let host = host.map_or_else(|| "relay".to_owned(), |name| name.trim().to_owned());
    let random = Uuid::new_v4().simple().to_string();
    format!("{host}-{}", &random[..8])
}
