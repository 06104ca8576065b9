//! What a SELECT computes of each row or group.

use bytes::Bytes;

use crate::cql::ast::QualifiedName;
use crate::cql::ast::data::{SelectExpr, Selector};
use crate::cql::ast::term::Term;
use crate::error::CqlError;
use crate::query::api::BindValue;
use crate::query::restriction::find_column;
use crate::query::terms::{Expr, Planner, Receiver};
use crate::schema::type_name::{resolve_type, type_name};
use crate::schema::{ColumnId, TableSchema};
use crate::storage::cell::MultiCell;
use crate::storage::ordered;
use crate::storage::view::Slot;
use crate::types::aggregate::{self, Accumulator, Aggregate};
use crate::types::function::{self, Argument, Function, FunctionContext};
use crate::types::{CqlType, composite, constant};

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
        let mut builder = Builder {
            planner,
            table,
            aggregates: Vec::new(),
        };
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

struct Builder<'a, 'p> {
    planner: &'a mut Planner<'p>,
    table: &'a TableSchema,
    aggregates: Vec<AggregateCall>,
}

impl Builder<'_, '_> {
    fn node(&mut self, expr: &SelectExpr, in_aggregate: bool) -> Result<(Node, CqlType), CqlError> {
        Ok(match expr {
            SelectExpr::Column(name) => {
                let id = find_column(self.table, name)?;
                (Node::Column(id), self.table.columns[id].ty.clone())
            }
            SelectExpr::CountRows => {
                self.aggregates
                    .push(AggregateCall::Compute(Aggregate::count_rows(), None));
                (Node::Aggregate(self.aggregates.len() - 1), CqlType::Bigint)
            }
            SelectExpr::WriteTime(of) => (Node::WriteTime(self.cell(of, "writetime")?), CqlType::Bigint),
            SelectExpr::Ttl(of) => (Node::Ttl(self.cell(of, "ttl")?), CqlType::Int),
            SelectExpr::Cast { expression, ty } => {
                let (node, from) = self.node(expression, in_aggregate)?;
                let to = resolve_type(self.planner.catalog, &self.table.keyspace, ty)?;
                let function = Function::cast(&from, &to)?;
                (Node::Call(Box::new(function), vec![node]), to)
            }
            SelectExpr::Field { of, field } => {
                let (node, ty) = self.node(of, in_aggregate)?;
                let CqlType::Udt { definition, .. } = &ty else {
                    return Err(CqlError::invalid(format!(
                        "Invalid field selection: {} is not a user type",
                        self.name(of)
                    )));
                };
                let index = definition
                    .fields
                    .iter()
                    .position(|(name, _)| name == field)
                    .ok_or_else(|| {
                        CqlError::invalid(format!(
                            "{} of type {} has no field {field}",
                            self.name(of),
                            type_name(&ty)
                        ))
                    })?;
                (
                    Node::Field(Box::new(node), index),
                    definition.fields[index].1.clone(),
                )
            }
            SelectExpr::Element { of, key } => self.element(of, key, in_aggregate)?,
            SelectExpr::Call { function, arguments } => self.call(function, arguments, in_aggregate)?,
            SelectExpr::Term(term) => self.term(term)?,
        })
    }

    /// The column that writetime and ttl look at.
    fn cell(&self, of: &SelectExpr, function: &str) -> Result<ColumnId, CqlError> {
        let SelectExpr::Column(name) = of else {
            return Err(CqlError::invalid(format!(
                "{function} is supported on columns only"
            )));
        };
        let id = find_column(self.table, name)?;
        let column = &self.table.columns[id];
        if column.kind.is_primary_key() {
            return Err(CqlError::invalid(format!(
                "Cannot use selection function {function} on PRIMARY KEY part {name}"
            )));
        }
        if column.ty.is_multi_cell() {
            return Err(CqlError::invalid(format!(
                "Cannot use selection function {function} on collections"
            )));
        }
        Ok(id)
    }

    fn element(
        &mut self,
        of: &SelectExpr,
        key: &Term,
        in_aggregate: bool,
    ) -> Result<(Node, CqlType), CqlError> {
        let (node, ty) = self.node(of, in_aggregate)?;
        let (key_type, value) = match &ty {
            CqlType::Map { key, value, .. } => (CqlType::clone(key), CqlType::clone(value)),
            CqlType::Set { element, .. } => (CqlType::clone(element), CqlType::clone(element)),
            CqlType::List { element, .. } => (CqlType::Int, CqlType::clone(element)),
            _ => {
                return Err(CqlError::invalid(format!(
                    "Invalid element selection: {} is of type {} is not a collection",
                    self.name(of),
                    type_name(&ty)
                )));
            }
        };
        let key = self
            .planner
            .plan(key, &Receiver::new(format!("key({})", self.name(of)), key_type))?;
        Ok((Node::Element(Box::new(node), ty, key), value))
    }

