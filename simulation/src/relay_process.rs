//! The production pipeline, in a process of the model: `relay::run::operate` over ports that lead to the models.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use relay::cdc_log::table::{CdcOptions, OutboxTable};
use relay::deliver::prepare::Preparer;
use relay::deliver::transactions::Transacting;
use relay::health::Board;
use relay::journal::Incarnation;
use relay::metrics::Metrics;
use relay::ports::{Clock, NoTransactions, Transactions};
use relay::run::{Ground, Outlook, operate};
use relay::state::ownership::Share;
use tokio_util::sync::CancellationToken;

use crate::process::{Process, ProcessClock};
use crate::world::{MS, Micros, SECOND, World};

/// Everything of the world that a process meets.
#[derive(Clone)]
pub(crate) struct Port(pub(crate) Arc<Process>);

/// A stop takes as long as its time-outs and a freeze, never longer.
const STOPS_WITHIN: Micros = 60 * SECOND;

/// Before the journal is looked for again.
const JOURNAL_PAUSE: Micros = 200 * MS;

/// Runs a relay until it is told to stop.
async fn relay(process: Arc<Process>, share: Share, stop: CancellationToken) -> anyhow::Result<()> {
    let world = process.world.clone();
    let config = Arc::new(world.plan.config.clone());
    let clock = Arc::new(ProcessClock(process.clone()));
    let board = Board::new(clock.now());
    world.boards.lock().push(board.clone());
    let outlook = Outlook::new(
        &config,
        share,
        process.name.clone(),
        clock,
        board,
        Metrics::new()?,
    );
    let port = Port(process);
    let Some((transactions, incarnation)) = transactions(&port, &stop).await else {
        return Ok(());
    };
    let ground = Ground {
        table: OutboxTable {
            keyspace: "shop".into(),
            name: "outbox".into(),
            columns: HashMap::new(),
            partition_key: vec!["aggregate_id".into()],
            clustering_key: Vec::new(),
            cdc: CdcOptions {
                enabled: true,
                ttl: world.plan.retention.map(|ttl| Duration::from_micros(ttl as u64)),
                ..CdcOptions::default()
            },
            ttl: None,
            tombstones: Duration::ZERO,
            tablets: world.plan.tablets,
        },
        log: Arc::new(port.clone()),
        state: Arc::new(port.clone()),
        dead_letters: Arc::new(port.clone()),
        broker: port,
        transactions,
        incarnation,
        outbox: None,
        preparer: Preparer::new(&config.source, &config.sink, |_| false)?,
        first_set: Some(world.plan.sets[0].start),
        order: None,
        spans: None,
        seed: world.chance(crate::chance::Chance::bits),
    };
    operate(config, share, &Arc::new(outlook), Arc::new(ground), &stop).await;
    Ok(())
}

/// None if `stop` came before the journal was there.
async fn transactions(
    port: &Port,
    stop: &CancellationToken,
) -> Option<(Arc<dyn Transactions>, Option<Incarnation>)> {
    let world = &port.0.world;
    if !world.plan.exactly_once {
        return Some((Arc::new(NoTransactions), None));
    }
    world.count("process: delivers exactly once");
    let transacting = Transacting::new(port.clone(), port.clone(), &world.plan.config.identity);
    loop {
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            opened = transacting.incarnation(port) => opened,
        };
        match opened {
            Ok(incarnation) => return Some((Arc::new(transacting), Some(incarnation))),
            Err(error) => world.tell(|| format!("{} has no journal: {error}", port.0.name)),
        }
        world.sleep(JOURNAL_PAUSE).await;
    }
}

/// One place for a process: whoever dies in it is started again, and shares change by restarts.
pub(crate) async fn seat(world: Arc<World>, seat: usize, ending: CancellationToken) {
    world
        .sleep(world.chance(|chance| chance.within(0, 300 * MS)))
        .await;
    while !ending.is_cancelled() {
        let (count, next) = world.plan.layout(world.now());
        if seat >= count {
            tokio::select! {
                biased;
                () = ending.cancelled() => return,
                () = world.sleep_until(next.unwrap_or(Micros::MAX / 2)) => continue,
            }
        }
        let share = if world.plan.auto {
            Share::Auto
        } else {
            Share::Pinned {
                index: seat as u32 + 1,
                count: count as u32,
            }
        };
        let until = stops_at(&world, seat);
        live(&world, seat, share, until, &ending).await;
        world.count("process: restarted");
        if world.is_faulty() {
            let pause = world.chance(|chance| chance.within(0, 1500 * MS));
            world.sleep(pause).await;
        }
    }
}

/// A process that somebody starts by mistake: it takes its share the other way.
pub(crate) async fn intruder(world: Arc<World>, ending: CancellationToken) {
    let Some((from, until)) = world.plan.intruder else {
        return;
    };
    let share = if world.plan.auto {
        Share::Pinned { index: 1, count: 2 }
    } else {
        Share::Auto
    };
    tokio::select! {
        biased;
        () = ending.cancelled() => {}
        () = world.sleep_until(from) => {
            world.count("process: pinned beside auto");
            live(&world, world.plan.seats(), share, until, &ending).await;
        }
    }
}

/// One process, from its start to its end.
async fn live(world: &Arc<World>, seat: usize, share: Share, until: Micros, ending: &CancellationToken) {
    let process = Process::start(world, seat, share.placement());
    let stop = CancellationToken::new();
    let mut task = tokio::spawn(relay(process.clone(), share, stop.clone()));
    tokio::select! {
        biased;
        () = process.killed() => {}
        () = ending.cancelled() => {}
        () = world.sleep_until(until) => {
            world.count("process: stopped gracefully");
        }
        ended = &mut task => {
            let detail = format!("{} ended without being asked to: {ended:?}", process.name);
            return world.judge(|oracle| oracle.fail("keeps-running", detail));
        }
    }
    if !process.is_dead() {
        world.tell(|| format!("{} is asked to stop", process.name));
        stop.cancel();
        tokio::select! {
            biased;
            () = process.killed() => {}
            () = world.sleep(STOPS_WITHIN) => {
                let detail = format!("{} does not stop", process.name);
                world.judge(|oracle| oracle.fail("stops", detail));
            }
            ended = &mut task => {
                world.tell(|| format!("{} has stopped", process.name));
                let now = world.now();
                world.judge(|oracle| oracle.died(process.life, now));
                if let Err(error) = ended {
                    world.judge(|oracle| oracle.fail("keeps-running", error.to_string()));
                }
                return;
            }
        }
    }
    // Everything that it had spawned ends with it, one task after the other, without another step.
    task.abort();
    let _ = task.await;
}

/// When the process in this seat is asked to stop: by plan, or because its share changes.
fn stops_at(world: &World, seat: usize) -> Micros {
    let now = world.now();
    let plan = &world.plan;
    let changes = plan
        .layouts
        .iter()
        .filter(|(_, count)| !plan.auto || seat >= *count);
    let changes = changes.map(|(at, _)| *at);
    let stops = plan.stops.iter().filter(|(of, _)| *of == seat).map(|(_, at)| *at);
    changes
        .chain(stops)
        .filter(|at| *at > now)
        .min()
        .unwrap_or(Micros::MAX / 2)
}
