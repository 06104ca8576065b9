//! What a SELECT computes of each row or group; `builder` plans it.

mod builder;

use bytes::Bytes;

use crate::cql::ast::data::Selector;
use crate::error::CqlError;
use crate::query::api::BindValue;
use crate::query::terms::{Expr, Planner};
use crate::schema::{ColumnId, TableSchema};
use crate::storage::cell::MultiCell;
use crate::storage::ordered;
use crate::storage::view::Slot;
use crate::types::aggregate::{Accumulator, Aggregate};
use crate::types::function::{Function, FunctionContext};
use crate::types::{CqlType, composite};
use builder::Builder;

#[derive(Debug, Clone)]
pub(super) struct Selection {
    pub outputs: Vec<Output>,
    aggregates: Vec<AggregateCall>,
    /// All outputs are columns: rows are copied from storage to the answer.
    pub plain: Option<Vec<ColumnId>>,
    grouped: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Output {
    name: String,
    ty: CqlType,
    node: Node,
}

#[derive(Debug, Clone)]
enum Node {
    Column(ColumnId),
    WriteTime(ColumnId),
    Ttl(ColumnId),
    Call(Box<Function>, Vec<Node>),
    Field(Box<Node>, usize),
    /// A map's value by key, a list's by index, a set's element if it is there.
    Element(Box<Node>, CqlType, Expr),
    Value(Expr),
    /// The result of an aggregate over the group.
    Aggregate(usize),
}

#[derive(Debug, Clone)]
enum AggregateCall {
    Compute(Aggregate, Option<Node>),
    /// What the first row of the group has.
    First(Node),
}

/// The state of all aggregates of one group.
#[derive(Debug, Clone)]
pub(super) struct Group {
    states: Vec<GroupState>,
}

#[derive(Debug, Clone)]
enum GroupState {
    Compute(Accumulator),
    First(Option<Option<Bytes>>),
}

/// What values are computed from.
pub(super) struct RowContext<'a> {
    pub table: &'a TableSchema,
    pub slots: &'a [Slot<'a>],
    pub values: &'a [BindValue],
    pub context: &'a FunctionContext,
    pub now_seconds: i64,
}

impl Selection {
    pub(super) fn all(table: &TableSchema) -> Self {
        let outputs = table.columns.iter().enumerate().map(|(id, column)| Output {
            name: column.name.clone(),
            ty: column.ty.clone(),
            node: Node::Column(id),
        });
        Self {
            outputs: outputs.collect(),
            aggregates: Vec::new(),
            plain: Some((0..table.columns.len()).collect()),
            grouped: false,
        }
    }

    pub(super) fn plan(
        planner: &mut Planner<'_>,
        table: &TableSchema,
        selectors: &[Selector],
    ) -> Result<Self, CqlError> {
        let mut builder = Builder::new(planner, table);
        let mut outputs = Vec::new();
        for selector in selectors {
            let (node, ty) = builder.node(&selector.expression, false)?;
            let name = match &selector.alias {
                Some(alias) => alias.clone(),
                None => builder.name(&selector.expression),
            };
            outputs.push(Output { name, ty, node });
        }
        let aggregates = builder.aggregates;
        let plain = outputs
            .iter()
            .map(|output| match output.node {
                Node::Column(id) => Some(id),
                _ => None,
            })
            .collect();
        Ok(Self {
            outputs,
            aggregates,
            plain,
            grouped: false,
        })
    }

    pub(super) fn is_aggregate(&self) -> bool {
        !self.aggregates.is_empty()
    }

    /// Makes every output that is no aggregate take the first row of its group.
    pub(super) fn collapse_groups(&mut self) {
        self.plain = None;
        self.grouped = true;
        for output in &mut self.outputs {
            if !output.node.has_aggregate() {
                let index = self.aggregates.len();
                let node = std::mem::replace(&mut output.node, Node::Aggregate(index));
                self.aggregates.push(AggregateCall::First(node));
            }
        }
    }

    pub(super) fn is_grouped(&self) -> bool {
        self.grouped
    }

    pub(super) fn fields(&self) -> Vec<(String, CqlType)> {
        self.outputs
            .iter()
            .map(|output| (output.name.clone(), output.ty.clone()))
            .collect()
    }

    pub(super) fn uses(&self, id: ColumnId) -> bool {
        let aggregated = self.aggregates.iter().any(|call| match call {
            AggregateCall::Compute(_, argument) => argument.as_ref().is_some_and(|node| node.uses(id)),
            AggregateCall::First(node) => node.uses(id),
        });
        aggregated || self.outputs.iter().any(|output| output.node.uses(id))
    }

    pub(super) fn start_group(&self) -> Group {
        let start = |call: &AggregateCall| match call {
            AggregateCall::Compute(aggregate, _) => GroupState::Compute(aggregate.start()),
            AggregateCall::First(_) => GroupState::First(None),
        };
        Group {
            states: self.aggregates.iter().map(start).collect(),
        }
    }

