//! About ten seconds of simulation, as part of every test run. `make simulate SEEDS=10000` is the long one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use simulation::{Tally, run, run_killing};

/// Seeds are run until this has passed.
const BUDGET: Duration = Duration::from_secs(10);

/// Even a slow machine runs this many.
const SEEDS_MIN: usize = 10;

const SEEDS_MAX: u64 = 150;

#[test]
fn promises_hold_in_every_schedule() {
    let started = Instant::now();
    let mut tally = Tally::default();
    for (ran, seed) in (1..=SEEDS_MAX).enumerate() {
        if ran >= SEEDS_MIN && started.elapsed() > BUDGET {
            break;
        }
        let outcome = run(seed, false).unwrap();
        let violation = outcome.violation.map(|violation| violation.to_string());
        assert_eq!(
            violation, None,
            "seed {seed}; cargo run -p outbox-relay-simulation -- --seed {seed} --trace"
        );
        assert!(outcome.events >= 200, "seed {seed} has {} events", outcome.events);
        tally.add(&outcome.tally);
    }
    for what in ["process: restarted", "transactions: committed"] {
        assert!(tally.of(what) > 0, "{what}");
    }
}

/// Some of the awaits; `simulate --seed 7 --everywhere` is killed at each.
#[test]
fn a_process_may_be_killed_at_any_await() {
    kill_at_some_awaits(7);
}

#[test]
fn an_owner_of_transactions_may_be_killed_at_any_await() {
    kill_at_some_awaits(6);
}

fn kill_at_some_awaits(seed: u64) {
    const KILLS: u64 = 12;
    let awaits = run_killing(seed, u64::MAX, false).unwrap().awaits;
    assert!(awaits > 1000, "{awaits}");
    for number in 0..KILLS {
        let at = number * awaits / KILLS + 1;
        let outcome = run_killing(seed, at, false).unwrap();
        let violation = outcome.violation.map(|violation| violation.to_string());
        assert_eq!(violation, None, "--seed {seed} --kill-at {at} --trace");
    }
}

#[test]
fn the_same_seed_is_the_same_schedule() {
    for seed in [3, 6, 4711] {
        let (first, second) = (run(seed, true).unwrap(), run(seed, true).unwrap());
        let differs = first
            .trace
            .lines()
            .zip(second.trace.lines())
            .find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.trace.len(), second.trace.len());
        assert!(first.trace.lines().count() > 1000);
    }
}
