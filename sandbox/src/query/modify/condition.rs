//! The IF of a write.

use bytes::Bytes;

use super::change::field_of;
use crate::cql::ast::data::{Condition, Operator, Relation, RelationValue, Subject};
use crate::error::CqlError;
use crate::query::api::BindValue;
use crate::query::restriction::{WherePlan, find_column};
use crate::query::terms::{Expr, Planner, Receiver};
use crate::schema::{ColumnId, ColumnKind, TableSchema};
use crate::storage::ordered;
use crate::types::function::FunctionContext;
use crate::types::{CqlType, composite};

#[derive(Debug, Clone)]
pub enum ConditionPlan {
    None,
    Exists,
    NotExists,
    Columns(Vec<ColumnCondition>),
}

#[derive(Debug, Clone)]
pub struct ColumnCondition {
    pub column: ColumnId,
    part: Part,
    ty: CqlType,
    operator: Operator,
    values: Vec<Expr>,
    /// `values` is one serialized list of choices.
    in_list: bool,
    /// An element is one of a map.
    map: bool,
}

#[derive(Debug, Clone)]
enum Part {
    Whole,
    Element(Expr),
    Field(usize),
}

/// A row that conditions look at: serialized values by column; static ones also when the row does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConditionRow {
    pub exists: bool,
    pub values: Vec<Option<Bytes>>,
}

impl ConditionPlan {
    /// The columns that conditions name.
    pub fn columns(&self) -> Vec<ColumnId> {
        match self {
            ConditionPlan::Columns(conditions) => conditions.iter().map(|one| one.column).collect(),
            _ => Vec::new(),
        }
    }

    /// True if the conditions are all on static columns.
    pub fn only_static(&self, table: &TableSchema) -> bool {
        match self {
            ConditionPlan::Columns(conditions) => conditions
                .iter()
                .all(|one| table.columns[one.column].kind == ColumnKind::Static),
            _ => false,
        }
    }

