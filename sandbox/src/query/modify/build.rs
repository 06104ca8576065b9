//! Plans and bound values to mutations.

use std::borrow::Cow;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;

use super::{ModifyKind, ModifyPlan, is_static};
use crate::cdc::timestamps::timeuuid_from_micros;
use crate::error::CqlError;
use crate::query::api::BindValue;
use crate::query::hooks::{CurrentRows, CurrentValue};
use crate::query::restriction::Partitions;
use crate::query::terms::Expr;
use crate::schema::ddl::MAX_TTL;
use crate::schema::{ColumnId, TableSchema};
use crate::storage::mutation::{
    Cell, ClusteringKey, Expiry, Liveness, Mutation, PartitionKey, RangeTombstone, Timestamp, Tombstone,
};
use crate::types::function::FunctionContext;
use crate::types::json;

/// When a write happens.
#[derive(Debug, Clone, Copy)]
pub struct WriteTime {
    /// The timestamp of statements that give none, µs.
    pub timestamp: Timestamp,
    /// The coordinator's clock, µs.
    pub now_micros: i64,
}

/// How one statement writes one column of one row.
pub(super) struct ColumnWrite<'a> {
    pub values: &'a [BindValue],
    pub context: &'a FunctionContext,
    pub timestamp: Timestamp,
    pub expiry: Option<Expiry>,
    pub now_micros: i64,
    current: Option<CurrentCell<'a>>,
}

/// Where the list that an operation reads stands.
#[derive(Clone, Copy)]
struct CurrentCell<'a> {
    rows: &'a dyn CurrentRows,
    table: &'a TableSchema,
    key: &'a PartitionKey,
    clustering: Option<&'a ClusteringKey>,
    column: ColumnId,
}

/// ScyllaDB's `restrict_future_timestamp`: 3 days, in µs.
const MAX_AHEAD_MICROS: i64 = 3 * 24 * 3600 * 1_000_000;

