//! Planning what a SELECT computes: names looked up, functions resolved, types settled.

use super::{AggregateCall, Node};
use crate::cql::ast::QualifiedName;
use crate::cql::ast::data::SelectExpr;
use crate::cql::ast::term::Term;
use crate::error::CqlError;
use crate::query::restriction::find_column;
use crate::query::terms::{Planner, Receiver};
use crate::schema::type_name::{resolve_type, type_name};
use crate::schema::{ColumnId, TableSchema};
use crate::types::aggregate::{self, Aggregate};
use crate::types::function::{self, Argument, Function};
use crate::types::{CqlType, constant};

/// Plans the expressions of one SELECT and collects its aggregates.
pub(super) struct Builder<'a, 'p> {
    planner: &'a mut Planner<'p>,
    table: &'a TableSchema,
    pub(super) aggregates: Vec<AggregateCall>,
}

impl<'a, 'p> Builder<'a, 'p> {
    pub(super) fn new(planner: &'a mut Planner<'p>, table: &'a TableSchema) -> Self {
        Self {
            planner,
            table,
            aggregates: Vec::new(),
        }
    }

    /// The node of an expression and its type.
    pub(super) fn node(
        &mut self,
        expr: &SelectExpr,
        in_aggregate: bool,
    ) -> Result<(Node, CqlType), CqlError> {
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
    pub(super) fn name(&self, expr: &SelectExpr) -> String {
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
