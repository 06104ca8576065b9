//! Rounds to numbers: medians with their spread, the ceiling, and how near to it the relay comes. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::observe::Steady;
use super::processes::{SELF, Usage};
use super::{Drained, Part};

/// Of the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// None without values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let median = if values.len() % 2 == 1 {
            upper
        } else {
            f64::midpoint(values[middle - 1], upper)
        };
        Some(Self {
            median,
            min: *values.first()?,
            max: *values.last()?,
        })
    }

    /// In another unit.
    pub(super) fn map(self, unit: impl Fn(f64) -> f64) -> Self {
        Self {
            median: unit(self.median),
            min: unit(self.min),
            max: unit(self.max),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Drain {
    pub(super) events: u64,
    pub(super) rounds: usize,
    pub(super) parts: BTreeMap<Part, PartSummary>,
    /// Events per second that the cores would do if they did nothing but what A and B do.
    pub(super) ceiling: Option<Spread>,
    pub(super) relay_to_ceiling: Option<Spread>,
    pub(super) relay_to_pipe: Option<Spread>,
    pub(super) exactly_once_to_relay: Option<Spread>,
    pub(super) relay: Option<Relay>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct PartSummary {
    pub(super) events_per_second: Spread,
    /// Microseconds, by process.
    pub(super) cpu_per_event: BTreeMap<String, Spread>,
}

/// What only the relay has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Relay {
    pub(super) events_per_second_by_offsets: Spread,
    pub(super) start_seconds: Spread,
    pub(super) start_cpu_seconds: Spread,
    pub(super) stop_seconds: Spread,
    pub(super) peak_resident_bytes: u64,
    pub(super) queries: Spread,
    pub(super) log_rows_per_event: Spread,
}

/// None without rounds.
pub(super) fn summarise(runs: &[Drained], cores: usize) -> Option<Drain> {
    let mut rounds: BTreeMap<u32, BTreeMap<Part, &Drained>> = BTreeMap::new();
    for run in runs {
        rounds.entry(run.round).or_default().insert(run.part, run);
    }
    let mut parts = BTreeMap::new();
    for part in [
        Part::Produce,
        Part::Read,
        Part::Pipe,
        Part::Relay,
        Part::ExactlyOnce,
    ] {
        let of_part: Vec<&Drained> = runs.iter().filter(|run| run.part == part).collect();
        if let Some(summary) = of_one_part(&of_part) {
            parts.insert(part, summary);
        }
    }
    let per_round = |value: &dyn Fn(&BTreeMap<Part, &Drained>) -> Option<f64>| {
        Spread::of(rounds.values().filter_map(value))
    };
    Some(Drain {
        events: runs.first()?.events,
        rounds: rounds.len(),
        ceiling: per_round(&|round| ceiling(round, cores)),
        relay_to_ceiling: per_round(&|round| Some(speed(round.get(&Part::Relay)?) / ceiling(round, cores)?)),
        relay_to_pipe: per_round(&|round| {
            Some(speed(round.get(&Part::Relay)?) / speed(round.get(&Part::Pipe)?))
        }),
        exactly_once_to_relay: per_round(&|round| {
            Some(speed(round.get(&Part::ExactlyOnce)?) / speed(round.get(&Part::Relay)?))
        }),
        relay: of_relay(runs),
        parts,
    })
}

fn speed(run: &Drained) -> f64 {
    run.events as f64 / run.usage.seconds
}

/// Cores by the CPU time that an event costs at least: A's producer and broker, B's reader and database.
fn ceiling(round: &BTreeMap<Part, &Drained>, cores: usize) -> Option<f64> {
    let (produce, read) = (round.get(&Part::Produce)?, round.get(&Part::Read)?);
    let needed = produce.usage.cpu(SELF)
        + produce.usage.cpu("broker")
        + read.usage.cpu(SELF)
        + read.usage.cpu("sandbox");
    Some(cores as f64 * produce.events as f64 / needed)
}

fn of_one_part(runs: &[&Drained]) -> Option<PartSummary> {
    Some(PartSummary {
        events_per_second: Spread::of(runs.iter().map(|run| speed(run)))?,
        cpu_per_event: by_process(runs.iter().map(|run| (&run.usage, 1e6 / run.events as f64))),
    })
}

/// CPU seconds of each process times what makes the wanted unit of them, round by round.
fn by_process<'a>(rounds: impl Iterator<Item = (&'a Usage, f64)>) -> BTreeMap<String, Spread> {
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (usage, unit) in rounds {
        for (process, seconds) in &usage.cpu_seconds {
            values.entry(process.clone()).or_default().push(seconds * unit);
        }
    }
    let values = values.into_iter();
    values
        .filter_map(|(process, values)| Some((process, Spread::of(values)?)))
        .collect()
}