impl ModifyPlan {
    /// The values that the plan's expressions take: the bound ones, and those of a JSON document behind them.
    ///
    /// # Errors
    /// Invalid: a document that is no JSON object, or has unknown columns or values of other types.
    pub fn complete<'a>(
        &self,
        values: &'a [BindValue],
        context: &FunctionContext,
    ) -> Result<Cow<'a, [BindValue]>, CqlError> {
        let Some((document, default_unset)) = &self.json else {
            return Ok(Cow::Borrowed(values));
        };
        let BindValue::Value(text) = document.evaluate(values, context)? else {
            return Err(CqlError::invalid("Got null for INSERT JSON values"));
        };
        let text = std::str::from_utf8(&text).map_err(|_| CqlError::invalid("String didn't validate."))?;
        let absent = if *default_unset {
            BindValue::Unset
        } else {
            BindValue::Null
        };
        let mut columns = vec![absent; self.table.columns.len()];
        for (name, value) in json::parse_row(text)? {
            let id = self.table.column_id(&name).ok_or_else(|| {
                CqlError::invalid(format!("JSON values map contains unrecognized column: {name}"))
            })?;
            columns[id] = match json::from_json(&self.table.columns[id].ty, &value)? {
                Some(value) => BindValue::Value(value),
                None => BindValue::Null,
            };
        }
        Ok(Cow::Owned([values, &columns[..]].concat()))
    }

    /// Adds what the statement changes to `mutations`: one per partition, merged with those already there.
    ///
    /// # Errors
    /// Invalid: keys, TTL or timestamp that are not allowed, list elements that do not exist.
    pub fn mutate(
        &self,
        values: &[BindValue],
        time: WriteTime,
        rows: &dyn CurrentRows,
        mutations: &mut Vec<Mutation>,
    ) -> Result<(), CqlError> {
        let context = FunctionContext {
            now_micros: time.now_micros,
        };
        let mut write = ColumnWrite {
            values,
            context: &context,
            timestamp: self.timestamp(values, &context, time)?,
            expiry: self.expiry(values, &context, time.now_micros)?,
            now_micros: time.now_micros,
            current: None,
        };
        let Partitions::Keys(keys) = self.partitions.evaluate(&self.table, values, &context)? else {
            return Err(CqlError::server("a write names its partitions"));
        };
        for key in keys {
            let mutation = mutation_of(mutations, self, key);
            if self.kind == ModifyKind::Delete && self.operations.is_empty() {
                self.delete_rows(&write, mutation)?;
            } else {
                self.write_columns(&mut write, rows, mutation)?;
            }
        }
        Ok(())
    }

    fn write_columns<'a>(
        &'a self,
        write: &mut ColumnWrite<'a>,
        rows: &'a dyn CurrentRows,
        mutation: &mut Mutation,
    ) -> Result<(), CqlError> {
        let table = &self.table;
        let partition = mutation.key.clone();
        for (id, operation) in self.operations.iter().filter(|(id, _)| is_static(table, *id)) {
            let column = &table.columns[*id];
            let change = with_current(write, rows, table, &partition, None, *id, |write| {
                operation.apply(column, write)
            })?;
            if let Some(change) = change {
                mutation.static_row.add(*id, change, &column.ty);
            }
        }
        if !self.clustering.is_full() || self.only_static() && self.kind != ModifyKind::Insert {
            return Ok(());
        }
        for key in self.clustering.keys(table, write.values, write.context)? {
            check_clustering_size(&key)?;
            for (id, operation) in self.operations.iter().filter(|(id, _)| !is_static(table, *id)) {
                let column = &table.columns[*id];
                let change = with_current(write, rows, table, &partition, Some(&key), *id, |write| {
                    operation.apply(column, write)
                })?;
                if let Some(change) = change {
                    mutation.row_mut(key.clone()).add(*id, change, &column.ty);
                }
            }
            if self.kind == ModifyKind::Insert {
                let marker = Liveness {
                    timestamp: write.timestamp,
                    expiry: write.expiry,
                };
                let row = mutation.row_mut(key);
                if row.marker.is_none_or(|have| marker.wins_over(&have)) {
                    row.marker = Some(marker);
                }
            }
        }
        Ok(())
    }

    fn delete_rows(&self, write: &ColumnWrite<'_>, mutation: &mut Mutation) -> Result<(), CqlError> {
        let tombstone = write.tombstone(write.timestamp);
        if !self.clustering.is_restricted() {
            mutation.delete_partition(tombstone);
            return Ok(());
        }
        if self.clustering.is_full() {
            for key in self.clustering.keys(&self.table, write.values, write.context)? {
                mutation.row_mut(key).delete(tombstone);
            }
            return Ok(());
        }
        for (start, end) in self.clustering.bounds(&self.table, write.values, write.context)? {
            let range = RangeTombstone {
                start,
                end,
                tombstone,
            };
            if !range.bytes().is_empty() {
                mutation.range_tombstones.push(range);
            }
        }
        Ok(())
    }

    fn timestamp(
        &self,
        values: &[BindValue],
        context: &FunctionContext,
        time: WriteTime,
    ) -> Result<Timestamp, CqlError> {
        let Some(expr) = &self.timestamp else {
            return Ok(time.timestamp);
        };
        match expr.evaluate(values, context)? {
            BindValue::Unset => Ok(time.timestamp),
            BindValue::Null => Err(CqlError::invalid("Invalid null value of timestamp")),
            BindValue::Value(value) => {
                let timestamp = value[..]
                    .try_into()
                    .map(i64::from_be_bytes)
                    .map_err(|_| CqlError::invalid("Invalid timestamp value"))?;
                check_timestamp(timestamp, time.now_micros)?;
                Ok(timestamp)
            }
        }
    }

    fn expiry(
        &self,
        values: &[BindValue],
        context: &FunctionContext,
        now_micros: i64,
    ) -> Result<Option<Expiry>, CqlError> {
        let given = match &self.ttl {
            None => None,
            Some(expr) => match expr.evaluate(values, context)? {
                BindValue::Unset => None,
                BindValue::Null => Some(0),
                BindValue::Value(value) => Some(
                    value[..]
                        .try_into()
                        .map(i32::from_be_bytes)
                        .map_err(|_| CqlError::invalid("Invalid TTL value"))?,
                ),
            },
        };
        let ttl = given.unwrap_or(self.table.default_time_to_live);
        if ttl < 0 {
            return Err(CqlError::invalid(format!(
                "A TTL must be greater or equal to 0, but was {ttl}"
            )));
        }
        if ttl > MAX_TTL {
            return Err(CqlError::invalid(format!(
                "ttl is too large. requested ({ttl}) maximum ({MAX_TTL})"
            )));
        }
        Ok((ttl > 0).then(|| Expiry {
            ttl,
            at: now_micros.div_euclid(1_000_000) + i64::from(ttl),
        }))
    }
}

