//! One schedule from its seed to its verdict.

use std::cell::RefCell;
use std::sync::Once;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::letters::Letter;
use crate::oracle::Violation;
use crate::plan::{Hazard, Plan};
use crate::process::Injected;
use crate::relay_process::{intruder, seat};
use crate::tally::Tally;
use crate::world::{MS, Micros, SECOND, START, World};
use crate::writer::Writer;

/// After the last fault everything has to be delivered within this time: leases, breakers and time-outs run out in
/// it, several times.
const RECOVERS_WITHIN: Micros = 90 * SECOND;

/// How often the verdict is looked at.
const LOOK: Micros = 50 * MS;

/// What came of a seed.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub seed: u64,
    /// Where its first process was to be killed.
    pub kill_at: Option<u64>,
    pub violation: Option<Violation>,
    pub tally: Tally,
    /// What happened, a line each; empty unless it was asked for.
    pub trace: String,
    pub events: usize,
    /// Virtual time that it took, microseconds.
    pub took: i64,
    /// Awaits that the first process passed, at each of which it can be killed; see [`run_killing`].
    pub awaits: u64,
}

thread_local! {
    /// A panic of the relay's own.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs the schedule of a seed. The same seed gives the same trace, byte for byte.
///
/// # Errors
/// The runtime cannot be made.
pub fn run(seed: u64, traced: bool) -> std::io::Result<Outcome> {
    play(seed, traced, None)
}

/// Runs the schedule of a seed once more, but kills its first process at the await with this number, from 1. Up to there
/// it is the same schedule for every number; with one that is never reached the process is not killed at all.
///
/// # Errors
/// The runtime cannot be made.
pub fn run_killing(seed: u64, at: u64, traced: bool) -> std::io::Result<Outcome> {
    play(seed, traced, Some(at))
}

fn play(seed: u64, traced: bool, kill_at: Option<u64>) -> std::io::Result<Outcome> {
    watch_panics();
    PANICKED.with_borrow_mut(Option::take);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let outcome = runtime.block_on(schedule(seed, traced, kill_at));
    drop(runtime);
    Ok(outcome)
}

fn watch_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().is::<Injected>() {
                return;
            }
            PANICKED
                .with_borrow_mut(|panicked| panicked.get_or_insert_with(|| panic.to_string()).truncate(1000));
            before(panic);
        }));
    });
}

async fn schedule(seed: u64, traced: bool, kill_at: Option<u64>) -> Outcome {
    let world = World::new(Plan::new(seed), traced, kill_at);
    announce(&world);
    let mut writing = JoinSet::new();
    writing.spawn(Writer::new(&world).run());
    let ending = CancellationToken::new();
    let mut seats = JoinSet::new();
    for index in 0..world.plan.seats() {
        seats.spawn(seat(world.clone(), index, ending.clone()));
    }
    seats.spawn(intruder(world.clone(), ending.clone()));
    let mut newest = None;
    while !is_over(&world, newest) {
        world.sleep(LOOK).await;
        world.pump();
        if let Some(Ok(at)) = writing.try_join_next() {
            newest = Some(at);
        }
    }
    let over = world.now();
    ending.cancel();
    while !is_broken(&world) {
        tokio::select! {
            biased;
            ended = seats.join_next() => if ended.is_none() { break },
            () = world.sleep(LOOK) => world.pump(),
        }
    }
    conclude(&world, over);
    let violation = world.oracle.lock().violation.clone();
    Outcome {
        seed,
        kill_at,
        violation,
        tally: world.tally(),
        trace: world.trace(),
        events: world.oracle.lock().events(),
        took: world.now() - START,
        awaits: world.awaits(),
    }
}

/// What the plan alone decides.
fn announce(world: &World) {
    let plan = &world.plan;
    world.tell(|| {
        format!(
            "seed {}: {:?}; horizon {} s, skews {:?}, layouts {:?}, {}, {:?}, {:?}",
            plan.seed,
            plan.hazards,
            plan.horizon / SECOND,
            plan.skews,
            plan.layouts,
            if plan.auto { "auto" } else { "pinned" },
            plan.windows,
            plan.config,
        )
    });
    for pair in plan
        .sets
        .windows(2)
        .filter(|pair| pair[1].start < plan.written_until)
    {
        world.count(match (plan.tablets, pair[1].parts > pair[0].parts) {
            (false, _) => "log: switch of generation",
            (true, true) => "log: tablets split",
            (true, false) => "log: tablets merged",
        });
        if pair[1].published > pair[1].start {
            world.count("log: stream set published late");
        }
    }
    for _ in 1..plan.layouts.len() {
        world.count("process: shares changed");
    }
    if plan.layouts.iter().map(|(_, count)| *count).eq([1, 3, 2, 5]) {
        world.count("process: shares 1, 3, 2, 5");
    }
    if plan.has(Hazard::Skew) {
        world.count("log: clocks of coordinators seconds apart");
    }
    if plan.has(Hazard::ClockSteps) {
        world.count("process: clock set back");
    }
}

fn is_broken(world: &World) -> bool {
    let panicked = PANICKED.with_borrow_mut(Option::take);
    if let Some(panicked) = panicked {
        world.judge(|oracle| oracle.fail("no-panic", panicked));
    }
    world.oracle.lock().violation.is_some()
}

/// Everything is delivered and swept, or a promise is broken, or time is up.
fn is_over(world: &World, newest: Option<Micros>) -> bool {
    world.hear_of_gaps();
    if is_broken(world) {
        return true;
    }
    let (now, plan) = (world.now(), &world.plan);
    let Some(newest) = newest else {
        return false;
    };
    let calm = plan.calm_from().max(calm_after_the_kill(world));
    if now > calm + RECOVERS_WITHIN {
        world.judge(|oracle| oracle.lost(now));
        return true;
    }
    let swept = newest.max(calm) + plan.horizon + 6 * SECOND;
    now > swept && world.oracle.lock().is_complete(now) && world.cluster.lock().is_seen()
}

/// A chosen kill may come when the plan has no more faults: then the dead owner's lease has to pass first.
fn calm_after_the_kill(world: &World) -> Micros {
    if world.kill_at.is_none() {
        return 0;
    }
    let killed = world.oracle.lock().last_kill();
    killed.map_or(0, |at| {
        at + Micros::from(world.plan.config.state.lease_seconds) * SECOND
    })
}

/// After an orderly end, nothing is owned and every checkpoint knows everything.
fn conclude(world: &World, over: Micros) {
    if is_broken(world) {
        return;
    }
    for _ in 0..world.oracle.lock().given_up() {
        world.count("outcome: event that expired");
    }
    let owned = world.store.lock().owned();
    // Whoever was to be killed in the end itself leaves its slots to others, who have gone by then.
    let last_kill = world.oracle.lock().last_kill();
    let killed_in_the_end = world.kill_at.is_some() && last_kill.is_some_and(|at| at >= over);
    if owned > 0 && !killed_in_the_end {
        let detail = format!("{owned} slots are still owned after every process has stopped");
        world.judge(|oracle| oracle.fail("released", detail));
    }
    if !killed_in_the_end {
        let letters = world.letters.lock();
        for (slot, position) in letters.iter().filter_map(Letter::undecided) {
            world.judge(|oracle| oracle.left_undecided(slot, &position));
        }
    }
    for slot in 0..64 {
        let checkpoint = world.store.lock().checkpoint(slot);
        world.judge(|oracle| oracle.concluded(slot, checkpoint.as_ref(), over));
    }
}
