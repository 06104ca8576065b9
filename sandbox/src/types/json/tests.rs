use std::sync::Arc;

use super::{from_json_text, parse_row, row_to_json, to_json};
use crate::types::{CqlType, UdtDefinition};

fn list(element: CqlType) -> CqlType {
    CqlType::List {
        element: Arc::new(element),
        frozen: true,
    }
}

fn map(key: CqlType, value: CqlType) -> CqlType {
    CqlType::Map {
        key: Arc::new(key),
        value: Arc::new(value),
        frozen: true,
    }
}

#[test]
fn values_survive_the_way_through_json() {
    let udt = CqlType::Udt {
        definition: Arc::new(UdtDefinition {
            keyspace: "ks".to_owned(),
            name: "u".to_owned(),
            fields: vec![
                ("a".to_owned(), CqlType::Int),
                ("B".to_owned(), list(CqlType::Text)),
            ],
        }),
        frozen: true,
    };
    for (ty, text) in [
        (CqlType::Int, "5"),
        (CqlType::Text, r#""a\"b""#),
        (CqlType::Boolean, "true"),
        (CqlType::Blob, r#""0xcafe""#),
        (CqlType::Double, "1.5"),
        (CqlType::Float, r#""NaN""#),
        (CqlType::Timestamp, r#""2020-01-02 03:04:05.006Z""#),
        (CqlType::Uuid, r#""f81d4fae-7dec-11d0-a765-00a0c91e6bf6""#),
        (list(CqlType::Int), "[1, 2]"),
        (map(CqlType::Int, list(CqlType::Text)), r#"{"1": ["a"], "2": []}"#),
        (map(CqlType::Text, CqlType::Int), r#"{"a": 1}"#),
        (
            CqlType::Tuple(vec![CqlType::Int, CqlType::Text].into()),
            r#"[1, null]"#,
        ),
        (udt, r#"{"a": 1, "\"B\"": ["x"]}"#),
    ] {
        let value = from_json_text(&ty, text).unwrap().unwrap();
        assert_eq!(to_json(&ty, Some(&value)).unwrap(), text);
    }
}

#[test]
fn what_a_type_does_not_take_is_refused() {
    for (ty, text, message) in [
        (
            CqlType::Int,
            "true",
            "Expected a value of type int, but got a Boolean: true",
        ),
        (CqlType::Int, "1.5", "Unable to make int from '1.5'"),
        (list(CqlType::Int), "{}", "Expected a list, but got a Map: {}"),
        (
            list(CqlType::Int),
            "[null]",
            "Invalid null element in a collection",
        ),
        (
            CqlType::Blob,
            r#""ca""#,
            r#"Expected a blob string that begins with 0x, but got a String: "ca""#,
        ),
    ] {
        assert_eq!(from_json_text(&ty, text).unwrap_err().message, message);
    }
    assert!(parse_row("[]").is_err() && parse_row("{").is_err());
}

#[test]
fn rows() {
    let fields = parse_row(r#"{"A": 1, "\"B\"": null}"#).unwrap();
    let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"a") && names.contains(&"B"));
    let columns = [
        ("a", &CqlType::Int, Some(&[0u8, 0, 0, 1][..])),
        ("B", &CqlType::Text, None),
    ];
    assert_eq!(
        row_to_json(columns.into_iter()).unwrap(),
        r#"{"a": 1, "\"B\"": null}"#
    );
}
