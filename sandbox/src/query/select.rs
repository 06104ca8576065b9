//! SELECT: plans. `selection` is what is computed of a row, `run` walks storage, `output` collects, `paging`
//! remembers where a page ended.

mod output;
mod paging;
mod run;
mod selection;

use std::sync::Arc;

pub use run::SelectRun;
pub(crate) use selection::serialize_multi;

use super::api::{ColumnSpec, ResultMetadata};
use super::restriction::{self, WherePlan, find_column};
use super::terms::{Expr, Planner, Receiver};
use crate::cql::ast::data::{Ordering, Select, Selection as Written};
use crate::error::CqlError;
use crate::schema::{ColumnId, ColumnKind, TableSchema};
use crate::storage::view::ColumnMap;
use crate::types::CqlType;
use selection::Selection;

#[derive(Debug, Clone)]
pub struct SelectPlan {
    pub table: Arc<TableSchema>,
    pub filter: WherePlan,
    pub metadata: Arc<ResultMetadata>,
    selection: Selection,
    /// Names and types of a JSON row's fields; the result is one text column.
    json: Option<Vec<(String, CqlType)>>,
    distinct: bool,
    group_by: Vec<ColumnId>,
    reversed: bool,
    /// ORDER BY over several partitions: rows are sorted after they were read.
    sort: Option<Vec<(ColumnId, bool)>>,
    limit: Option<Expr>,
    per_partition_limit: Option<Expr>,
    map: ColumnMap,
}

impl SelectPlan {
    /// # Errors
    /// Invalid.
    pub fn new(
        planner: &mut Planner<'_>,
        table: &Arc<TableSchema>,
        select: &Select,
    ) -> Result<Self, CqlError> {
        let mut selection = match &select.selection {
            Written::All => Selection::all(table),
            Written::Selectors(selectors) => Selection::plan(planner, table, selectors)?,
        };
        let restrictions = restriction::resolve(planner, table, &select.filter)?;
        let filter = restriction::plan(table, &restrictions)?;
        if filter.needs_filtering && !select.allow_filtering {
            return Err(CqlError::invalid(
                "Cannot execute this query as it might involve data filtering and thus may have unpredictable \
                 performance. If you want to execute this query despite the performance unpredictability, use \
                 ALLOW FILTERING",
            ));
        }
        let group_by = plan_group_by(table, &filter, &select.group_by)?;
        if selection.is_aggregate() || !group_by.is_empty() {
            selection.collapse_groups();
        }
        check_distinct(table, select, &selection)?;
        let (reversed, sort) = plan_order(table, &filter, &select.order_by)?;
        let receiver = |name: &str| Receiver::new(name, CqlType::Int);
        let per_partition_limit = select.per_partition_limit.as_ref();
        let per_partition_limit = per_partition_limit
            .map(|term| planner.plan(term, &receiver("[per_partition_limit]")))
            .transpose()?;
        let limit = select
            .limit
            .as_ref()
            .map(|term| planner.plan(term, &receiver("[limit]")))
            .transpose()?;
        if per_partition_limit.is_some() && select.distinct {
            return Err(CqlError::invalid(
                "PER PARTITION LIMIT is not allowed with SELECT DISTINCT queries",
            ));
        }
        if per_partition_limit.is_some() && selection.is_aggregate() && group_by.is_empty() {
            return Err(CqlError::invalid(
                "PER PARTITION LIMIT is not allowed with aggregate queries.",
            ));
        }
        let filtered: Vec<_> = filter
            .filters
            .0
            .iter()
            .flat_map(|filter| filter.columns())
            .collect();
        let map = ColumnMap::new(table, |id| selection.uses(id) || filtered.contains(&id));
        let json = select.json.then(|| selection.fields());
        Ok(Self {
            metadata: Arc::new(metadata(table, &selection, select.json)),
            table: table.clone(),
            filter,
            selection,
            json,
            distinct: select.distinct,
            group_by,
            reversed,
            sort,
            limit,
            per_partition_limit,
            map,
        })
    }
}

fn metadata(table: &TableSchema, selection: &Selection, json: bool) -> ResultMetadata {
    let keyspace: Arc<str> = table.keyspace.as_str().into();
    let name: Arc<str> = table.name.as_str().into();
    let fields = if json {
        vec![("[json]".to_owned(), CqlType::Text)]
    } else {
        selection.fields()
    };
    let columns = fields
        .into_iter()
        .map(|(column, ty)| ColumnSpec {
            keyspace: keyspace.clone(),
            table: name.clone(),
            name: column,
            ty,
        })
        .collect();
    ResultMetadata { columns }
}

