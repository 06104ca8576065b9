//! The end of a benchmark: everything as JSON, and as a table.

mod table;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::summary::{Drain, SteadyRounds, of_steady, summarise};
use super::{BenchError, Line};
use crate::journal::{JournalReader, Outcome};
use crate::verify::latency::{LatencySummary, Percentiles, histogram, percentiles};

/// A load that commits less than this part of its rate did not hold its schedule.
const HELD: f64 = 0.99;

/// Where the measurements are.
pub struct Sources {
    /// One JSON object per line.
    pub lines: PathBuf,
    /// Of the steady load: the verifier's report, and the journal.
    pub verified: Option<PathBuf>,
    pub journal: Option<PathBuf>,
    /// Events per second that the steady load was asked for.
    pub rate: f64,
    /// What reproduces it.
    pub command: String,
    pub profile: String,
}

/// Serialises to `bench.json`, displays as a table.
#[derive(Debug, Serialize)]
pub struct Report {
    command: String,
    profile: String,
    cores: usize,
    goals: Vec<Goal>,
    drain: Option<Drain>,
    steady: Option<SteadyLoad>,
    steady_exactly_once: Option<SteadyRounds>,
    lines: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct SteadyLoad {
    relay: SteadyRounds,
    schedule: Schedule,
    /// By the verifier, over the whole load.
    latency: LatencySummary,
}

/// Whether the load was what it was meant to be.
#[derive(Debug, Serialize)]
struct Schedule {
    rate: f64,
    committed: u64,
    committed_per_second: f64,
    held: bool,
    /// From the scheduled time to the database's answer.
    answered_ms: Option<Percentiles>,
}

#[derive(Debug, Serialize)]
struct Goal {
    name: &'static str,
    goal: f64,
    measured: f64,
    met: bool,
}

/// What is read of the verifier's report.
#[derive(Deserialize)]
struct Verified {
    clean: bool,
    latency: LatencySummary,
}

impl Report {
    /// # Errors
    /// A file is missing or malformed, or the verifier found fault.
    pub fn read(sources: &Sources) -> Result<Self, BenchError> {
        let lines = read_lines(&sources.lines)?;
        let cores = std::thread::available_parallelism()
            .map_err(|error| BenchError::new("counting the cores", error))?
            .get();
        let (mut drained, mut observed, mut exactly_once) = (Vec::new(), Vec::new(), Vec::new());
        for line in lines.iter().cloned() {
            match line {
                Line::Drain(round) => drained.push(round),
                Line::Steady(round) => observed.push(round),
                Line::SteadyExactlyOnce(round) => exactly_once.push(round),
            }
        }
        let steady_exactly_once = of_steady(&exactly_once);
        let steady = match (of_steady(&observed), &sources.verified, &sources.journal) {
            (Some(relay), Some(verified), Some(journal)) => Some(SteadyLoad {
                relay,
                schedule: schedule(journal, sources.rate)?,
                latency: latency(verified)?,
            }),
            _ => None,
        };
        let drain = summarise(&drained, cores);
        Ok(Self {
            command: sources.command.clone(),
            profile: sources.profile.clone(),
            cores,
            goals: goals(drain.as_ref(), steady.as_ref(), steady_exactly_once.as_ref()),
            drain,
            steady,
            steady_exactly_once,
            lines,
        })
    }
}

fn read_lines(path: &Path) -> Result<Vec<Line>, BenchError> {
    let failed = |detail: &dyn std::fmt::Display| BenchError::new(path.display().to_string(), detail);
    let file = File::open(path).map_err(|error| failed(&error))?;
    let mut lines = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| failed(&error))?;
        let line = serde_json::from_str(&line);
        lines.push(line.map_err(|error| failed(&format!("line {}: {error}", index + 1)))?);
    }
    Ok(lines)
}

fn latency(path: &Path) -> Result<LatencySummary, BenchError> {
    let failed = |detail: &dyn std::fmt::Display| BenchError::new(path.display().to_string(), detail);
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let verified: Verified = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    if verified.clean {
        Ok(verified.latency)
    } else {
        Err(failed(&"the verifier found fault"))
    }
}

fn schedule(path: &Path, rate: f64) -> Result<Schedule, BenchError> {
    let failed = |detail: &dyn std::fmt::Display| BenchError::new(path.display().to_string(), detail);
    let mut journal = JournalReader::new(path);
    journal.poll().map_err(|error| failed(&error))?;
    let mut answered = histogram();
    let (mut first, mut last, mut committed) = (i64::MAX, i64::MIN, 0);
    for entry in journal.entries() {
        let (Outcome::Committed, Some(at)) = (entry.outcome, entry.committed_us) else {
            continue;
        };
        committed += 1;
        first = first.min(entry.scheduled_us);
        last = last.max(at);
        answered.saturating_record(u64::try_from(at - entry.scheduled_us).unwrap_or(0));
    }
    if committed == 0 {
        return Err(failed(&"nothing was committed"));
    }
    let committed_per_second = committed as f64 * 1e6 / (last - first) as f64;
    Ok(Schedule {
        rate,
        committed,
        committed_per_second,
        held: committed_per_second >= HELD * rate,
        answered_ms: percentiles(&answered),
    })
}

/// What the product has set itself, for two cores that everything shares.
fn goals(
    drain: Option<&Drain>,
    steady: Option<&SteadyLoad>,
    exactly_once: Option<&SteadyRounds>,
) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut at_least = |name, goal, measured: Option<f64>| {
        goals.extend(measured.map(|measured| Goal {
            name,
            goal,
            measured,
            met: measured >= goal,
        }));
    };
    let relay = drain.and_then(|drain| drain.parts.get(&super::Part::Relay));
    at_least(
        "drain, events/s, at least",
        50_000.0,
        relay.map(|relay| relay.events_per_second.median),
    );
    let ratio = drain.and_then(|drain| drain.relay_to_ceiling);
    at_least(
        "drain, part of the ceiling, at least",
        0.5,
        ratio.map(|ratio| ratio.median),
    );
    let exactly = drain.and_then(|drain| drain.exactly_once_to_relay);
    at_least(
        "drain, exactly once / at least once, at least",
        0.9,
        exactly.map(|ratio| ratio.median),
    );
    let mut at_most = |name, goal, measured: Option<f64>| {
        goals.extend(measured.map(|measured| Goal {
            name,
            goal,
            measured,
            met: measured <= goal,
        }));
    };
    let peak = drain.and_then(|drain| drain.relay.as_ref());
    at_most(
        "drain, peak RSS in MiB, at most",
        192.0,
        peak.map(|relay| mebibytes(relay.peak_resident_bytes as f64)),
    );
    let seen = steady.map(|steady| &steady.relay);
    at_most(
        "steady, cdc$time to delivery report, p50 in ms, at most",
        10.0,
        seen.map(|relay| relay.end_to_end_p50.median),
    );
    at_most(
        "steady, cdc$time to delivery report, p99 in ms, at most",
        50.0,
        seen.map(|relay| relay.end_to_end_p99.median),
    );
    at_most(
        "steady, RSS in MiB, at most",
        64.0,
        seen.map(|relay| mebibytes(relay.resident_max_bytes as f64)),
    );
    at_most(
        "steady, exactly once, cdc$time to commit, p50 in ms, at most",
        50.0,
        exactly_once.map(|relay| relay.end_to_end_p50.median),
    );
    goals
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}
