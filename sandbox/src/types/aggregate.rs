//! Aggregates: count, min, max, sum, avg.

use std::cmp::Ordering;

use bytes::Bytes;
use num_bigint::BigInt;

use super::CqlType;
use super::constant::encode_decimal;
use crate::cql::ast::QualifiedName;
use crate::error::CqlError;
use crate::schema::type_name::type_name;
use crate::storage::ordered;

/// Decimal digits: a sum holds all digits between its smallest and its largest part.
const MAX_SCALE_DIFFERENCE: u32 = 20_000;

/// An aggregate whose argument type is settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    kind: Kind,
    argument: CqlType,
    pub returns: CqlType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Count,
    Min,
    Max,
    Sum,
    Avg,
}

/// What an aggregate has seen of one group.
#[derive(Debug, Clone)]
pub struct Accumulator {
    aggregate: Aggregate,
    count: i64,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Nothing,
    Extreme(Bytes),
    Whole(BigInt),
    Real(f64),
    /// Unscaled value and scale.
    Decimal(BigInt, i32),
}

/// Finds the aggregate that a call with one column means. None: there is no aggregate of this name.
///
/// # Errors
/// Invalid: sum and avg of what is no number.
pub fn resolve(name: &QualifiedName, argument: &CqlType) -> Option<Result<Aggregate, CqlError>> {
    if name
        .keyspace
        .as_deref()
        .is_some_and(|keyspace| keyspace != "system")
    {
        return None;
    }
    let kind = match name.name.as_str() {
        "count" => Kind::Count,
        "min" => Kind::Min,
        "max" => Kind::Max,
        "sum" => Kind::Sum,
        "avg" => Kind::Avg,
        _ => return None,
    };
    let returns = match (kind, argument) {
        (Kind::Count, _) | (Kind::Sum | Kind::Avg, CqlType::Counter) => CqlType::Bigint,
        (Kind::Min | Kind::Max, ty) => ty.clone(),
        (Kind::Sum | Kind::Avg, ty) if is_number(ty) => ty.clone(),
        (Kind::Sum | Kind::Avg, ty) => {
            return Some(Err(CqlError::invalid(format!(
                "Invalid call to function system.{}, none of its type signatures match (known type: {})",
                name.name,
                type_name(ty)
            ))));
        }
    };
    Some(Ok(Aggregate {
        kind,
        argument: argument.clone(),
        returns,
    }))
}

impl Aggregate {
    /// `count(*)`: feed it any value per row.
    pub fn count_rows() -> Self {
        Self {
            kind: Kind::Count,
            argument: CqlType::Blob,
            returns: CqlType::Bigint,
        }
    }

    /// An accumulator of one group.
    pub fn start(&self) -> Accumulator {
        Accumulator {
            aggregate: self.clone(),
            count: 0,
            state: State::Nothing,
        }
    }
}

impl Accumulator {
    /// Takes in one row's value; nulls do not count.
    ///
    /// # Errors
    /// Invalid: decimals whose scales lie too far apart to be added.
    pub fn add(&mut self, value: Option<&[u8]>) -> Result<(), CqlError> {
        let Some(value) = value else { return Ok(()) };
        let ty = &self.aggregate.argument;
        match self.aggregate.kind {
            Kind::Count => {}
            Kind::Min => self.keep(value, Ordering::Less),
            Kind::Max => self.keep(value, Ordering::Greater),
            Kind::Sum | Kind::Avg if value.is_empty() => return Ok(()),
            Kind::Sum | Kind::Avg => {
                self.state = std::mem::replace(&mut self.state, State::Nothing).plus(ty, value)?;
            }
        }
        self.count += 1;
        Ok(())
    }

    /// The result: over nothing, null for min and max, else 0.
    pub fn finish(self) -> Option<Bytes> {
        let count = self.count;
        match (self.aggregate.kind, self.state) {
            (Kind::Count, _) => Some(Bytes::copy_from_slice(&count.to_be_bytes())),
            (_, State::Extreme(value)) => Some(value),
            (Kind::Min | Kind::Max, _) => None,
            (kind, state) => {
                let divisor = if kind == Kind::Avg { count.max(1) } else { 1 };
                Some(state.divided(&self.aggregate.returns, divisor))
            }
        }
    }

    fn keep(&mut self, value: &[u8], wanted: Ordering) {
        let better = match &self.state {
            State::Extreme(held) => ordered::compare(&self.aggregate.argument, value, held) == wanted,
            _ => true,
        };
        if better {
            self.state = State::Extreme(Bytes::copy_from_slice(value));
        }
    }
}

impl State {
    fn plus(self, ty: &CqlType, value: &[u8]) -> Result<Self, CqlError> {
        Ok(match ty {
            CqlType::Float | CqlType::Double => {
                let before = if let State::Real(sum) = self { sum } else { 0.0 };
                State::Real(before + real(value))
            }
            CqlType::Decimal => {
                let Some((scale, unscaled)) = value.split_first_chunk::<4>() else {
                    return Ok(self);
                };
                let (scale, unscaled) = (i32::from_be_bytes(*scale), BigInt::from_signed_bytes_be(unscaled));
                match self {
                    State::Decimal(sum, sum_scale) => add_decimals(sum, sum_scale, unscaled, scale)?,
                    _ => State::Decimal(unscaled, scale),
                }
            }
            _ => {
                let before = if let State::Whole(sum) = self {
                    sum
                } else {
                    BigInt::ZERO
                };
                State::Whole(before + BigInt::from_signed_bytes_be(value))
            }
        })
    }

