//! Values of a statement: written terms, planned against the type of the place they stand in, to expressions
//! that bound values complete.

mod expr;

use std::sync::Arc;

use super::api::{BindValue, ColumnSpec, Values};
use crate::cql::ast::QualifiedName;
use crate::cql::ast::term::Term;
use crate::error::CqlError;
use crate::schema::type_name::{resolve_type, type_name};
use crate::schema::{Catalog, TableSchema};
use crate::types::function::{self, Argument, Function};
use crate::types::{CqlType, constant, validate};
pub use expr::Expr;

/// The place that a value goes to: name and type, as bind metadata shows them.
#[derive(Debug, Clone)]
pub struct Receiver {
    pub name: String,
    pub ty: CqlType,
}

impl Receiver {
    pub fn new(name: impl Into<String>, ty: CqlType) -> Self {
        Self {
            name: name.into(),
            ty,
        }
    }
}

/// Plans the terms of one statement and collects its bind markers.
pub struct Planner<'a> {
    pub catalog: &'a Catalog,
    pub table: &'a TableSchema,
    keyspace_name: Arc<str>,
    table_name: Arc<str>,
    /// By marker index.
    pub binds: Vec<Option<ColumnSpec>>,
}

impl<'a> Planner<'a> {
    pub fn new(catalog: &'a Catalog, table: &'a TableSchema, markers: usize) -> Self {
        Self {
            catalog,
            table,
            keyspace_name: table.keyspace.as_str().into(),
            table_name: table.name.as_str().into(),
            binds: vec![None; markers],
        }
    }

    /// Plans a term for its receiver.
    ///
    /// # Errors
    /// Invalid: a literal of another type, an unknown function, ...
    pub fn plan(&mut self, term: &Term, receiver: &Receiver) -> Result<Expr, CqlError> {
        match (term, &receiver.ty) {
            (Term::Null, _) => Ok(Expr::Constant(None)),
            (Term::Literal(literal), ty) => {
                if !constant::is_assignable(literal.kind, ty) {
                    return Err(constant::mismatch(literal, &receiver.name, ty));
                }
                constant::value_of(literal, ty).map(|value| Expr::Constant(Some(value)))
            }
            (Term::Marker(marker), _) => {
                let name = marker.name.as_ref().unwrap_or(&receiver.name);
                self.bind(marker.index, name, &receiver.ty);
                Ok(Expr::Marker(marker.index))
            }
            (Term::List(items), CqlType::List { element, .. }) => {
                let inner = Receiver::new(format!("value({})", receiver.name), CqlType::clone(element));
                Ok(Expr::List(self.plan_all(items, &inner)?).folded())
            }
            (Term::List(items), CqlType::Vector { element, dimensions }) => {
                if items.len() != usize::from(*dimensions) {
                    return Err(invalid_literal(
                        receiver,
                        &format!("expected {dimensions} elements, got {}", items.len()),
                    ));
                }
                let inner = Receiver::new(format!("value({})", receiver.name), CqlType::clone(element));
                Ok(Expr::Vector(self.plan_all(items, &inner)?).folded())
            }
            (Term::Set(items), CqlType::Set { element, .. }) => {
                let inner = Receiver::new(format!("value({})", receiver.name), CqlType::clone(element));
                let items = self.plan_all(items, &inner)?;
                Ok(Expr::Set(inner.ty, items).folded())
            }
            (Term::Set(items), CqlType::Map { key, .. }) if items.is_empty() => {
                Ok(Expr::Map(CqlType::clone(key), Vec::new()).folded())
            }
            (Term::Set(items), CqlType::Udt { .. }) if items.is_empty() => {
                Ok(Expr::Tuple(Vec::new()).folded())
            }
            (Term::Map(entries), CqlType::Map { key, value, .. }) => {
                self.plan_map(entries, key, value, receiver)
            }
            (Term::Tuple(items), CqlType::Tuple(types)) => self.plan_tuple(items, types, receiver),
            (Term::Udt(fields), CqlType::Udt { definition, .. }) => {
                self.plan_udt(fields, &definition.fields, receiver)
            }
            (Term::Call { function, arguments }, _) => self.plan_call(function, arguments, receiver),
            (Term::Hint { ty, term }, _) => {
                let hinted = resolve_type(self.catalog, &self.table.keyspace, ty)?;
                if !function::is_assignable(&hinted, &receiver.ty) {
                    return Err(CqlError::invalid(format!(
                        "Cannot assign value of type {} to {} of type {}",
                        type_name(&hinted),
                        receiver.name,
                        type_name(&receiver.ty)
                    )));
                }
                self.plan(term, &Receiver::new(receiver.name.clone(), hinted))
            }
            (Term::List(_), _) => Err(invalid_literal(receiver, "a list literal")),
            (Term::Set(_), _) => Err(invalid_literal(receiver, "a set literal")),
            (Term::Map(_), _) => Err(invalid_literal(receiver, "a map literal")),
            (Term::Tuple(_), _) => Err(invalid_literal(receiver, "a tuple literal")),
            (Term::Udt(_), _) => Err(invalid_literal(receiver, "a user type literal")),
        }
    }

