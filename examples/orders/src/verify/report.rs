//! The verdict, as numbers and as a table.

use std::fmt::{self, Write};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::latency::{Latency, Percentiles};
use super::{Bounds, Finding, Marks};

/// What the verifier found. Clean if `violations` is empty.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Events that must arrive.
    pub committed: u64,
    /// Events that may arrive.
    pub unknown: u64,
    /// Messages in the topic.
    pub messages: u64,
    /// Events of the journal that are in the topic.
    pub delivered: u64,
    /// Events of the journal that are only among the dead letters.
    pub dead_lettered: u64,
    pub lost: Finding,
    /// Appearances beyond the first.
    pub duplicated: Finding,
    /// First appearances after a later event of the aggregate, without a mark that says so.
    pub reordered: Finding,
    /// Events in another partition than the first of their aggregate: their order cannot be told.
    pub scattered: Finding,
    /// Messages and dead letters that are not in the journal.
    pub foreign: Finding,
    /// Messages with another type or payload than was written.
    pub altered: Finding,
    /// Messages marked `late`, `replayed`, `reconciled`.
    pub late: u64,
    pub replayed: u64,
    pub reconciled: u64,
    /// Lines of the journal that repeat an event id or a sequence number of an aggregate, and lines that it lacks.
    pub journal_errors: Finding,
    pub latency: Latency,
    /// Why the run is not clean.
    pub violations: Vec<String>,
    bounds: Bounds,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    pub(super) fn count_marks(&mut self, marks: Marks) {
        self.late += u64::from(marks.late);
        self.replayed += u64::from(marks.replayed);
        self.reconciled += u64::from(marks.reconciled);
    }

    pub(super) fn judge(&mut self, bounds: &Bounds) {
        let dead = &bounds.dead_letters;
        let order = if bounds.ordered { 0 } else { u64::MAX };
        let mut violations = Vec::new();
        if self.committed == 0 {
            violations.push("nothing was committed, so nothing was tested".to_owned());
        } else if self.committed < bounds.committed {
            violations.push(format!(
                "{} committed, at least {} expected",
                self.committed, bounds.committed
            ));
        }
        let limits = [
            (self.journal_errors.count, 0, "faults of the journal"),
            (self.lost.count, 0, "lost"),
            (self.duplicated.count, bounds.duplicates, "duplicated"),
            (self.reordered.count, order, "reordered"),
            (self.scattered.count, order, "scattered over partitions"),
            (self.late, bounds.late, "late"),
            (self.replayed, bounds.replayed, "replayed"),
            (self.reconciled, bounds.reconciled, "reconciled"),
            (self.foreign.count, bounds.foreign, "foreign"),
            (self.altered.count, 0, "altered"),
            (self.dead_lettered, *dead.end(), "dead-lettered"),
        ];
        for (count, limit, what) in limits {
            if count > limit {
                violations.push(format!("{count} {what}, at most {limit} allowed"));
            }
        }
        if self.dead_lettered < *dead.start() {
            violations.push(format!(
                "{} dead-lettered, at least {} expected",
                self.dead_lettered,
                dead.start()
            ));
        }
        self.violations = violations;
        self.bounds = bounds.clone();
    }

    fn rows(&self) -> Vec<(&'static str, u64, String)> {
        let at_most = |bound: u64| match bound {
            u64::MAX => String::new(),
            bound => format!("at most {bound}"),
        };
        let order = if self.bounds.ordered { "0" } else { "not promised" };
        let mut rows = vec![
            (
                "committed",
                self.committed,
                format!("at least {}", self.bounds.committed),
            ),
            ("outcome unknown", self.unknown, String::new()),
            ("delivered", self.delivered, String::new()),
            (
                "dead-lettered",
                self.dead_lettered,
                dead_letter_bound(&self.bounds),
            ),
            ("lost", self.lost.count, "0".to_owned()),
            (
                "duplicated",
                self.duplicated.count,
                at_most(self.bounds.duplicates),
            ),
            ("reordered", self.reordered.count, order.to_owned()),
            ("scattered", self.scattered.count, order.to_owned()),
            ("late", self.late, at_most(self.bounds.late)),
            ("foreign", self.foreign.count, at_most(self.bounds.foreign)),
            ("altered", self.altered.count, "0".to_owned()),
        ];
        if self.replayed + self.reconciled > 0 {
            rows.push(("replayed", self.replayed, at_most(self.bounds.replayed)));
            rows.push(("reconciled", self.reconciled, at_most(self.bounds.reconciled)));
        }
        rows
    }

    fn findings(&self) -> [(&'static str, &Finding); 7] {
        [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("reordered", &self.reordered),
            ("scattered", &self.scattered),
            ("foreign", &self.foreign),
            ("altered", &self.altered),
            ("journal", &self.journal_errors),
        ]
    }
}

fn dead_letter_bound(bounds: &Bounds) -> String {
    match (*bounds.dead_letters.start(), *bounds.dead_letters.end()) {
        (0, u64::MAX) => String::new(),
        (start, u64::MAX) => format!("at least {start}"),
        (start, end) if start == end => start.to_string(),
        (start, end) => format!("{start} to {end}"),
    }
}

/// The table that ends every demo.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<28}{:>10}  required", "events", "count")?;
        for (name, count, required) in self.rows() {
            writeln!(f, "{name:<28}{count:>10}  {required}")?;
        }
        let latency = self.latency.summary();
        let lines = [
            ("commit to consumption", latency.commit_to_consumption_ms),
            ("schedule to consumption", latency.schedule_to_consumption_ms),
            ("commit to append", latency.commit_to_append_ms),
        ];
        for (index, (name, Percentiles { p50, p99, max, .. })) in lines
            .iter()
            .filter_map(|(name, values)| Some((name, (*values)?)))
            .enumerate()
        {
            if index == 0 {
                writeln!(
                    f,
                    "{:<28}{:>10}{:>10}{:>10}",
                    "latency in ms", "p50", "p99", "max"
                )?;
            }
            writeln!(f, "{name:<28}{p50:>10.1}{p99:>10.1}{max:>10.1}")?;
        }
        for (name, finding) in self.findings() {
            for example in &finding.examples {
                writeln!(f, "{name}: {example}")?;
            }
        }
        let mut verdict = String::from(if self.is_clean() { "PASS" } else { "FAIL" });
        for violation in &self.violations {
            write!(verdict, "\n  {violation}")?;
        }
        f.write_str(&verdict)
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("clean", &self.is_clean())?;
        map.serialize_entry("violations", &self.violations)?;
        map.serialize_entry("messages", &self.messages)?;
        for (name, count, _) in self.rows() {
            map.serialize_entry(&name.replace([' ', '-'], "_"), &count)?;
        }
        for (name, finding) in self
            .findings()
            .into_iter()
            .filter(|(_, finding)| finding.count > 0)
        {
            map.serialize_entry(&format!("{name}_examples"), &finding.examples)?;
        }
        map.serialize_entry("latency", &self.latency.summary())?;
        map.end()
    }
}