    /// # Errors
    /// Invalid: a comparison with null that has no answer.
    pub fn holds(
        &self,
        row: &ConditionRow,
        values: &[BindValue],
        context: &FunctionContext,
    ) -> Result<bool, CqlError> {
        match self {
            ConditionPlan::None => Ok(true),
            ConditionPlan::Exists => Ok(row.exists),
            ConditionPlan::NotExists => Ok(!row.exists),
            ConditionPlan::Columns(conditions) => {
                for condition in conditions {
                    if !condition.holds(row, values, context)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

impl ColumnCondition {
    fn holds(
        &self,
        row: &ConditionRow,
        values: &[BindValue],
        context: &FunctionContext,
    ) -> Result<bool, CqlError> {
        let whole = row.values.get(self.column).and_then(Option::as_ref);
        let have = match &self.part {
            Part::Whole => whole.cloned(),
            Part::Field(index) => whole.and_then(|value| {
                let fields = composite::split_tuple(value, usize::MAX).ok()?;
                fields.get(*index).copied().flatten().map(Bytes::copy_from_slice)
            }),
            Part::Element(key) => self.element(whole, key, values, context)?,
        };
        let mut choices = Vec::with_capacity(self.values.len());
        for expr in &self.values {
            choices.push(match expr.evaluate(values, context)? {
                BindValue::Value(value) => Some(value),
                BindValue::Null => None,
                BindValue::Unset => return Err(CqlError::invalid("Invalid 'unset' value in condition")),
            });
        }
        if self.in_list {
            let list = choices.pop().flatten();
            let list = list.ok_or_else(|| CqlError::invalid("Invalid null list in IN condition"))?;
            let items = composite::split_list(&list).map_err(|error| CqlError::invalid(error.to_string()))?;
            choices = items.into_iter().map(|item| Some(list.slice_ref(item))).collect();
        }
        if self.operator == Operator::In {
            return Ok(choices
                .iter()
                .any(|choice| self.equal(have.as_ref(), choice.as_ref())));
        }
        let want = choices.pop().flatten();
        self.compare(have.as_ref(), want.as_ref())
    }

    fn compare(&self, have: Option<&Bytes>, want: Option<&Bytes>) -> Result<bool, CqlError> {
        let order = match (self.operator, have, want) {
            (Operator::Eq, ..) => return Ok(self.equal(have, want)),
            (Operator::NotEq, ..) => return Ok(!self.equal(have, want)),
            (_, _, None) => {
                return Err(CqlError::invalid(format!(
                    "Invalid comparison with null for operator \"{:?}\"",
                    self.operator
                )));
            }
            (_, None, _) => return Ok(false),
            (_, Some(have), Some(want)) => ordered::compare(&self.ty, have, want),
        };
        Ok(match self.operator {
            Operator::Less => order.is_lt(),
            Operator::LessOrEq => order.is_le(),
            Operator::Greater => order.is_gt(),
            Operator::GreaterOrEq => order.is_ge(),
            _ => false,
        })
    }

    /// Null equals null; an empty collection is null.
    fn equal(&self, have: Option<&Bytes>, want: Option<&Bytes>) -> bool {
        let is_empty = |value: &&Bytes| self.ty.is_multi_cell() && value.iter().all(|byte| *byte == 0);
        match (
            have.filter(|value| !is_empty(value)),
            want.filter(|value| !is_empty(value)),
        ) {
            (None, None) => true,
            (Some(have), Some(want)) => ordered::compare(&self.ty, have, want).is_eq(),
            _ => false,
        }
    }

    fn element(
        &self,
        whole: Option<&Bytes>,
        key: &Expr,
        values: &[BindValue],
        context: &FunctionContext,
    ) -> Result<Option<Bytes>, CqlError> {
        let BindValue::Value(key) = key.evaluate(values, context)? else {
            return Err(CqlError::invalid(
                "Invalid null value for list index or map key in condition",
            ));
        };
        let Some(whole) = whole else { return Ok(None) };
        let malformed = |error: composite::Malformed| CqlError::invalid(error.to_string());
        // A list's index is an int; a map's key is looked up by its bytes, which are canonical when serialized.
        let found = if self.map {
            let entries = composite::split_map(whole).map_err(malformed)?;
            entries
                .into_iter()
                .find(|(have, _)| *have == &key[..])
                .map(|(_, value)| value)
        } else {
            let index = key[..].try_into().map_or(-1, i32::from_be_bytes);
            if index < 0 {
                return Err(CqlError::invalid(format!("Invalid negative list index {index}")));
            }
            composite::split_list(whole)
                .map_err(malformed)?
                .get(index as usize)
                .copied()
        };
        Ok(found.map(Bytes::copy_from_slice))
    }
}

/// Plans the IF of a statement.
pub(super) fn plan(
    planner: &mut Planner<'_>,
    table: &TableSchema,
    condition: &Condition,
) -> Result<ConditionPlan, CqlError> {
    Ok(match condition {
        Condition::None => ConditionPlan::None,
        Condition::Exists => ConditionPlan::Exists,
        Condition::NotExists => ConditionPlan::NotExists,
        Condition::Relations(relations) => {
            let planned: Result<_, _> = relations
                .iter()
                .map(|relation| plan_column(planner, table, relation))
                .collect();
            ConditionPlan::Columns(planned?)
        }
    })
}

/// A conditional write names one partition.
pub(super) fn check_keys(condition: &Condition, filter: &WherePlan) -> Result<(), CqlError> {
    if *condition == Condition::None {
        return Ok(());
    }
    if filter.partitions.may_be_several() {
        return Err(CqlError::invalid(
            "IN on the partition key is not supported with conditional updates and deletions",
        ));
    }
    if filter.clustering.has_in() {
        return Err(CqlError::invalid(
            "IN on the clustering key columns is not supported with conditional updates and deletions",
        ));
    }
    Ok(())
}

fn plan_column(
    planner: &mut Planner<'_>,
    table: &TableSchema,
    relation: &Relation,
) -> Result<ColumnCondition, CqlError> {
    let name = match &relation.subject {
        Subject::Column(name) => name,
        Subject::Element { column, .. } | Subject::Field { column, .. } => column,
        Subject::Token(_) | Subject::Tuple(_) => {
            return Err(CqlError::invalid(
                "Only columns, elements and fields may be used in conditions",
            ));
        }
    };
    let id = find_column(table, name)?;
    let column = &table.columns[id];
    if column.kind.is_primary_key() {
        return Err(CqlError::invalid(format!(
            "PRIMARY KEY column '{name}' cannot have IF conditions"
        )));
    }
    let mut map = false;
    let (part, ty) = match (&relation.subject, &column.ty) {
        (Subject::Element { key, .. }, CqlType::List { element, .. }) => {
            let index = planner.plan(key, &Receiver::new(format!("idx({name})"), CqlType::Int))?;
            (Part::Element(index), CqlType::clone(element))
        }
        (
            Subject::Element { key, .. },
            CqlType::Map {
                key: key_type, value, ..
            },
        ) => {
            map = true;
            let key = planner.plan(
                key,
                &Receiver::new(format!("key({name})"), CqlType::clone(key_type)),
            )?;
            (Part::Element(key), CqlType::clone(value))
        }
        (Subject::Element { .. }, _) => {
            return Err(CqlError::invalid(format!(
                "Invalid element access syntax for column {name}"
            )));
        }
        (Subject::Field { field, .. }, _) => {
            let (index, ty) = field_of(column, field)?;
            (Part::Field(index as usize), ty)
        }
        _ => (Part::Whole, column.ty.clone()),
    };
    check_operator(&ty, relation.operator)?;
    let (values, in_list) = plan_choices(planner, name, &ty, relation)?;
    Ok(ColumnCondition {
        column: id,
        part,
        ty,
        operator: relation.operator,
        values,
        in_list,
        map,
    })
}

fn check_operator(ty: &CqlType, operator: Operator) -> Result<(), CqlError> {
    if *ty == CqlType::Duration && !matches!(operator, Operator::Eq | Operator::NotEq | Operator::In) {
        return Err(CqlError::invalid(
            "Slice conditions are not supported on durations",
        ));
    }
    if matches!(
        operator,
        Operator::Contains | Operator::ContainsKey | Operator::Like | Operator::IsNotNull
    ) {
        return Err(CqlError::invalid(format!(
            "{:?} is not supported in conditions",
            operator
        )));
    }
    Ok(())
}

/// The values to compare with, and whether they are one list.
fn plan_choices(
    planner: &mut Planner<'_>,
    name: &str,
    ty: &CqlType,
    relation: &Relation,
) -> Result<(Vec<Expr>, bool), CqlError> {
    let receiver = Receiver::new(name, ty.clone());
    Ok(match &relation.value {
        RelationValue::None => (Vec::new(), false),
        RelationValue::One(term) if relation.operator == Operator::In => {
            let list = CqlType::List {
                element: std::sync::Arc::new(ty.clone()),
                frozen: true,
            };
            (
                vec![planner.plan(term, &Receiver::new(format!("in({name})"), list))?],
                true,
            )
        }
        RelationValue::One(term) => (vec![planner.plan(term, &receiver)?], false),
        RelationValue::Many(terms) => {
            let planned: Result<_, _> = terms.iter().map(|term| planner.plan(term, &receiver)).collect();
            (planned?, false)
        }
    })
}