fn of_relay(runs: &[Drained]) -> Option<Relay> {
    let drains = || {
        let runs = runs.iter().filter(|run| run.part == Part::Relay);
        runs.filter_map(|run| Some((run, run.relay.as_ref()?)))
    };
    Some(Relay {
        events_per_second_by_offsets: Spread::of(
            drains().map(|(run, relay)| run.events as f64 / relay.seconds_by_offsets),
        )?,
        start_seconds: Spread::of(drains().map(|(_, relay)| relay.start_seconds))?,
        start_cpu_seconds: Spread::of(drains().map(|(_, relay)| relay.start_cpu_seconds))?,
        stop_seconds: Spread::of(drains().map(|(_, relay)| relay.stop_seconds))?,
        peak_resident_bytes: drains().map(|(_, relay)| relay.peak_resident_bytes).max()?,
        queries: Spread::of(drains().map(|(_, relay)| relay.queries))?,
        log_rows_per_event: Spread::of(drains().map(|(run, relay)| relay.log_rows / run.events as f64))?,
    })
}

/// A relay under a steady load, over the rounds that it was observed. Latencies in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct SteadyRounds {
    pub(super) rounds: usize,
    /// Of all rounds together.
    pub(super) seconds: f64,
    pub(super) end_to_end_p50: Spread,
    pub(super) end_to_end_p99: Spread,
    /// Upper bound of the bucket that holds the slowest of all; none if only infinity bounds it.
    pub(super) end_to_end_at_most: Option<f64>,
    pub(super) delivered_per_second: Spread,
    pub(super) queries_per_second: Spread,
    pub(super) partitions_per_second: Spread,
    pub(super) log_rows_per_second: Spread,
    pub(super) known_rows_per_second: Spread,
    /// Of all rounds together.
    pub(super) late_events: f64,
    pub(super) resident_median_bytes: Spread,
    pub(super) resident_max_bytes: u64,
    /// By process, in percent of a core.
    pub(super) cpu_percent: BTreeMap<String, Spread>,
}

