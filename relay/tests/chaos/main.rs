//! Real relays, a real Kafka and the sandbox, with everything that can be taken from them taken away at random: kill -9,
//! SIGSTOP and SIGTERM of relays, kills and pauses of brokers, lines that are cut, slow or silent, hazards of the log.
//! Afterwards the order service's verifier judges: nothing lost, nothing reordered, and no repeat that a crash does not
//! explain.
//!
//! `make test` runs a minute of it, `make chaos` 100 kills. A seed decides what is done and how long each thing lasts
//! (`CHAOS_SEED` repeats it); what real processes make of it is theirs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it did"
)]

mod brokers;
mod plan;
mod proxy;
mod relays;
mod repeats;
mod round;
mod troubles;

use std::time::{Duration, Instant};

use plan::Round;

/// Of `make test`, beyond starts and the verifier.
const SHORT: Duration = Duration::from_secs(45);

/// Kills of one round: each round has its own cluster, layout and shares.
const KILLS_PER_ROUND: usize = 20;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}: {text} is no number")),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_reordered_whatever_is_taken_away() {
    let seed = number("CHAOS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let kills = number("CHAOS_KILLS").map(|kills| kills as usize);
    eprintln!("CHAOS_SEED={seed}");
    let started = Instant::now();
    let Some(kills) = kills else {
        let first = Round::new(seed, 0);
        return round::run(&first, usize::MAX, SHORT).await.assert_clean(&first);
    };
    let (mut done, mut number) = (0, 0);
    while done < kills {
        let round = Round::new(seed, number);
        let outcome = round::run(&round, KILLS_PER_ROUND.min(kills - done), Duration::MAX).await;
        done += outcome.kills;
        outcome.assert_clean(&round);
        number += 1;
        eprintln!("{done} of {kills} kills, {} s", started.elapsed().as_secs());
    }
}