    /// Notes what a marker stands for.
    pub fn bind(&mut self, index: usize, name: &str, ty: &CqlType) {
        if let Some(slot @ None) = self.binds.get_mut(index) {
            *slot = Some(ColumnSpec {
                keyspace: self.keyspace_name.clone(),
                table: self.table_name.clone(),
                name: name.to_owned(),
                ty: ty.clone(),
            });
        }
    }

    fn plan_all(&mut self, items: &[Term], receiver: &Receiver) -> Result<Vec<Expr>, CqlError> {
        items
            .iter()
            .map(|item| match self.plan(item, receiver)? {
                Expr::Constant(None) => Err(CqlError::invalid("null is not supported inside collections")),
                expr => Ok(expr),
            })
            .collect()
    }

    fn plan_map(
        &mut self,
        entries: &[(Term, Term)],
        key: &CqlType,
        value: &CqlType,
        receiver: &Receiver,
    ) -> Result<Expr, CqlError> {
        let key_receiver = Receiver::new(format!("key({})", receiver.name), key.clone());
        let value_receiver = Receiver::new(format!("value({})", receiver.name), value.clone());
        let keys: Vec<_> = entries.iter().map(|(key, _)| key.clone()).collect();
        let values: Vec<_> = entries.iter().map(|(_, value)| value.clone()).collect();
        let keys = self.plan_all(&keys, &key_receiver)?;
        let values = self.plan_all(&values, &value_receiver)?;
        Ok(Expr::Map(key.clone(), keys.into_iter().zip(values).collect()).folded())
    }

    fn plan_tuple(
        &mut self,
        items: &[Term],
        types: &[CqlType],
        receiver: &Receiver,
    ) -> Result<Expr, CqlError> {
        if items.len() > types.len() {
            return Err(invalid_literal(receiver, "a tuple with too many elements"));
        }
        let mut planned = Vec::new();
        for (i, (item, ty)) in items.iter().zip(types).enumerate() {
            planned.push(self.plan(
                item,
                &Receiver::new(format!("{}[{i}]", receiver.name), ty.clone()),
            )?);
        }
        Ok(Expr::Tuple(planned).folded())
    }

    fn plan_udt(
        &mut self,
        given: &[(String, Term)],
        fields: &[(String, CqlType)],
        receiver: &Receiver,
    ) -> Result<Expr, CqlError> {
        if let Some((unknown, _)) = given
            .iter()
            .find(|(name, _)| !fields.iter().any(|(field, _)| field == name))
        {
            return Err(CqlError::invalid(format!(
                "Unknown field '{unknown}' in value of user defined type {}",
                type_name(&receiver.ty)
            )));
        }
        let mut planned = Vec::new();
        for (name, ty) in fields {
            planned.push(match given.iter().find(|(given, _)| given == name) {
                Some((_, term)) => self.plan(
                    term,
                    &Receiver::new(format!("{}.{name}", receiver.name), ty.clone()),
                )?,
                None => Expr::Constant(None),
            });
        }
        Ok(Expr::Tuple(planned).folded())
    }