/// None without rounds.
pub(super) fn of_steady(rounds: &[Steady]) -> Option<SteadyRounds> {
    let spread = |value: &dyn Fn(&Steady) -> f64| Spread::of(rounds.iter().map(value));
    let slowest: Option<Vec<f64>> = rounds.iter().map(|round| round.end_to_end_at_most).collect();
    Some(SteadyRounds {
        rounds: rounds.len(),
        seconds: rounds.iter().map(|round| round.usage.seconds).sum(),
        end_to_end_p50: spread(&|round| round.end_to_end_p50)?,
        end_to_end_p99: spread(&|round| round.end_to_end_p99)?,
        end_to_end_at_most: slowest.and_then(|bounds| bounds.into_iter().max_by(f64::total_cmp)),
        delivered_per_second: spread(&|round| round.events / round.usage.seconds)?,
        queries_per_second: spread(&|round| round.queries / round.usage.seconds)?,
        partitions_per_second: spread(&|round| round.partitions / round.usage.seconds)?,
        log_rows_per_second: spread(&|round| round.log_rows / round.usage.seconds)?,
        known_rows_per_second: spread(&|round| round.known_rows / round.usage.seconds)?,
        late_events: rounds.iter().map(|round| round.late_events).sum(),
        resident_median_bytes: spread(&|round| round.resident_median_bytes as f64)?,
        resident_max_bytes: rounds.iter().map(|round| round.resident_max_bytes).max()?,
        cpu_percent: by_process(
            rounds
                .iter()
                .map(|round| (&round.usage, 100.0 / round.usage.seconds)),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_a_steady_load_are_not_averaged_away() {
        let round = |p99: f64, resident: u64, at_most: Option<f64>| Steady {
            usage: Usage {
                seconds: 10.0,
                cpu_seconds: [("relay".to_owned(), 2.0)].into(),
            },
            events: 20_000.0,
            end_to_end_p50: 5.0,
            end_to_end_p99: p99,
            end_to_end_at_most: at_most,
            queries: 100.0,
            partitions: 400.0,
            log_rows: 1000.0,
            known_rows: 500.0,
            late_events: 1.0,
            resident_median_bytes: 40,
            resident_max_bytes: resident,
        };
        let rounds = [
            round(20.0, 50, Some(100.0)),
            round(10.0, 90, Some(250.0)),
            round(12.0, 60, Some(25.0)),
        ];
        let seen = of_steady(&rounds).unwrap();
        let Spread { median, min, max } = seen.end_to_end_p99;
        assert_eq!((median, min, max), (12.0, 10.0, 20.0));
        assert_eq!((seen.resident_max_bytes, seen.late_events), (90, 3.0));
        assert_eq!((seen.seconds, seen.end_to_end_at_most), (30.0, Some(250.0)));
        assert_eq!(seen.cpu_percent["relay"].median, 20.0);
        let unbounded = of_steady(&[round(1.0, 1, Some(5.0)), round(1.0, 1, None)]).unwrap();
        assert_eq!(unbounded.end_to_end_at_most, None);
        assert_eq!(of_steady(&[]), None);
    }

    #[test]
    fn the_median_lies_between_the_extremes() {
        for (values, expected) in [
            (vec![3.0, 1.0, 2.0], Some((2.0, 1.0, 3.0))),
            (vec![4.0, 1.0, 2.0, 8.0], Some((3.0, 1.0, 8.0))),
            (vec![], None),
        ] {
            let spread = Spread::of(values.clone());
            assert_eq!(
                spread.map(|spread| (spread.median, spread.min, spread.max)),
                expected,
                "{values:?}"
            );
        }
    }

    fn run(part: Part, seconds: f64, cpu: &[(&str, f64)]) -> Drained {
        Drained {
            part,
            round: 1,
            events: 1_000_000,
            usage: Usage {
                seconds,
                cpu_seconds: cpu
                    .iter()
                    .map(|(name, seconds)| ((*name).to_owned(), *seconds))
                    .collect(),
            },
            relay: None,
        }
    }

    #[test]
    fn the_ceiling_counts_what_must_be_done_and_not_what_else_was() {
        let runs = [
            run(
                Part::Produce,
                4.0,
                &[("self", 3.0), ("broker", 2.0), ("other", 9.0)],
            ),
            run(
                Part::Read,
                5.0,
                &[("self", 1.0), ("sandbox", 4.0), ("broker", 9.0)],
            ),
            run(Part::Pipe, 8.0, &[("self", 5.0)]),
            run(Part::Relay, 10.0, &[("relay", 8.0)]),
            run(Part::ExactlyOnce, 12.5, &[("relay", 8.0)]),
        ];
        let drain = summarise(&runs, 2).unwrap();
        let median = |spread: Option<Spread>| spread.unwrap().median;
        assert_eq!(median(drain.ceiling), 200_000.0);
        assert_eq!(median(drain.relay_to_ceiling), 0.5);
        assert_eq!(median(drain.relay_to_pipe), 0.8);
        assert_eq!(median(drain.exactly_once_to_relay), 0.8);
        let relay = &drain.parts[&Part::Relay];
        assert_eq!(relay.events_per_second.median, 100_000.0);
        assert_eq!(relay.cpu_per_event["relay"].median, 8.0);

        let without = summarise(&runs[..3], 2).unwrap();
        assert_eq!((without.relay_to_pipe, without.relay), (None, None));
        assert!(without.ceiling.is_some());
        assert_eq!(summarise(&[], 2), None);
    }
}
