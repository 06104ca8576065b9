//! What the endpoints see: everything that the parts tell, gathered when asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crds::RelayConfig;
use crds::relay_status::{Audit, Breaker, RelayStatus, Totals};
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
use crate::source::retention::Retention;
use crate::state::keeper::KeeperView;
use crate::state::ownership::Share;
use crate::status::{About, Progress, View, document};

pub struct Outlook<C = SystemClock> {
    about: Mutex<About>,
    clock: Arc<C>,
    board: Board,
    metrics: Arc<Metrics>,
    retention: Retention,
    poll_interval: Micros,
    /// Of the current life of reader, lane and keeper.
    life: Mutex<Option<Life>>,
    /// What former lives counted.
    before: Mutex<Counted>,
    stopped: Mutex<Option<String>>,
    draining: AtomicBool,
    audit: Mutex<Option<Audit>>,
    lives_begun: AtomicU64,
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
            configuration: checksum(config),
            order: None,
        };
        Self {
            about: Mutex::new(about),
            clock,
            board,
            metrics: Arc::new(metrics),
            retention: Retention::default(),
            poll_interval: config
                .source
                .poll_interval()
                .map_or(0, |every| every.as_micros() as Micros),
            life: Mutex::default(),
            before: Mutex::default(),
            stopped: Mutex::default(),
            draining: AtomicBool::new(false),
            audit: Mutex::default(),
            lives_begun: AtomicU64::new(0),
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

    /// Shared by all lives.
    pub(super) fn retention(&self) -> Retention {
        self.retention.clone()
    }

    /// The source's time, as far as it is known.
    pub(super) fn source_time(&self) -> Micros {
        self.retention.source_time(self.clock.now())
    }

    pub(super) fn prepared<L, S, B, D>(&self, ground: &Ground<L, S, B, D>) {
        let mut about = self.about.lock();
        let known = std::mem::replace(&mut about.order, ground.order.clone()) == ground.order;
        self.metrics
            .process
            .order_preserved
            .set(i64::from(ground.order.is_none()));
        if let Some(reason) = ground.order.as_ref().filter(|_| !known) {
            let kind = crds::relay_status::DataEventKind::OrderNotPreserved;
            self.board.event(kind, reason.clone(), self.clock.now());
        }
    }

    pub(super) fn lives(&self, life: Life) {
        self.draining.store(false, Ordering::Relaxed);
        if let Some(former) = self.life.lock().replace(life) {
            let mut before = self.before.lock();
            *before = before.plus(&Counted::by(&former));
        }
    }

    /// A number that no other life of this process has.
    pub(super) fn next_life(&self) -> u64 {
        self.lives_begun.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn life(&self) -> Option<Life> {
        self.life.lock().clone()
    }

    pub(super) fn stopped(&self, reason: String) {
        *self.stopped.lock() = Some(reason);
    }

    pub(super) fn audited(&self, audit: Option<Audit>) {
        *self.audit.lock() = audit;
    }

    pub(super) fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn view(&self) -> (View, Progress) {
        let mut view = View {
            stopped: self.stopped.lock().clone(),
            draining: self.draining.load(Ordering::Relaxed),
            audit: *self.audit.lock(),
            elapsed: self.clock.elapsed(),
            ttl: self.retention.ttl(),
            retained_from: self.retention.oldest(self.source_time()),
            poll_interval: self.poll_interval,
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
        let counted = self.before.lock().plus(&Counted::by(&life));
        view.totals = counted.totals;
        (view.keeper.saves, view.keeper.save_failures, view.keeper.fenced) =
            (counted.saves, counted.save_failures, counted.fenced);
        view.totals.duplicates_suppressed = self.metrics.reading.suppressed();
        view.totals.changes_ignored = self.metrics.reading.ignored();
        let progress = Progress::of(&life.ledger.lock());
        (view, progress)
    }

    /// Everything written before this time is read and resolved.
    pub(super) fn lowest_bound(&self) -> Option<Micros> {
        self.life()
            .and_then(|life| Progress::of(&life.ledger.lock()).lowest_bound())
    }

    /// Time since nothing was left unsaved; None before the first time, and while no slot is owned.
    pub(super) fn checkpoint_age(&self) -> Option<Duration> {
        let keeper = self.life()?.keeper.get();
        let saved_at = keeper.saved_at.filter(|_| !keeper.owned.is_empty())?;
        Some(self.clock.elapsed().saturating_sub(saved_at))
    }
}

/// Counters that a life begins anew and the process does not.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    totals: Totals,
    saves: u64,
    save_failures: u64,
    fenced: u64,
}

impl Counted {
    fn by(life: &Life) -> Self {
        let keeper = life.keeper.get();
        Self {
            totals: life.control.view().totals,
            saves: keeper.saves,
            save_failures: keeper.save_failures,
            fenced: keeper.fenced,
        }
    }

    fn plus(&self, other: &Self) -> Self {
        let (a, b) = (&self.totals, &other.totals);
        Self {
            totals: Totals {
                processed: a.processed + b.processed,
                failed: a.failed + b.failed,
                retries: a.retries + b.retries,
                dead_lettered: a.dead_lettered + b.dead_lettered,
                late: a.late + b.late,
                // Counted by the metrics, which live as long as the process.
                duplicates_suppressed: 0,
                changes_ignored: 0,
            },
            saves: self.saves + other.saves,
            save_failures: self.save_failures + other.save_failures,
            fenced: self.fenced + other.fenced,
        }
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

/// As whoever made the file can compute it: of the file as it is written with all defaults.
fn checksum(config: &RelayConfig) -> Option<String> {
    let file = serde_yaml::to_string(config).ok()?;
    Some(hex::encode(openssl::sha::sha256(file.as_bytes())))
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