    fn plan_call(
        &mut self,
        name: &QualifiedName,
        arguments: &[Term],
        receiver: &Receiver,
    ) -> Result<Expr, CqlError> {
        let function = self.resolve_call(name, arguments, Some(&receiver.ty))?;
        if !function::is_assignable(&function.returns, &receiver.ty) {
            return Err(CqlError::invalid(format!(
                "Type error: cannot assign result of function {} (type {}) to {} (type {})",
                function.name,
                type_name(&function.returns),
                receiver.name,
                type_name(&receiver.ty)
            )));
        }
        let mut planned = Vec::new();
        for (i, (argument, ty)) in arguments.iter().zip(&function.arguments).enumerate() {
            let name = format!("arg{i}({})", function.name);
            planned.push(self.plan(argument, &Receiver::new(name, ty.clone()))?);
        }
        Ok(Expr::Call(Arc::new(function), planned))
    }

    /// The function that a call means, by what is known of its arguments.
    ///
    /// # Errors
    /// Invalid: there is none, or more than one.
    pub fn resolve_call(
        &self,
        name: &QualifiedName,
        arguments: &[Term],
        receiver: Option<&CqlType>,
    ) -> Result<Function, CqlError> {
        let known: Vec<_> = arguments
            .iter()
            .map(|argument| self.known_type(argument))
            .collect();
        let fits: Vec<_> = arguments
            .iter()
            .map(|argument| {
                move |ty: &CqlType| match argument {
                    Term::Literal(literal) => constant::is_assignable(literal.kind, ty),
                    _ => true,
                }
            })
            .collect();
        let candidates: Vec<_> = known
            .iter()
            .zip(&fits)
            .zip(arguments)
            .map(|((known, fits), term)| match (known, term) {
                (Some(ty), _) => Argument::Typed(ty),
                (None, Term::Marker(_) | Term::Null) => Argument::Any,
                (None, _) => Argument::Fits(fits),
            })
            .collect();
        function::resolve(name, &candidates, Some(self.table), receiver)
            .unwrap_or_else(|| Err(CqlError::invalid(format!("Unknown function '{}'", name.name))))
    }

    /// The type that a term has by itself; literals and markers take any that fits.
    fn known_type(&self, term: &Term) -> Option<CqlType> {
        match term {
            Term::Hint { ty, .. } => resolve_type(self.catalog, &self.table.keyspace, ty).ok(),
            Term::Call { function, arguments } => self
                .resolve_call(function, arguments, None)
                .ok()
                .map(|function| function.returns),
            _ => None,
        }
    }
}

/// Bound values in marker order, checked against the types of their markers.
///
/// # Errors
/// Invalid: too few or too many, an unknown name, bytes that are not a value of the type.
pub fn bind_values(binds: &[ColumnSpec], given: &Values) -> Result<Vec<BindValue>, CqlError> {
    let values = match given {
        Values::Positional(values) => values.clone(),
        Values::Named(named) => binds
            .iter()
            .map(|bind| {
                let found = named.iter().find(|(name, _)| *name == bind.name);
                found.map_or(BindValue::Unset, |(_, value)| value.clone())
            })
            .collect(),
    };
    if values.len() != binds.len() {
        return Err(CqlError::invalid(format!(
            "Invalid amount of bind variables: expected {}, got {}",
            binds.len(),
            values.len()
        )));
    }
    for (bind, value) in binds.iter().zip(&values) {
        if let BindValue::Value(value) = value {
            validate::validate(&bind.ty, value)?;
        }
    }
    Ok(values)
}

fn invalid_literal(receiver: &Receiver, what: &str) -> CqlError {
    CqlError::invalid(format!(
        "Invalid literal for {} of type {}: {what}",
        receiver.name,
        type_name(&receiver.ty)
    ))
}
