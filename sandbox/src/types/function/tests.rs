use bytes::Bytes;

use super::{Argument, Function, FunctionContext, cast};
use crate::cql::ast::QualifiedName;
use crate::error::CqlError;
use crate::schema::builder::TableBuilder;
use crate::types::constant::from_text;
use crate::types::{CqlType, display};

fn resolve(function: &str, arguments: &[Argument<'_>]) -> Result<Function, CqlError> {
    super::resolve(&name(function), arguments, None, None).unwrap()
}

fn name(text: &str) -> QualifiedName {
    QualifiedName {
        keyspace: None,
        name: text.to_owned(),
    }
}

fn call(function: &str, from: &CqlType, text: &str) -> String {
    let function = resolve(function, &[Argument::Typed(from)]).unwrap();
    let value = from_text(from, text).unwrap();
    let result = function
        .call(&FunctionContext::default(), &[Some(value)])
        .unwrap()
        .unwrap();
    display::plain(&function.returns, &result).unwrap()
}

#[test]
fn time_functions() {
    let time = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
    for (function, from, text, expected) in [
        ("totimestamp", CqlType::Timeuuid, time, "1997-02-03T17:43:12.216Z"),
        (
            "to_timestamp",
            CqlType::Date,
            "2020-01-02",
            "2020-01-02T00:00:00.000Z",
        ),
        ("dateof", CqlType::Timeuuid, time, "1997-02-03T17:43:12.216Z"),
        ("todate", CqlType::Timeuuid, time, "1997-02-03"),
        ("tounixtimestamp", CqlType::Date, "1970-01-02", "86400000"),
        ("unixtimestampof", CqlType::Timeuuid, time, "854991792216"),
        ("todate", CqlType::Timestamp, "-1", "1969-12-31"),
        // ScyllaDB's bounds: ms, low bytes and the 9999 ticks of the last.
        (
            "mintimeuuid",
            CqlType::Timestamp,
            "0",
            "13814000-1dd2-11b2-8080-808080808080",
        ),
        (
            "maxtimeuuid",
            CqlType::Timestamp,
            "0",
            "1381670f-1dd2-11b2-7f7f-7f7f7f7f7f7f",
        ),
        ("intasblob", CqlType::Int, "258", "0x00000102"),
    ] {
        assert_eq!(call(function, &from, text), expected, "{function}({text})");
    }
}

#[test]
fn clocks() {
    let context = FunctionContext {
        now_micros: 1_700_000_000_123_456,
    };
    let value = |function: &str| {
        let function = resolve(function, &[]).unwrap();
        let value = function.call(&context, &[]).unwrap().unwrap();
        display::plain(&function.returns, &value).unwrap()
    };
    assert_eq!(value("currenttimestamp"), "2023-11-14T22:13:20.123Z");
    assert_eq!(value("current_date"), "2023-11-14");
    assert_eq!(value("currenttime"), "22:13:20.123456000");
    assert_ne!(value("now"), value("now"));
    assert_ne!(value("uuid"), value("uuid"));
}

#[test]
fn calls_that_mean_no_function() {
    for (function, known, message) in [
        (
            "now",
            vec![Argument::Any],
            "Invalid number of arguments in call to function system.now: 0 required but 1 provided",
        ),
        (
            "totimestamp",
            vec![Argument::Any],
            "Ambiguous call to function system.totimestamp: use type casts to disambiguate",
        ),
        (
            "todate",
            vec![Argument::Typed(&CqlType::Int)],
            "Invalid call to function system.todate, none of its type signatures match",
        ),
    ] {
        assert_eq!(resolve(function, &known).unwrap_err().message, message);
    }
    for unknown in ["nosuch", "blobasx", "token"] {
        assert!(super::resolve(&name(unknown), &[Argument::Any], None, None).is_none());
    }
}

#[test]
fn blob_that_is_no_value() {
    let function = resolve("blobasint", &[Argument::Any]).unwrap();
    let error = function
        .call(&FunctionContext::default(), &[Some(vec![1].into())])
        .unwrap_err();
    assert_eq!(
        error.message,
        "In call to function system.blobasint, value 0x01 is not a valid binary representation for type int"
    );
}

#[test]
fn casts() {
    for (from, text, to, expected) in [
        (CqlType::Int, "300", CqlType::Tinyint, "44"),
        (CqlType::Double, "-1.9", CqlType::Int, "-1"),
        (
            CqlType::Double,
            "1.0E20",
            CqlType::Varint,
            "100000000000000000000",
        ),
        (CqlType::Decimal, "12.75", CqlType::Bigint, "12"),
        (CqlType::Bigint, "7", CqlType::Double, "7.0"),
        (CqlType::Float, "1.5", CqlType::Decimal, "1.5"),
        (CqlType::Double, "NaN", CqlType::Int, "0"),
        (CqlType::Boolean, "true", CqlType::Text, "true"),
        (
            CqlType::Date,
            "2020-01-02",
            CqlType::Timestamp,
            "2020-01-02T00:00:00.000Z",
        ),
    ] {
        let value = cast(&from, &to, &from_text(&from, text).unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(display::plain(&to, &value).unwrap(), expected, "{text}");
    }
    let error = Function::cast(&CqlType::Uuid, &CqlType::Int).unwrap_err();
    assert_eq!(error.message, "uuid cannot be cast to int");
}

#[test]
fn literals_choose_the_overload_they_fit() {
    let string = |ty: &CqlType| matches!(ty, CqlType::Date | CqlType::Text);
    let function = resolve("totimestamp", &[Argument::Fits(&string)]).unwrap();
    assert_eq!(function.arguments, [CqlType::Date]);
}

#[test]
fn token_is_that_of_the_tables_partition_key() {
    let table = TableBuilder::new("ks", "t")
        .partition_key("a", CqlType::Int)
        .partition_key("b", CqlType::Text)
        .build();
    let arguments = [Argument::Any, Argument::Any];
    let function = super::resolve(&name("token"), &arguments, Some(&table), None)
        .unwrap()
        .unwrap();
    assert_eq!(function.arguments, [CqlType::Int, CqlType::Text]);
    let values = [Bytes::from_static(&[0, 0, 0, 1]), Bytes::from_static(b"x")];
    let token = table.make_partition_key(&values).token;
    let computed = function
        .call(&FunctionContext::default(), &values.map(Some))
        .unwrap()
        .unwrap();
    assert_eq!(computed, token.to_be_bytes()[..]);
}
