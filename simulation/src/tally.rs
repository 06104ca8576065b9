//! How often each hazard, error class and crash point occurred. What never occurs proves nothing, so a zero fails a
//! long run.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::process::POINTS;

/// Everything that has to occur, beside the crash points.
const EXPECTED: &[&str] = &[
    "log: backlog older than the horizon",
    "log: batch of several events",
    "log: clock of a coordinator ahead or behind",
    "log: clocks of coordinators seconds apart",
    "log: closed stream written to",
    "log: dated ahead by seconds",
    "log: empty page with more to come",
    "log: image, update, delete or unknown row",
    "log: insert as several rows",
    "log: page cut a record",
    "log: query failed",
    "log: query for the oldest rows failed",
    "log: query overloaded",
    "log: query slow",
    "log: query with a configuration error",
    "log: row late",
    "log: row late by nearly the horizon",
    "log: row missed by a subset of replicas",
    "log: row vanished",
    "log: row that vanished returned",
    "log: same microsecond",
    "log: second row of an event",
    "log: stream set published late",
    "log: stream sets stale",
    "log: stream sets unreadable",
    "log: switch of generation",
    "log: tablets merged",
    "log: tablets split",
    "broker: all brokers down",
    "broker: configuration error",
    "broker: fatal error",
    "broker: message refused at once",
    "broker: message refused with its batch",
    "broker: message refused, batch-mates told so",
    "broker: message that no check passes",
    "broker: outcome unknown, not written",
    "broker: outcome unknown, written",
    "broker: producer not made",
    "broker: purged message landed later",
    "broker: question about the topic failed",
    "broker: queue full",
    "broker: refused after a long time",
    "broker: report late",
    "broker: stall that ends in an error",
    "broker: stall without error",
    "broker: transient error",
    "broker: trouble told",
    "letters: not written",
    "letters: slow",
    "letters: written, but not told",
    "state: applied, but not told",
    "state: arrives after the next step",
    "state: decided by the next step",
    "state: heartbeat answered late",
    "state: heartbeat lost",
    "state: owners read stale",
    "state: slow",
    "state: unavailable",
    "crash: soon after a late stream set",
    "process: clock set back",
    "process: component panicked",
    "process: frozen for longer than the lease",
    "process: frozen in a transaction",
    "process: pinned beside auto",
    "process: restarted",
    "process: retention gap told",
    "process: shares 1, 3, 2, 5",
    "process: shares changed",
    "process: slot taken over",
    "process: slots fenced",
    "process: stopped gracefully",
    "transactions: aborted",
    "transactions: commit applied, but not told",
    "transactions: commit lost on its way",
    "transactions: commit that arrives late",
    "transactions: commit that leaves an abort only",
    "transactions: committed",
    "transactions: coordinator loads its log first",
    "transactions: coordinator unavailable",
    "transactions: end asked for by a fenced producer refused",
    "transactions: failed as a whole behind a refused message",
    "transactions: former owner fenced",
    "transactions: markers slow",
    "transactions: message of a fenced producer refused",
    "transactions: open for too long",
    "transactions: open one ended by a fence",
    "journal: event found beyond the checkpoint",
    "journal: reader waited for an open transaction",
    "journal: takes long to read",
    "journal: unavailable",
    "letters: one of a former owner refused",
    "letters: pending one removed by the next owner",
    "letters: pending one settled by the next owner",
    "letters: settled after the commit",
    "process: delivers exactly once",
    "outcome: dead letter",
    "outcome: duplicate",
    "outcome: event that expired",
    "outcome: late event",
];

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally(BTreeMap<String, u64>);

impl Tally {
    pub(crate) fn count(&mut self, what: &str) {
        match self.0.get_mut(what) {
            Some(count) => *count += 1,
            None => {
                self.0.insert(what.to_owned(), 1);
            }
        }
    }

    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what.clone()).or_default() += count;
        }
    }

    fn expected() -> impl Iterator<Item = String> {
        let crashes = POINTS.iter().map(|(_, name, _)| format!("crash: {name}"));
        EXPECTED.iter().map(|name| (*name).to_owned()).chain(crashes)
    }

    /// What has to occur and did not.
    pub fn missing(&self) -> Vec<String> {
        Self::expected().filter(|what| self.of(what) == 0).collect()
    }

    /// One line each.
    pub fn table(&self) -> String {
        let mut names: Vec<String> = Self::expected().collect();
        names.extend(self.0.keys().cloned());
        names.sort();
        names.dedup();
        names.iter().fold(String::new(), |mut table, name| {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{:>12}  {name}", self.of(name));
            table
        })
    }
}
