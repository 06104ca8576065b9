//! Functions of CQL: which call means which function, and what it computes.
//!
//! Conversions between types are in `cast`, the rest is here; aggregates stand in `types::aggregate`.

mod cast;

pub use cast::cast;

use bytes::Bytes;
use uuid::Uuid;

use super::{CqlType, calendar, json};
use crate::cql::ast::QualifiedName;
use crate::error::CqlError;
use crate::schema::partitioner::serialize_partition_key;
use crate::schema::type_name::type_name;
use crate::schema::{Partitioner, TableSchema};

/// A function whose argument types are settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// As names of results and markers have it: `system.now`.
    pub name: String,
    pub arguments: Vec<CqlType>,
    pub returns: CqlType,
    kind: Kind,
}

/// What a function may see beside its arguments.
#[derive(Debug, Clone, Copy, Default)]
pub struct FunctionContext {
    /// The coordinator's clock, µs since the epoch.
    pub now_micros: i64,
}

/// What is known of an argument before the function is.
#[derive(Clone, Copy)]
pub enum Argument<'a> {
    Typed(&'a CqlType),
    /// A literal: what it can stand for.
    Fits(&'a dyn Fn(&CqlType) -> bool),
    /// A bind marker or null.
    Any,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Now,
    RandomUuid,
    CurrentTimestamp,
    CurrentDate,
    CurrentTime,
    MinTimeuuid,
    MaxTimeuuid,
    ToTimestamp,
    ToDate,
    ToMillis,
    /// `blobAsX`, `XAsBlob`: the bytes stay as they are.
    Reinterpret,
    Cast,
    Token(Partitioner),
    ToJson,
    FromJson,
}

/// Milliseconds between 1582-10-15, where timeuuids begin, and the Unix epoch.
const UUID_EPOCH_MILLIS: i64 = 12_219_292_800_000;
/// Timeuuids count 100 ns.
const TICKS_PER_MILLI: i64 = 10_000;
/// Low halves of the first and last timeuuid of a millisecond in ScyllaDB's and Cassandra's order, which
/// compares them as signed bytes.
const MIN_LOW_HALF: u64 = 0x8080_8080_8080_8080;
const MAX_LOW_HALF: u64 = 0x7f7f_7f7f_7f7f_7f7f;

/// Types that have `XAsBlob` and `blobAsX`.
const NATIVE: [CqlType; 19] = [
    CqlType::Ascii,
    CqlType::Bigint,
    CqlType::Boolean,
    CqlType::Counter,
    CqlType::Date,
    CqlType::Decimal,
    CqlType::Double,
    CqlType::Duration,
    CqlType::Float,
    CqlType::Inet,
    CqlType::Int,
    CqlType::Smallint,
    CqlType::Text,
    CqlType::Time,
    CqlType::Timestamp,
    CqlType::Timeuuid,
    CqlType::Tinyint,
    CqlType::Uuid,
    CqlType::Varint,
];

/// Finds the function that a call means; None if there is no scalar function of this name. `table` is that of
/// the statement, for `token`; `receiver` what the result is for, if that is known.
///
/// # Errors
/// Invalid: wrong number or types of arguments.
pub fn resolve(
    name: &QualifiedName,
    arguments: &[Argument<'_>],
    table: Option<&TableSchema>,
    receiver: Option<&CqlType>,
) -> Option<Result<Function, CqlError>> {
    let overloads = overloads(name, arguments, table, receiver)?;
    Some(choose(&name.name, arguments, overloads))
}

type Overload = (Kind, Vec<CqlType>, CqlType);

fn overloads(
    name: &QualifiedName,
    arguments: &[Argument<'_>],
    table: Option<&TableSchema>,
    receiver: Option<&CqlType>,
) -> Option<Vec<Overload>> {
    use CqlType::{Bigint, Date, Text, Time, Timestamp, Timeuuid};
    if name
        .keyspace
        .as_deref()
        .is_some_and(|keyspace| keyspace != "system")
    {
        return None;
    }
    let from = |kind: Kind, types: &[CqlType], returns: CqlType| {
        types
            .iter()
            .map(|ty| (kind.clone(), vec![ty.clone()], returns.clone()))
            .collect()
    };
    // Cassandra 5 writes to_timestamp for what was toTimestamp.
    let plain = name.name.replace('_', "");
    Some(match plain.as_str() {
        "now" | "currenttimeuuid" => vec![(Kind::Now, Vec::new(), Timeuuid)],
        "uuid" => vec![(Kind::RandomUuid, Vec::new(), CqlType::Uuid)],
        "currenttimestamp" => vec![(Kind::CurrentTimestamp, Vec::new(), Timestamp)],
        "currentdate" => vec![(Kind::CurrentDate, Vec::new(), Date)],
        "currenttime" => vec![(Kind::CurrentTime, Vec::new(), Time)],
        "mintimeuuid" => from(Kind::MinTimeuuid, &[Timestamp], Timeuuid),
        "maxtimeuuid" => from(Kind::MaxTimeuuid, &[Timestamp], Timeuuid),
        "totimestamp" => from(Kind::ToTimestamp, &[Timeuuid, Date], Timestamp),
        "dateof" => from(Kind::ToTimestamp, &[Timeuuid], Timestamp),
        "todate" => from(Kind::ToDate, &[Timeuuid, Timestamp], Date),
        "tounixtimestamp" => from(Kind::ToMillis, &[Timeuuid, Timestamp, Date], Bigint),
        "unixtimestampof" => from(Kind::ToMillis, &[Timeuuid], Bigint),
        "token" => {
            let table = table?;
            let types = table
                .partition_key
                .iter()
                .map(|&column| table.columns[column].ty.clone());
            vec![(Kind::Token(table.partitioner), types.collect(), Bigint)]
        }
        "tojson" => match arguments {
            [Argument::Typed(ty)] => vec![(Kind::ToJson, vec![(*ty).clone()], Text)],
            _ => Vec::new(),
        },
        "fromjson" => receiver.map_or_else(Vec::new, |ty| vec![(Kind::FromJson, vec![Text], ty.clone())]),
        plain => vec![reinterpretation(plain)?],
    })
}

/// `blobAsInt`, `intAsBlob` and their like.
fn reinterpretation(plain: &str) -> Option<Overload> {
    let native = |name: &str| {
        let name = if name == "varchar" { "text" } else { name };
        NATIVE.iter().find(|ty| type_name(ty) == name).cloned()
    };
    if let Some(ty) = plain.strip_prefix("blobas").and_then(native) {
        return Some((Kind::Reinterpret, vec![CqlType::Blob], ty));
    }
    let ty = plain.strip_suffix("asblob").and_then(native)?;
    Some((Kind::Reinterpret, vec![ty], CqlType::Blob))
}

fn choose(name: &str, arguments: &[Argument<'_>], overloads: Vec<Overload>) -> Result<Function, CqlError> {
    let name = format!("system.{name}");
    if let [(_, types, _)] = overloads.as_slice()
        && types.len() != arguments.len()
    {
        return Err(CqlError::invalid(format!(
            "Invalid number of arguments in call to function {name}: {} required but {} provided",
            types.len(),
            arguments.len()
        )));
    }
    let fits = |(argument, ty): (&Argument<'_>, &CqlType)| match argument {
        Argument::Typed(have) => is_assignable(have, ty),
        Argument::Fits(accepts) => accepts(ty),
        Argument::Any => true,
    };
    let mut matching: Vec<_> = overloads
        .into_iter()
        .filter(|(_, types, _)| types.len() == arguments.len() && arguments.iter().zip(types).all(fits))
        .collect();
    match (matching.pop(), matching.is_empty()) {
        (Some((kind, arguments, returns)), true) => Ok(Function {
            name,
            arguments,
            returns,
            kind,
        }),
        (Some(_), false) => Err(CqlError::invalid(format!(
            "Ambiguous call to function {name}: use type casts to disambiguate"
        ))),
        (None, _) => Err(CqlError::invalid(format!(
            "Invalid call to function {name}, none of its type signatures match"
        ))),
    }
}

/// True if a value of type `have` may stand where `wanted` is asked for.
pub fn is_assignable(have: &CqlType, wanted: &CqlType) -> bool {
    have == wanted
        || matches!(
            (have, wanted),
            (_, CqlType::Blob)
                | (CqlType::Ascii, CqlType::Text)
                | (CqlType::Timeuuid, CqlType::Uuid)
                | (CqlType::Bigint, CqlType::Counter | CqlType::Timestamp)
                | (CqlType::Counter | CqlType::Timestamp, CqlType::Bigint)
        )
        || same_but_frozen(have, wanted)
}

fn same_but_frozen(a: &CqlType, b: &CqlType) -> bool {
    let plain = |ty: &CqlType| type_name(ty).replace("frozen<", "").replace('>', "");
    (a.is_multi_cell() || b.is_multi_cell()) && plain(a) == plain(b)
}

impl Function {
    /// CAST(x AS type).
    ///
    /// # Errors
    /// Invalid: there is no such conversion.
    pub fn cast(from: &CqlType, to: &CqlType) -> Result<Self, CqlError> {
        if !cast::exists(from, to) {
            return Err(CqlError::invalid(format!(
                "{} cannot be cast to {}",
                type_name(from),
                type_name(to)
            )));
        }
        Ok(Self {
            name: format!("system.castas{}", type_name(to)),
            arguments: vec![from.clone()],
            returns: to.clone(),
            kind: Kind::Cast,
        })
    }

    /// Whether each call gives another value, so that it must not be computed when the statement is planned.
    pub fn is_pure(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Now | Kind::RandomUuid | Kind::CurrentTimestamp | Kind::CurrentDate | Kind::CurrentTime
        )
    }

    /// Computes; null arguments give null, except for `toJson` and `token`.
    ///
    /// # Errors
    /// Invalid: a value that the result's type does not allow.
    pub fn call(
        &self,
        context: &FunctionContext,
        arguments: &[Option<Bytes>],
    ) -> Result<Option<Bytes>, CqlError> {
        match (&self.kind, arguments) {
            (Kind::Now, _) => Ok(Some(now(context))),
            (Kind::RandomUuid, _) => Ok(Some(Bytes::copy_from_slice(Uuid::new_v4().as_bytes()))),
            (Kind::CurrentTimestamp, _) => Ok(Some(bigint(context.now_micros.div_euclid(1000)))),
            (Kind::CurrentDate, _) => Ok(Some(date(context.now_micros.div_euclid(1000)))),
            (Kind::CurrentTime, _) => {
                // µs of a day, as ns.
                Ok(Some(bigint(context.now_micros.rem_euclid(86_400_000_000) * 1000)))
            }
            (Kind::Token(partitioner), _) => self.token_of(*partitioner, arguments),
            (Kind::ToJson, [argument]) => {
                let text = json::to_json(&self.arguments[0], argument.as_deref())?;
                Ok(Some(text.into()))
            }
            (_, [Some(argument)]) => self.convert(argument),
            _ => Ok(None),
        }
    }

    fn token_of(
        &self,
        partitioner: Partitioner,
        arguments: &[Option<Bytes>],
    ) -> Result<Option<Bytes>, CqlError> {
        let Some(values) = arguments.iter().cloned().collect::<Option<Vec<_>>>() else {
            return Err(CqlError::invalid(
                "Invalid null value in argument of function token",
            ));
        };
        Ok(Some(bigint(partitioner.token(&serialize_partition_key(&values)))))
    }

    fn convert(&self, argument: &Bytes) -> Result<Option<Bytes>, CqlError> {
        let from = &self.arguments[0];
        match self.kind {
            Kind::Reinterpret => {
                super::validate::validate(&self.returns, argument).map_err(|_| {
                    CqlError::invalid(format!(
                        "In call to function {}, value 0x{} is not a valid binary representation for type {}",
                        self.name,
                        hex::encode(argument),
                        type_name(&self.returns)
                    ))
                })?;
                Ok(Some(argument.clone()))
            }
            Kind::Cast => cast(from, &self.returns, argument),
            Kind::FromJson => {
                let text = std::str::from_utf8(argument)
                    .map_err(|_| CqlError::invalid("String didn't validate."))?;
                json::from_json_text(&self.returns, text)
            }
            _ if argument.is_empty() => Ok(None),
            Kind::MinTimeuuid => Ok(timeuuid_bound(argument, 0, MIN_LOW_HALF)),
            Kind::MaxTimeuuid => Ok(timeuuid_bound(argument, TICKS_PER_MILLI - 1, MAX_LOW_HALF)),
            Kind::ToTimestamp | Kind::ToMillis => Ok(millis_of(from, argument).map(bigint)),
            Kind::ToDate => Ok(millis_of(from, argument).map(date)),
            // The others take no argument or have been dealt with.
            _ => Ok(None),
        }
    }
}

/// Milliseconds since the epoch of a timeuuid, timestamp or date; None if it is malformed.
pub(crate) fn millis_of(ty: &CqlType, value: &[u8]) -> Option<i64> {
    match ty {
        CqlType::Timeuuid => {
            let (seconds, nanos) = Uuid::from_slice(value).ok()?.get_timestamp()?.to_unix();
            // The library counts from the Unix epoch without a sign; what lies before it is wrapped.
            Some((seconds as i64).checked_mul(1000)? + i64::from(nanos / 1_000_000))
        }
        CqlType::Timestamp | CqlType::Bigint => Some(i64::from_be_bytes(value.try_into().ok()?)),
        CqlType::Date => Some(calendar::date_to_millis(u32::from_be_bytes(
            value.try_into().ok()?,
        ))),
        _ => None,
    }
}

fn now(context: &FunctionContext) -> Bytes {
    let uuid = crate::cdc::timestamps::timeuuid_from_micros(context.now_micros, rand::random());
    Bytes::copy_from_slice(&uuid)
}

fn bigint(number: i64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn date(millis: i64) -> Bytes {
    Bytes::copy_from_slice(&calendar::millis_to_date(millis).to_be_bytes())
}

fn timeuuid_bound(millis: &[u8], ticks: i64, low_half: u64) -> Option<Bytes> {
    let millis = i64::from_be_bytes(millis.try_into().ok()?);
    let ticks = millis
        .wrapping_add(UUID_EPOCH_MILLIS)
        .wrapping_mul(TICKS_PER_MILLI)
        .wrapping_add(ticks) as u64;
    // time_low, time_mid, version 1 and time_high, each big-endian.
    let high_half = (ticks << 32) | (ticks >> 16 & 0xffff_0000) | 0x1000 | (ticks >> 48 & 0x0fff);
    Some(Bytes::copy_from_slice(
        &[high_half.to_be_bytes(), low_half.to_be_bytes()].concat(),
    ))
}

#[cfg(test)]
mod tests;