    pub(super) fn add_row(&self, group: &mut Group, row: &RowContext<'_>) -> Result<(), CqlError> {
        for (call, state) in self.aggregates.iter().zip(&mut group.states) {
            match (call, state) {
                (AggregateCall::Compute(_, None), GroupState::Compute(accumulator)) => {
                    accumulator.add(Some(&[]))?;
                }
                (AggregateCall::Compute(_, Some(node)), GroupState::Compute(accumulator)) => {
                    accumulator.add(node.value(row, &[])?.as_deref())?;
                }
                (AggregateCall::First(node), GroupState::First(first @ None)) => {
                    *first = Some(node.value(row, &[])?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The row of a group.
    pub(super) fn finish_group(
        &self,
        group: Group,
        row: &RowContext<'_>,
    ) -> Result<Vec<Option<Bytes>>, CqlError> {
        let results: Vec<_> = group
            .states
            .into_iter()
            .map(|state| match state {
                GroupState::Compute(accumulator) => accumulator.finish(),
                GroupState::First(first) => first.flatten(),
            })
            .collect();
        self.outputs
            .iter()
            .map(|output| output.node.value(row, &results))
            .collect()
    }

    pub(super) fn row(&self, row: &RowContext<'_>) -> Result<Vec<Option<Bytes>>, CqlError> {
        self.outputs
            .iter()
            .map(|output| output.node.value(row, &[]))
            .collect()
    }
}

impl Node {
    fn has_aggregate(&self) -> bool {
        match self {
            Node::Aggregate(_) => true,
            Node::Call(_, arguments) => arguments.iter().any(Node::has_aggregate),
            Node::Field(of, _) | Node::Element(of, ..) => of.has_aggregate(),
            _ => false,
        }
    }

    fn uses(&self, id: ColumnId) -> bool {
        match self {
            Node::Column(column) | Node::WriteTime(column) | Node::Ttl(column) => *column == id,
            Node::Call(_, arguments) => arguments.iter().any(|node| node.uses(id)),
            Node::Field(of, _) | Node::Element(of, ..) => of.uses(id),
            Node::Value(_) | Node::Aggregate(_) => false,
        }
    }

    fn value(&self, row: &RowContext<'_>, aggregates: &[Option<Bytes>]) -> Result<Option<Bytes>, CqlError> {
        Ok(match self {
            Node::Column(id) => slot_value(&row.slots[*id], &row.table.columns[*id].ty, row.now_seconds),
            Node::WriteTime(id) => match row.slots[*id] {
                Slot::Atomic { timestamp, .. } => Some(Bytes::copy_from_slice(&timestamp.to_be_bytes())),
                _ => None,
            },
            Node::Ttl(id) => match row.slots[*id] {
                Slot::Atomic {
                    expiry: Some(expiry), ..
                } => {
                    let left = (expiry.at - row.now_seconds).max(0) as i32;
                    Some(Bytes::copy_from_slice(&left.to_be_bytes()))
                }
                _ => None,
            },
            Node::Call(function, arguments) => {
                let arguments: Result<Vec<_>, _> =
                    arguments.iter().map(|node| node.value(row, aggregates)).collect();
                function.call(row.context, &arguments?)?
            }
            Node::Field(of, index) => of.value(row, aggregates)?.and_then(|whole| {
                let fields = composite::split_tuple(&whole, usize::MAX).ok()?;
                fields
                    .get(*index)
                    .copied()
                    .flatten()
                    .map(|field| whole.slice_ref(field))
            }),
            Node::Element(of, ty, key) => {
                let (Some(whole), BindValue::Value(key)) =
                    (of.value(row, aggregates)?, key.evaluate(row.values, row.context)?)
                else {
                    return Ok(None);
                };
                element(&whole, ty, &key)
            }
            Node::Value(expr) => match expr.evaluate(row.values, row.context)? {
                BindValue::Value(value) => Some(value),
                BindValue::Null | BindValue::Unset => None,
            },
            Node::Aggregate(index) => aggregates.get(*index).cloned().flatten(),
        })
    }
}

/// The serialized value of a slot.
pub(super) fn slot_value(slot: &Slot<'_>, ty: &CqlType, now_seconds: i64) -> Option<Bytes> {
    match slot {
        Slot::Absent => None,
        Slot::Key(value) | Slot::Atomic { value, .. } => Some(Bytes::copy_from_slice(value)),
        Slot::Multi(multi) => Some(serialize_multi(multi, ty, now_seconds)),
    }
}

/// A non-frozen collection or UDT as one value.
pub(crate) fn serialize_multi(multi: &MultiCell, ty: &CqlType, now_seconds: i64) -> Bytes {
    match ty {
        CqlType::Map { .. } => {
            let entries: Vec<_> = multi
                .live(now_seconds)
                .map(|(key, _, value)| (key, value))
                .collect();
            composite::join_map(&entries)
        }
        CqlType::Set { .. } => {
            let items: Vec<_> = multi.live(now_seconds).map(|(path, ..)| path).collect();
            composite::join_list(&items)
        }
        CqlType::Udt { definition, .. } => {
            let mut fields: Vec<Option<&Bytes>> = vec![None; definition.fields.len()];
            for (path, _, value) in multi.live(now_seconds) {
                let index = path[..].try_into().map_or(-1, i16::from_be_bytes);
                if let Some(field) = usize::try_from(index)
                    .ok()
                    .and_then(|index| fields.get_mut(index))
                {
                    *field = Some(value);
                }
            }
            composite::join_tuple(&fields)
        }
        _ => {
            let items: Vec<_> = multi.live(now_seconds).map(|(_, _, value)| value).collect();
            composite::join_list(&items)
        }
    }
}

fn element(whole: &Bytes, ty: &CqlType, key: &Bytes) -> Option<Bytes> {
    let found = match ty {
        CqlType::Map { key: key_type, .. } => {
            let entries = composite::split_map(whole).ok()?;
            entries
                .into_iter()
                .find(|(have, _)| ordered::compare(key_type, have, key).is_eq())?
                .1
        }
        CqlType::Set { element, .. } => {
            let items = composite::split_list(whole).ok()?;
            items
                .into_iter()
                .find(|have| ordered::compare(element, have, key).is_eq())?
        }
        _ => {
            let index = i32::from_be_bytes(key[..].try_into().ok()?);
            *composite::split_list(whole)
                .ok()?
                .get(usize::try_from(index).ok()?)?
        }
    };
    Some(whole.slice_ref(found))
}
