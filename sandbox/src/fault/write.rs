//! Faults of writes: log rows that come late, twice, never or at an old time; timeouts; clocks.

use std::time::Duration;

use tokio::time::Instant;

use super::Faults;
use super::rule::{ActiveRule, AfterTimeout, Effect, Rule, Stage};
use crate::cdc::timestamps::{micros_of_timeuuid, timeuuid_from_micros};
use crate::error::{CqlError, ErrorKind};
use crate::query::api::Session;
use crate::query::hooks::{WriteContext, WriteFaults, WriteVerdict};
use crate::schema::TableSchema;
use crate::storage::mutation::{CellChange, Mutation, RowChange};
use crate::storage::ordered;

impl WriteFaults for Faults {
    fn before_apply(
        &self,
        write: &WriteContext<'_>,
        mutations: &mut Vec<Mutation>,
    ) -> Result<WriteVerdict, CqlError> {
        if !self.touch(Stage::Write) {
            return Ok(WriteVerdict::Apply);
        }
        let mut verdict = WriteVerdict::Apply;
        for active in self.rules_of(Stage::Write) {
            match active.rule.effect {
                Effect::WriteTimeout(after) => {
                    if let Some(error) = timed_out(&active, write, mutations) {
                        verdict = self.after_timeout(after, &active, error, mutations)?;
                    }
                }
                Effect::UnlearnedLwt if write.conditional => {
                    if let Some(error) = timed_out(&active, write, mutations) {
                        verdict = WriteVerdict::Unlearned(error);
                    }
                }
                Effect::OldLogTime(back) => {
                    for mutation in log_mutations(&active, mutations) {
                        move_back(mutation, back.as_micros() as i64);
                    }
                }
                Effect::LateLogRows(delay) => {
                    let late = taken_log_mutations(&active, mutations);
                    self.hold(&active, delay, late)?;
                }
                Effect::DuplicateLogRows(delay) => {
                    let mut again: Vec<Mutation> = log_mutations(&active, mutations)
                        .map(|mutation| mutation.clone())
                        .collect();
                    again.iter_mut().for_each(rename_record);
                    match delay.is_zero() {
                        true => mutations.extend(again),
                        false => self.hold(&active, delay, again)?,
                    }
                }
                Effect::LostLogRows => drop(taken_log_mutations(&active, mutations)),
                _ => {}
            }
        }
        Ok(verdict)
    }

    fn clock_offset_micros(&self, session: &Session) -> i64 {
        if !self.touch(Stage::Clock) {
            return 0;
        }
        let rules = self.rules_of(Stage::Clock);
        let here = rules
            .iter()
            .filter(|active| active.rule.node.is_none_or(|node| node == session.node) && active.strikes());
        here.map(|active| match active.rule.effect {
            Effect::ClockSkew(micros) => micros,
            _ => 0,
        })
        .sum()
    }
}

impl Faults {
    fn after_timeout(
        &self,
        after: AfterTimeout,
        active: &ActiveRule,
        error: CqlError,
        mutations: &mut Vec<Mutation>,
    ) -> Result<WriteVerdict, CqlError> {
        match after {
            AfterTimeout::Never => Err(error),
            AfterTimeout::Applied => Ok(WriteVerdict::ApplyAndFail(error)),
            AfterTimeout::Replayed(delay) => {
                self.hold(active, delay, std::mem::take(mutations))?;
                Ok(WriteVerdict::ApplyAndFail(error))
            }
        }
    }