fn check_distinct(table: &TableSchema, select: &Select, selection: &Selection) -> Result<(), CqlError> {
    if !select.distinct {
        return Ok(());
    }
    for (id, column) in table.columns.iter().enumerate() {
        let allowed = matches!(column.kind, ColumnKind::PartitionKey | ColumnKind::Static);
        if selection.uses(id) && !allowed {
            return Err(CqlError::invalid(format!(
                "SELECT DISTINCT queries must only request partition key columns and/or static columns (not {})",
                column.name
            )));
        }
    }
    let all = matches!(select.selection, Written::All);
    match table
        .partition_key
        .iter()
        .find(|id| !all && !selection.uses(**id))
    {
        Some(missing) => Err(CqlError::invalid(format!(
            "SELECT DISTINCT queries must request all the partition key columns (missing {})",
            table.columns[*missing].name
        ))),
        None => Ok(()),
    }
}

/// GROUP BY takes a beginning of the primary key; columns restricted by equality may be left out.
fn plan_group_by(
    table: &TableSchema,
    filter: &WherePlan,
    names: &[String],
) -> Result<Vec<ColumnId>, CqlError> {
    let mut key = table.partition_key.iter().chain(&table.clustering_key);
    let fixed = |id: &ColumnId| {
        let clustering = table.clustering_key.iter().position(|key| key == id);
        match clustering {
            Some(position) => position < filter.clustering.prefix_len(),
            None => filter.partitions.is_keys(),
        }
    };
    let mut group = Vec::new();
    for name in names {
        let id = find_column(table, name)?;
        if !table.columns[id].kind.is_primary_key() {
            return Err(CqlError::invalid(format!(
                "Group by is currently only supported on the columns of the PRIMARY KEY, got {name}"
            )));
        }
        loop {
            match key.next() {
                Some(next) if *next == id => break group.push(id),
                Some(next) if fixed(next) => {}
                _ => {
                    return Err(CqlError::invalid(
                        "Group by currently only support groups of columns following their declared order in the PRIMARY KEY",
                    ));
                }
            }
        }
    }
    let whole =
        group.iter().filter(|id| table.partition_key.contains(id)).count() == table.partition_key.len();
    if !group.is_empty() && !whole && !filter.partitions.is_keys() {
        return Err(CqlError::invalid(
            "Group by is not supported on only a part of the partition key",
        ));
    }
    Ok(group)
}

type Sort = Option<Vec<(ColumnId, bool)>>;

/// Whether rows come in reverse clustering order, and how rows of several partitions are sorted.
fn plan_order(
    table: &TableSchema,
    filter: &WherePlan,
    order_by: &[Ordering],
) -> Result<(bool, Sort), CqlError> {
    if order_by.is_empty() {
        return Ok((false, None));
    }
    if !filter.partitions.is_keys() {
        return Err(CqlError::invalid(
            "ORDER BY is only supported when the partition key is restricted by an EQ or an IN.",
        ));
    }
    let mut reversed = None;
    let mut sort = Vec::new();
    let mut expected = 0;
    for ordering in order_by {
        let id = find_column(table, &ordering.column)?;
        let Some(position) = table.clustering_key.iter().position(|key| *key == id) else {
            return Err(CqlError::invalid(format!(
                "Order by is currently only supported on the clustered columns of the PRIMARY KEY, got {}",
                ordering.column
            )));
        };
        // Columns fixed by equality may be left out.
        if position != expected && position > filter.clustering.prefix_len().max(expected) {
            return Err(CqlError::invalid(format!(
                "Order by currently only supports the ordering of columns following their declared order in the \
                 PRIMARY KEY (got {})",
                ordering.column
            )));
        }
        expected = position + 1;
        let stored = table.columns[id].kind == ColumnKind::Clustering { descending: true };
        let reverse = ordering.descending != stored;
        if reversed.is_some_and(|before| before != reverse) {
            return Err(CqlError::invalid("Unsupported order by relation"));
        }
        reversed = Some(reverse);
        sort.push((id, ordering.descending));
    }
    let sort = filter.partitions.may_be_several().then_some(sort);
    Ok((reversed.unwrap_or(false), sort))
}
