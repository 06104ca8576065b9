//! The table that people read.

use std::fmt::{self, Display, Formatter};

use super::{Report, SteadyLoad, mebibytes};
use crate::bench::Part;
use crate::bench::processes::{OTHER, SELF};
use crate::bench::summary::{Drain, PartSummary, Relay, Spread, SteadyRounds};
use crate::verify::latency::Percentiles;

/// The measured processes, as columns.
const PROCESSES: [&str; 3] = ["sandbox", "broker", OTHER];

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} cores, {} build; again: {}",
            self.cores, self.profile, self.command
        )?;
        if let Some(drain) = &self.drain {
            show_drain(f, drain, self.cores)?;
        }
        if let Some(steady) = &self.steady {
            show_steady(f, steady)?;
        }
        if let Some(steady) = &self.steady_exactly_once {
            writeln!(f, "\nthe same load, exactly once")?;
            show_rounds(f, "cdc$time to commit (relay)", steady)?;
        }
        if !self.goals.is_empty() {
            writeln!(f, "\n{:<58}{:>10}{:>12}", "goals", "goal", "measured")?;
        }
        for goal in &self.goals {
            let verdict = if goal.met { "met" } else { "MISSED" };
            writeln!(
                f,
                "{:<58}{:>10}{:>12}  {verdict}",
                goal.name,
                short(goal.goal),
                short(goal.measured)
            )?;
        }
        Ok(())
    }
}

fn show_drain(f: &mut Formatter<'_>, drain: &Drain, cores: usize) -> fmt::Result {
    writeln!(
        f,
        "\ndrain of {} events, median (least..most) of {} rounds; CPU in us per event by process",
        drain.events, drain.rounds
    )?;
    write!(f, "{:<28}{:>30}{:>10}", "", "events/s", "itself")?;
    for process in PROCESSES {
        write!(f, "{process:>10}")?;
    }
    writeln!(f)?;
    for (name, part) in [
        ("A bare librdkafka", Part::Produce),
        ("B bare driver", Part::Read),
        ("C read to produce", Part::Pipe),
        ("relay", Part::Relay),
        ("relay, exactly once", Part::ExactlyOnce),
    ] {
        if let Some(summary) = drain.parts.get(&part) {
            show_part(f, name, summary)?;
        }
    }
    let ceiling = format!("ceiling: {cores} cores / (A + B)");
    for (name, spread) in [
        (ceiling.as_str(), drain.ceiling),
        ("relay / ceiling", drain.relay_to_ceiling),
        ("relay / C", drain.relay_to_pipe),
        ("exactly / at least once", drain.exactly_once_to_relay),
    ] {
        if let Some(spread) = spread {
            writeln!(f, "{name:<28}{:>30}", spread.to_string())?;
        }
    }
    drain.relay.as_ref().map_or(Ok(()), |relay| show_relay(f, relay))
}

fn show_part(f: &mut Formatter<'_>, name: &str, part: &PartSummary) -> fmt::Result {
    write!(f, "{name:<28}{:>30}", part.events_per_second.to_string())?;
    let cpu = |name: &str| part.cpu_per_event.get(name).map(|spread| spread.median);
    let columns = [cpu(SELF).or(cpu("relay"))].into_iter().chain(PROCESSES.map(cpu));
    for value in columns {
        match value {
            Some(value) => write!(f, "{value:>10.2}")?,
            None => write!(f, "{:>10}", "-")?,
        }
    }
    writeln!(f)
}

fn show_relay(f: &mut Formatter<'_>, relay: &Relay) -> fmt::Result {
    for (name, spread) in [
        (
            "relay, by end offsets, events/s",
            relay.events_per_second_by_offsets,
        ),
        ("relay, start to delivery, s", relay.start_seconds),
        ("relay, CPU of the start, s", relay.start_cpu_seconds),
        ("relay, stop, s", relay.stop_seconds),
        ("relay, CQL reads", relay.queries),
        ("relay, log rows per event", relay.log_rows_per_event),
    ] {
        writeln!(f, "{name:<31}{:>27}", spread.to_string())?;
    }
    writeln!(
        f,
        "{:<31}{:>27.1}",
        "relay, peak RSS, MiB",
        mebibytes(relay.peak_resident_bytes as f64)
    )
}

fn show_steady(f: &mut Formatter<'_>, steady: &SteadyLoad) -> fmt::Result {
    let (relay, schedule) = (&steady.relay, &steady.schedule);
    let held = if schedule.held { "held" } else { "NOT HELD" };
    writeln!(
        f,
        "\nsteady load of {} events/s: schedule {held}, {:.1}/s committed",
        schedule.rate, schedule.committed_per_second
    )?;
    writeln!(
        f,
        "{:<44}{:>10}{:>10}{:>10}",
        "latency in ms, of the whole load", "p50", "p99", "max"
    )?;
    for (name, values) in [
        (
            "commit to consumption (verifier)",
            steady.latency.commit_to_consumption_ms,
        ),
        (
            "schedule to consumption (verifier)",
            steady.latency.schedule_to_consumption_ms,
        ),
        ("schedule to the database's answer", schedule.answered_ms),
    ] {
        if let Some(Percentiles { p50, p99, max, .. }) = values {
            writeln!(f, "{name:<44}{p50:>10.1}{p99:>10.1}{max:>10.1}")?;
        }
    }
    show_rounds(f, "cdc$time to delivery report (relay)", relay)
}

fn show_rounds(f: &mut Formatter<'_>, latency: &str, relay: &SteadyRounds) -> fmt::Result {
    let SteadyRounds { rounds, seconds, .. } = relay;
    writeln!(
        f,
        "median (least..most) of {rounds} rounds, {seconds:.0} s together"
    )?;
    let mut line = |name: &str, value: String| writeln!(f, "{name:<44}{value:>30}");
    line(&format!("{latency}, p50"), relay.end_to_end_p50.to_string())?;
    line(&format!("{latency}, p99"), relay.end_to_end_p99.to_string())?;
    let at_most = relay.end_to_end_at_most;
    line(
        &format!("{latency}, max"),
        at_most.map_or_else(|| "unbounded".to_owned(), |bound| format!("<= {bound:.0}")),
    )?;
    let resident = relay.resident_median_bytes.map(mebibytes);
    for (name, spread) in [
        ("delivered/s", relay.delivered_per_second),
        ("CQL reads/s", relay.queries_per_second),
        ("partitions touched/s", relay.partitions_per_second),
        ("log rows read/s", relay.log_rows_per_second),
        ("of these known/s", relay.known_rows_per_second),
        ("relay RSS, MiB", resident),
    ] {
        line(name, spread.to_string())?;
    }
    let most = mebibytes(relay.resident_max_bytes as f64);
    line("relay RSS, most, MiB", format!("{most:.1}"))?;
    line("late events", format!("{:.0}", relay.late_events))?;
    for (process, percent) in &relay.cpu_percent {
        line(&format!("CPU of {process}, % of a core"), percent.to_string())?;
    }
    Ok(())
}

impl Display for Spread {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { median, min, max } = self;
        write!(f, "{} ({}..{})", short(*median), short(*min), short(*max))
    }
}

/// Three digits at least, no more decimals than these need.
fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