    /// Keeps writes back until their time has come.
    fn hold(&self, active: &ActiveRule, delay: Duration, mutations: Vec<Mutation>) -> Result<(), CqlError> {
        let due = Instant::now() + delay;
        for mutation in mutations {
            if !self.delayed.hold(due, self.next_order(), mutation) {
                return Err(CqlError::new(
                    ErrorKind::Overloaded,
                    format!(
                        "Fault rule {} holds back {} writes already",
                        active.id,
                        super::delayed::MAX_DELAYED_WRITES
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// The client's answer, if the rule strikes the write.
fn timed_out(active: &ActiveRule, write: &WriteContext<'_>, mutations: &[Mutation]) -> Option<CqlError> {
    let mut base = mutations.iter().filter(|mutation| !is_log(&mutation.table));
    let hit = base.find(|mutation| applies(&active.rule, mutation))?;
    active.strikes().then(|| timeout(write, &hit.table, mutations))
}

/// Takes the log mutations that the rule strikes out of a write.
fn taken_log_mutations(active: &ActiveRule, mutations: &mut Vec<Mutation>) -> Vec<Mutation> {
    let struck = |mutation: &mut Mutation| {
        is_log(&mutation.table) && applies(&active.rule, mutation) && active.strikes()
    };
    mutations.extract_if(.., struck).collect()
}

/// The log mutations that the rule strikes.
fn log_mutations<'a>(
    active: &'a ActiveRule,
    mutations: &'a mut [Mutation],
) -> impl Iterator<Item = &'a mut Mutation> {
    mutations
        .iter_mut()
        .filter(|mutation| is_log(&mutation.table) && applies(&active.rule, mutation) && active.strikes())
}

fn is_log(table: &TableSchema) -> bool {
    table.cdc_log_of.is_some()
}

fn applies(rule: &Rule, mutation: &Mutation) -> bool {
    let table = &mutation.table;
    let of_table = rule.table.as_ref().is_none_or(|pattern| {
        let named = |name: &str| pattern.is(&format!("{}.{name}", table.keyspace));
        named(&table.name) || table.cdc_log_of.as_deref().is_some_and(named)
    });
    of_table
        && rule
            .contains
            .as_ref()
            .is_none_or(|text| contains(mutation, text.as_bytes()))
}

fn contains(mutation: &Mutation, text: &[u8]) -> bool {
    let within = |value: &[u8]| text.is_empty() || value.windows(text.len()).any(|window| window == text);
    let in_row = |row: &RowChange| {
        row.cells.iter().any(|(_, change)| match change {
            CellChange::Atomic(cell) => cell.value.as_deref().is_some_and(within),
            CellChange::Multi { elements, .. } => elements
                .iter()
                .any(|(path, cell)| within(path) || cell.value.as_deref().is_some_and(within)),
            CellChange::CounterDelta { .. } => false,
        })
    };
    within(&mutation.key.serialized)
        || in_row(&mutation.static_row)
        || mutation
            .rows
            .iter()
            .any(|(key, row)| key.values().any(within) || in_row(row))
}

/// Shifts a log record: its cdc$time, and the timestamps of its cells, which are the write's.
fn move_back(mutation: &mut Mutation, micros: i64) {
    change_times(mutation, |time| shift_timeuuid(time, micros));
    for (_, row) in &mut mutation.rows {
        for (_, change) in &mut row.cells {
            match change {
                CellChange::Atomic(cell) => cell.timestamp -= micros,
                CellChange::Multi { tombstone, elements } => {
                    if let Some(tombstone) = tombstone {
                        tombstone.timestamp -= micros;
                    }
                    for (_, cell) in elements {
                        cell.timestamp -= micros;
                    }
                }
                CellChange::CounterDelta { .. } => {}
            }
        }
    }
}

/// Gives a log record another cdc$time of the same microsecond, as a coordinator does that generates it anew.
fn rename_record(mutation: &mut Mutation) {
    let random: u64 = rand::random();
    change_times(mutation, |time| {
        timeuuid_from_micros(micros_of_timeuuid(&time), random)
    });
}

fn change_times(mutation: &mut Mutation, change: impl Fn([u8; 16]) -> [u8; 16]) {
    let table = mutation.table.clone();
    for (key, _) in &mut mutation.rows {
        let changed = {
            let values: Vec<&[u8]> = key.values().collect();
            let Some((time, rest)) = values.split_first() else {
                continue;
            };
            let Ok(time) = <[u8; 16]>::try_from(*time) else {
                continue;
            };
            let time = change(time);
            let mut values: Vec<&[u8]> = vec![&time];
            values.extend(rest);
            ordered::clustering_key(&table, &values)
        };
        *key = changed;
    }
}

/// A version 1 UUID with its time moved back; the low half, which tells records of one microsecond apart, stays.
fn shift_timeuuid(mut uuid: [u8; 16], micros: i64) -> [u8; 16] {
    const VERSION_1: u16 = 0x1000;
    let low = u32::from_be_bytes([uuid[0], uuid[1], uuid[2], uuid[3]]);
    let mid = u16::from_be_bytes([uuid[4], uuid[5]]);
    let high = u16::from_be_bytes([uuid[6], uuid[7]]) & 0x0fff;
    // A UUID counts 100 ns.
    let ticks = u64::from(high) << 48 | u64::from(mid) << 32 | u64::from(low);
    let ticks = ticks.saturating_add_signed(micros.saturating_mul(-10));
    uuid[..4].copy_from_slice(&(ticks as u32).to_be_bytes());
    uuid[4..6].copy_from_slice(&((ticks >> 32) as u16).to_be_bytes());
    uuid[6..8].copy_from_slice(&(((ticks >> 48) as u16 & 0x0fff) | VERSION_1).to_be_bytes());
    uuid
}

/// ScyllaDB's words for a write that too few replicas acknowledged in time.
fn timeout(write: &WriteContext<'_>, table: &TableSchema, mutations: &[Mutation]) -> CqlError {
    let base = mutations
        .iter()
        .filter(|mutation| !is_log(&mutation.table))
        .count();
    let write_type = match (write.conditional, base) {
        (true, _) => "CAS",
        (false, 2..) => "BATCH",
        (false, _) => "SIMPLE",
    };
    CqlError::new(
        ErrorKind::WriteTimeout {
            consistency: write.consistency,
            received: 0,
            required: 1,
            write_type,
        },
        format!(
            "Operation timed out for {}.{} - received only 0 responses from 1 CL={}.",
            table.keyspace,
            table.name,
            consistency_name(write.consistency)
        ),
    )
}

fn consistency_name(code: u16) -> &'static str {
    const NAMES: [&str; 11] = [
        "ANY",
        "ONE",
        "TWO",
        "THREE",
        "QUORUM",
        "ALL",
        "LOCAL_QUORUM",
        "EACH_QUORUM",
        "SERIAL",
        "LOCAL_SERIAL",
        "LOCAL_ONE",
    ];
    NAMES.get(usize::from(code)).copied().unwrap_or("UNKNOWN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeuuid_moves_by_whole_ticks() {
        // 1b4e28ba-2fa1-11d2-883f-0016d3cca427, from RFC 4122's examples of the form.
        let uuid = *uuid::uuid!("1b4e28ba-2fa1-11d2-883f-0016d3cca427").as_bytes();
        let moved = shift_timeuuid(uuid, 1_500_000);
        let ticks = |raw: [u8; 16]| {
            uuid::Uuid::from_bytes(raw)
                .get_timestamp()
                .unwrap()
                .to_gregorian()
                .0
        };
        assert_eq!(ticks(uuid) - ticks(moved), 15_000_000);
        assert_eq!(uuid::Uuid::from_bytes(moved).get_version_num(), 1);
        assert_eq!(moved[8..], uuid[8..]);
        assert_eq!(shift_timeuuid(moved, -1_500_000), uuid);
    }
}