    fn call(
        &mut self,
        name: &QualifiedName,
        arguments: &[SelectExpr],
        in_aggregate: bool,
    ) -> Result<(Node, CqlType), CqlError> {
        let is_aggregate = matches!(name.name.as_str(), "count" | "min" | "max" | "sum" | "avg");
        if let ([argument], true) = (arguments, is_aggregate) {
            if in_aggregate {
                return Err(CqlError::invalid(
                    "aggregate functions cannot be used as arguments of aggregate functions",
                ));
            }
            let (node, ty) = self.node(argument, true)?;
            if let Some(aggregate) = aggregate::resolve(name, &ty) {
                let aggregate = aggregate?;
                let returns = aggregate.returns.clone();
                self.aggregates
                    .push(AggregateCall::Compute(aggregate, Some(node)));
                return Ok((Node::Aggregate(self.aggregates.len() - 1), returns));
            }
        }
        // Literals and markers take the type that the function asks for, so they are planned after it.
        let mut planned = Vec::new();
        for argument in arguments {
            planned.push(match argument {
                SelectExpr::Term(Term::Literal(_) | Term::Marker(_) | Term::Null) => None,
                other => Some(self.node(other, in_aggregate)?),
            });
        }
        let function = self.resolve(name, arguments, &planned)?;
        let mut nodes = Vec::new();
        for ((argument, node), ty) in arguments.iter().zip(planned).zip(&function.arguments) {
            nodes.push(match (node, argument) {
                (Some((node, _)), _) => node,
                (None, SelectExpr::Term(term)) => {
                    let receiver = Receiver::new(format!("arg({})", function.name), ty.clone());
                    Node::Value(self.planner.plan(term, &receiver)?)
                }
                (None, _) => return Err(CqlError::server("an argument without a plan")),
            });
        }
        let returns = function.returns.clone();
        Ok((Node::Call(Box::new(function), nodes), returns))
    }

    fn resolve(
        &self,
        name: &QualifiedName,
        arguments: &[SelectExpr],
        planned: &[Option<(Node, CqlType)>],
    ) -> Result<Function, CqlError> {
        let fits: Vec<_> = arguments
            .iter()
            .map(|argument| {
                move |ty: &CqlType| match argument {
                    SelectExpr::Term(Term::Literal(literal)) => constant::is_assignable(literal.kind, ty),
                    _ => true,
                }
            })
            .collect();
        let candidates: Vec<_> = planned
            .iter()
            .zip(&fits)
            .zip(arguments)
            .map(|((planned, fits), argument)| match (planned, argument) {
                (Some((_, ty)), _) => Argument::Typed(ty),
                (None, SelectExpr::Term(Term::Literal(_))) => Argument::Fits(fits),
                (None, _) => Argument::Any,
            })
            .collect();
        function::resolve(name, &candidates, Some(self.table), None)
            .unwrap_or_else(|| Err(CqlError::invalid(format!("Unknown function '{}'", name.name))))
    }

    /// A value that no column is part of: it needs a type of its own.
    fn term(&mut self, term: &Term) -> Result<(Node, CqlType), CqlError> {
        match term {
            Term::Hint { ty, term } => {
                let ty = resolve_type(self.planner.catalog, &self.table.keyspace, ty)?;
                let expr = self
                    .planner
                    .plan(term, &Receiver::new("[selection]", ty.clone()))?;
                Ok((Node::Value(expr), ty))
            }
            Term::Call { function, arguments } => {
                let returns = self.planner.resolve_call(function, arguments, None)?.returns;
                let expr = self
                    .planner
                    .plan(term, &Receiver::new("[selection]", returns.clone()))?;
                Ok((Node::Value(expr), returns))
            }
            _ => Err(CqlError::invalid(
                "Cannot infer type for term in selection clause (try using a cast to force a type)",
            )),
        }
    }

    /// The name of a result column, as Cassandra makes it.
    fn name(&self, expr: &SelectExpr) -> String {
        match expr {
            SelectExpr::Column(name) => name.clone(),
            SelectExpr::CountRows => "count".to_owned(),
            SelectExpr::WriteTime(of) => format!("writetime({})", self.name(of)),
            SelectExpr::Ttl(of) => format!("ttl({})", self.name(of)),
            SelectExpr::Cast { expression, ty } => {
                let ty = resolve_type(self.planner.catalog, &self.table.keyspace, ty);
                format!(
                    "cast({} as {})",
                    self.name(expression),
                    ty.map_or_else(|_| String::new(), |ty| type_name(&ty))
                )
            }
            SelectExpr::Field { of, field } => format!("{}.{field}", self.name(of)),
            SelectExpr::Element { of, key } => format!("{}[{}]", self.name(of), term_name(key)),
            SelectExpr::Call { function, arguments } => {
                let arguments: Vec<_> = arguments.iter().map(|argument| self.name(argument)).collect();
                let keyspace = function.keyspace.as_deref().unwrap_or("system");
                format!("{keyspace}.{}({})", function.name, arguments.join(", "))
            }
            SelectExpr::Term(term) => term_name(term),
        }
    }
}

fn term_name(term: &Term) -> String {
    match term {
        Term::Literal(literal) if literal.kind == crate::cql::ast::term::LiteralKind::String => {
            format!("'{}'", literal.text)
        }
        Term::Literal(literal) => literal.text.clone(),
        Term::Marker(_) => "?".to_owned(),
        Term::Hint { term, .. } => term_name(term),
        Term::Call { function, arguments } => {
            let arguments: Vec<_> = arguments.iter().map(term_name).collect();
            format!("system.{}({})", function.name, arguments.join(", "))
        }
        _ => "term".to_owned(),
    }
}
