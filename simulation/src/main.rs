//! `simulate`: runs seeds, prints what occurred and what broke.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use simulation::{Outcome, Tally, run, run_killing};

/// From this many seeds on, whatever never occurred fails the run: every fourth delivers exactly once, and each point at
/// which a process may be killed has to be met in those.
const ENOUGH: u64 = 5000;

/// Drives the relay's pipeline through seeded schedules of faults, and checks its promises.
#[derive(Debug, Parser)]
#[command(name = "simulate", version)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    from: u64,
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Kill the first process of the seed at this await, from 1.
    #[arg(long, requires = "seed")]
    kill_at: Option<u64>,
    /// Replay the seed once per await of its first process, killed there; see also --stride.
    #[arg(long, requires = "seed", conflicts_with_all = ["kill_at", "trace", "log"])]
    everywhere: bool,
    /// With --everywhere: only every so many-th await.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    stride: u64,
    /// Print everything that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Also print what the relay logs (RUST_LOG chooses).
    #[arg(long, requires = "seed")]
    log: bool,
    /// Go on after the first seed that breaks a promise.
    #[arg(long)]
    keep_going: bool,
    /// Seeds that run at the same time; as many as there are processors unless given.
    #[arg(long)]
    threads: Option<usize>,
    /// Expect this promise to be broken, because the relay was broken on purpose: success means that it was.
    #[arg(long)]
    expect: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let started = Instant::now();
    if let Some(seed) = arguments.seed {
        return if arguments.everywhere {
            everywhere(seed, &arguments)
        } else {
            one(seed, &arguments)
        };
    }
    let (outcomes, ran, tally) = many(&arguments, arguments.seeds, |at| run(arguments.from + at, false))?;
    let seconds = started.elapsed().as_secs_f64();
    if let Some(expected) = &arguments.expect {
        return expect(expected, &outcomes, ran, seconds);
    }
    print!("{}", tally.table());
    println!(
        "{ran} seeds in {seconds:.0} s, {:.0} a second",
        ran as f64 / seconds
    );
    for outcome in &outcomes {
        tell(outcome);
    }
    if !outcomes.is_empty() {
        bail!("{} of {ran} seeds broke a promise", outcomes.len());
    }
    let missing = tally.missing();
    if ran >= ENOUGH && !missing.is_empty() {
        bail!("never occurred: {}", missing.join("; "));
    }
    Ok(())
}

fn one(seed: u64, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.log {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .without_time()
            .with_writer(std::io::stdout)
            .init();
    }
    let outcome = match arguments.kill_at {
        Some(at) => run_killing(seed, at, arguments.trace),
        None => run(seed, arguments.trace),
    };
    let outcome = outcome.context("no runtime")?;
    print!("{}", outcome.trace);
    println!(
        "{} events, {} s of virtual time",
        outcome.events,
        outcome.took / 1_000_000
    );
    if outcome.violation.is_some() {
        tell(&outcome);
        bail!("a promise is broken");
    }
    Ok(())
}

/// A restart at every await of the schedule's first process.
fn everywhere(seed: u64, arguments: &Arguments) -> anyhow::Result<()> {
    let started = Instant::now();
    let awaits = run_killing(seed, u64::MAX, false).context("no runtime")?.awaits;
    let times = awaits.div_ceil(arguments.stride);
    let at = |number: u64| number * arguments.stride + 1;
    let (outcomes, ran, _) = many(arguments, times, |number| run_killing(seed, at(number), false))?;
    println!(
        "seed {seed}: its first process killed at {ran} of {awaits} awaits, one at a time, in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    for outcome in &outcomes {
        tell(outcome);
    }
    if outcomes.is_empty() {
        return Ok(());
    }
    bail!("{} of {ran} replays broke a promise", outcomes.len());
}

/// Runs schedules until all are done or, unless asked to go on, one breaks a promise. Returns those that did, how many
/// ran, and what occurred.
fn many(
    arguments: &Arguments,
    times: u64,
    play: impl Fn(u64) -> std::io::Result<Outcome> + Sync,
) -> anyhow::Result<(Vec<Outcome>, u64, Tally)> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.unwrap_or(processors).max(1);
    let (next, broken) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || -> std::io::Result<(Vec<Outcome>, u64, Tally)> {
        let (mut failed, mut ran, mut tally) = (Vec::new(), 0, Tally::default());
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= times || broken.load(Ordering::Relaxed) {
                return Ok((failed, ran, tally));
            }
            let outcome = play(at)?;
            ran += 1;
            tally.add(&outcome.tally);
            if let Some(violation) = &outcome.violation {
                let enough = match &arguments.expect {
                    Some(expected) => violation.invariant == expected,
                    None => !arguments.keep_going,
                };
                broken.fetch_or(enough, Ordering::Relaxed);
                failed.push(outcome);
            }
        }
    };
    let (mut failed, mut ran, mut tally) = (Vec::new(), 0, Tally::default());
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let Ok(result) = worker.join() else {
                bail!("the simulation itself panicked");
            };
            let (outcomes, count, counted) = result.context("no runtime")?;
            failed.extend(outcomes);
            ran += count;
            tally.add(&counted);
        }
        Ok(())
    })?;
    failed.sort_by_key(|outcome| outcome.seed);
    Ok((failed, ran, tally))
}

fn expect(expected: &str, outcomes: &[Outcome], ran: u64, seconds: f64) -> anyhow::Result<()> {
    let broken = outcomes.iter().filter_map(|outcome| outcome.violation.as_ref());
    let caught = broken.clone().any(|violation| violation.invariant == expected);
    for outcome in outcomes.iter().take(3) {
        tell(outcome);
    }
    if !caught {
        bail!("{expected} held for {ran} seeds ({seconds:.0} s)");
    }
    let first = outcomes.iter().find(|outcome| {
        outcome
            .violation
            .as_ref()
            .is_some_and(|violation| violation.invariant == expected)
    });
    let seed = first.map_or(0, |outcome| outcome.seed);
    println!("{expected}: seed {seed}, {ran} seeds, {seconds:.0} s");
    Ok(())
}

fn tell(outcome: &Outcome) {
    if let Some(violation) = &outcome.violation {
        println!("seed {} breaks {violation}", outcome.seed);
        let kill = outcome
            .kill_at
            .map(|at| format!(" --kill-at {at}"))
            .unwrap_or_default();
        println!(
            "  cargo run -p outbox-relay-simulation -- --seed {}{kill} --trace",
            outcome.seed
        );
    }
}