    fn divided(self, returns: &CqlType, divisor: i64) -> Bytes {
        match (returns, self) {
            (CqlType::Float, State::Real(sum)) => {
                Bytes::copy_from_slice(&((sum / divisor as f64) as f32).to_be_bytes())
            }
            (CqlType::Double, State::Real(sum)) => {
                Bytes::copy_from_slice(&(sum / divisor as f64).to_be_bytes())
            }
            (CqlType::Float, _) => Bytes::from_static(&[0; 4]),
            (CqlType::Double, _) => Bytes::from_static(&[0; 8]),
            (CqlType::Decimal, State::Decimal(sum, scale)) => encode_decimal(&(sum / divisor), scale),
            (CqlType::Decimal, _) => encode_decimal(&BigInt::ZERO, 0),
            (_, State::Whole(sum)) => whole(returns, &(sum / divisor)),
            (_, _) => whole(returns, &BigInt::ZERO),
        }
    }
}

fn is_number(ty: &CqlType) -> bool {
    matches!(
        ty,
        CqlType::Tinyint
            | CqlType::Smallint
            | CqlType::Int
            | CqlType::Bigint
            | CqlType::Varint
            | CqlType::Float
            | CqlType::Double
            | CqlType::Decimal
    )
}

/// Stored values were validated; a malformed one counts as 0.
fn real(value: &[u8]) -> f64 {
    match (<[u8; 4]>::try_from(value), <[u8; 8]>::try_from(value)) {
        (Ok(single), _) => f64::from(f32::from_be_bytes(single)),
        (_, Ok(double)) => f64::from_be_bytes(double),
        _ => 0.0,
    }
}

/// Brings both to the larger scale.
fn add_decimals(a: BigInt, a_scale: i32, b: BigInt, b_scale: i32) -> Result<State, CqlError> {
    if a_scale.abs_diff(b_scale) > MAX_SCALE_DIFFERENCE {
        return Err(CqlError::invalid(format!(
            "cannot add decimals of scales {a_scale} and {b_scale}: they lie more than {MAX_SCALE_DIFFERENCE} apart"
        )));
    }
    let scale = a_scale.max(b_scale);
    let raised = |number: BigInt, from: i32| number * BigInt::from(10).pow(scale.abs_diff(from));
    Ok(State::Decimal(raised(a, a_scale) + raised(b, b_scale), scale))
}

/// Sums that leave their type's range wrap, as in ScyllaDB.
fn whole(ty: &CqlType, number: &BigInt) -> Bytes {
    let bytes = number.to_signed_bytes_be();
    let width = match ty {
        CqlType::Tinyint => 1,
        CqlType::Smallint => 2,
        CqlType::Int => 4,
        CqlType::Bigint => 8,
        _ => return bytes.into(),
    };
    let fill = if *number < BigInt::ZERO { 0xff } else { 0 };
    let mut out = vec![fill; width];
    let kept = bytes.len().min(width);
    out[width - kept..].copy_from_slice(&bytes[bytes.len() - kept..]);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::super::constant::from_text;
    use super::super::display;
    use super::*;

    fn check(name: &str, ty: &CqlType, values: &[&str], expected: Option<&str>) {
        let name = QualifiedName {
            keyspace: None,
            name: name.to_owned(),
        };
        let aggregate = resolve(&name, ty).unwrap().unwrap();
        let mut accumulator = aggregate.start();
        accumulator.add(None).unwrap();
        for value in values {
            accumulator.add(Some(&from_text(ty, value).unwrap())).unwrap();
        }
        let result = accumulator.finish();
        let text = result.map(|value| display::plain(&aggregate.returns, &value).unwrap());
        assert_eq!(text.as_deref(), expected, "{} of {values:?}", name.name);
    }

    #[test]
    fn results() {
        check("count", &CqlType::Text, &["a", "b"], Some("2"));
        check("min", &CqlType::Int, &["1", "-5", "3"], Some("-5"));
        check("max", &CqlType::Text, &["b", "c", "a"], Some("c"));
        check("min", &CqlType::Int, &[], None);
        check("sum", &CqlType::Int, &[], Some("0"));
        check("sum", &CqlType::Tinyint, &["127", "1"], Some("-128"));
        check("avg", &CqlType::Int, &["1", "4"], Some("2"));
        check("avg", &CqlType::Double, &["1", "4"], Some("2.5"));
        check("sum", &CqlType::Decimal, &["1.5", "-0.25"], Some("1.25"));
        check(
            "sum",
            &CqlType::Varint,
            &["99999999999999999999", "1"],
            Some("100000000000000000000"),
        );
        check("avg", &CqlType::Float, &[], Some("0.0"));
    }

    #[test]
    fn decimals_too_far_apart_are_refused() {
        let sum = QualifiedName {
            keyspace: None,
            name: "sum".to_owned(),
        };
        let mut accumulator = resolve(&sum, &CqlType::Decimal).unwrap().unwrap().start();
        accumulator
            .add(Some(&encode_decimal(&BigInt::from(1), i32::MAX)))
            .unwrap();
        assert!(
            accumulator
                .add(Some(&encode_decimal(&BigInt::from(1), i32::MIN)))
                .is_err()
        );
    }

    #[test]
    fn sums_of_texts_are_refused() {
        let sum = QualifiedName {
            keyspace: None,
            name: "sum".to_owned(),
        };
        assert!(resolve(&sum, &CqlType::Text).unwrap().is_err());
        let other = QualifiedName {
            keyspace: None,
            name: "now".to_owned(),
        };
        assert!(resolve(&other, &CqlType::Text).is_none());
    }
}