impl ColumnWrite<'_> {
    pub(super) fn value(&self, expr: &Expr) -> Result<BindValue, CqlError> {
        expr.evaluate(self.values, self.context)
    }

    pub(super) fn cell(&self, value: &[u8]) -> Cell {
        Cell {
            timestamp: self.timestamp,
            value: Some(Bytes::copy_from_slice(value)),
            expiry: self.expiry,
        }
    }

    /// A cell over a value that is already on its own or copied when it is stored.
    pub(super) fn shared_cell(&self, value: Bytes) -> Cell {
        Cell {
            timestamp: self.timestamp,
            value: Some(value),
            expiry: self.expiry,
        }
    }

    pub(super) fn dead(&self) -> Cell {
        Cell {
            timestamp: self.timestamp,
            value: None,
            expiry: None,
        }
    }

    pub(super) fn tombstone(&self, timestamp: Timestamp) -> Tombstone {
        Tombstone {
            timestamp,
            deletion_time: self.now_micros.div_euclid(1_000_000),
        }
    }

    /// The list as it is before the write: path and value of each element.
    pub(super) fn current_list(&self) -> Result<Vec<(Bytes, Bytes)>, CqlError> {
        let Some(current) = &self.current else {
            return Err(CqlError::server("no current row to read a list from"));
        };
        let row = current.rows.row(current.table, current.key, current.clustering);
        let cells = row.map(|row| row.cells).unwrap_or_default();
        let found = cells.into_iter().find(|(id, _)| *id == current.column);
        Ok(match found {
            Some((_, CurrentValue::Multi(elements))) => elements,
            _ => Vec::new(),
        })
    }
}

/// A path for a new list element: a timeuuid that rises with every call (falls, for elements put in front).
pub(super) fn list_path(now_micros: i64, front: bool) -> Bytes {
    /// The last tick (µs) that was given out.
    static LAST: AtomicI64 = AtomicI64::new(0);
    let next = |last: i64| Some(now_micros.max(last + 1));
    let last = LAST
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        .unwrap_or(now_micros);
    let micros = now_micros.max(last + 1);
    // Elements put in front mirror time at 2010-01-01: the later, the smaller.
    let micros = if front {
        2 * 1_262_304_000_000_000 - micros
    } else {
        micros
    };
    Bytes::copy_from_slice(&timeuuid_from_micros(micros, rand::random()))
}

/// # Errors
/// Invalid: too far in the future.
pub(crate) fn check_timestamp(timestamp: Timestamp, now_micros: i64) -> Result<(), CqlError> {
    if timestamp > now_micros.saturating_add(MAX_AHEAD_MICROS) {
        return Err(CqlError::invalid(format!(
            "Cannot provide a timestamp more than 3 days into the future. If this was not intended, make sure \
             the timestamp is in microseconds: {timestamp}"
        )));
    }
    if timestamp == i64::MIN {
        return Err(CqlError::invalid(format!(
            "Out of bound timestamp, must be in [{}, {}]",
            i64::MIN + 1,
            i64::MAX
        )));
    }
    Ok(())
}

fn with_current<'a, R>(
    write: &mut ColumnWrite<'a>,
    rows: &dyn CurrentRows,
    table: &TableSchema,
    key: &PartitionKey,
    clustering: Option<&ClusteringKey>,
    column: ColumnId,
    run: impl FnOnce(&ColumnWrite<'_>) -> R,
) -> R {
    run(&ColumnWrite {
        values: write.values,
        context: write.context,
        timestamp: write.timestamp,
        expiry: write.expiry,
        now_micros: write.now_micros,
        current: Some(CurrentCell {
            rows,
            table,
            key,
            clustering,
            column,
        }),
    })
}

fn mutation_of<'a>(
    mutations: &'a mut Vec<Mutation>,
    plan: &ModifyPlan,
    key: PartitionKey,
) -> &'a mut Mutation {
    let found = mutations
        .iter()
        .rposition(|have| have.key == key && have.table.id == plan.table.id);
    let position = found.unwrap_or_else(|| {
        mutations.push(Mutation::new(plan.table.clone(), key));
        mutations.len() - 1
    });
    &mut mutations[position]
}

fn check_clustering_size(key: &ClusteringKey) -> Result<(), CqlError> {
    let limit = usize::from(u16::MAX);
    match key.values().find(|value| value.len() > limit) {
        Some(value) => Err(CqlError::invalid(format!(
            "Key length of {} is longer than maximum of {limit}",
            value.len()
        ))),
        None => Ok(()),
    }
}
