//! Any bytes can be bound as any type: they are refused, or they can be printed and read again.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{prop_assert_eq, proptest};

use super::composite::{join_list, join_map, join_tuple, split_list};
use super::validate::validate;
use super::{CqlType, constant, display, json};

fn native() -> impl Strategy<Value = CqlType> {
    prop_oneof![
        Just(CqlType::Ascii),
        Just(CqlType::Bigint),
        Just(CqlType::Blob),
        Just(CqlType::Boolean),
        Just(CqlType::Date),
        Just(CqlType::Decimal),
        Just(CqlType::Double),
        Just(CqlType::Duration),
        Just(CqlType::Float),
        Just(CqlType::Inet),
        Just(CqlType::Int),
        Just(CqlType::Smallint),
        Just(CqlType::Text),
        Just(CqlType::Time),
        Just(CqlType::Timestamp),
        Just(CqlType::Timeuuid),
        Just(CqlType::Tinyint),
        Just(CqlType::Uuid),
        Just(CqlType::Varint),
    ]
}

fn ty() -> impl Strategy<Value = CqlType> {
    native().prop_recursive(3, 12, 3, |inner| {
        let list = inner.clone().prop_map(|element| CqlType::List {
            element: Arc::new(element),
            frozen: true,
        });
        let map = (native(), inner.clone()).prop_map(|(key, value)| CqlType::Map {
            key: Arc::new(key),
            value: Arc::new(value),
            frozen: true,
        });
        let vector = inner.clone().prop_map(|element| CqlType::Vector {
            element: Arc::new(element),
            dimensions: 2,
        });
        let tuple = vec(inner, 1..3).prop_map(|types| CqlType::Tuple(types.into()));
        prop_oneof![list, map, vector, tuple]
    })
}

/// Bytes with the lengths that types have, collections of them, and anything.
fn bytes() -> impl Strategy<Value = Bytes> {
    let plain = prop_oneof![
        vec(any::<u8>(), 0..40),
        vec(any::<u8>(), 4..=4),
        vec(any::<u8>(), 8..=8),
        vec(any::<u8>(), 16..=16),
        "[a-z0-9]{0,6}".prop_map(String::into_bytes),
    ];
    plain.prop_map(Bytes::from).prop_recursive(3, 20, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|values| join_list(&values)),
            vec((inner.clone(), inner.clone()), 0..3).prop_map(|entries| join_map(&entries)),
            vec(proptest::option::of(inner), 0..3).prop_map(|values| join_tuple(&values)),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_printed(ty in ty(), value in bytes()) {
        if validate(&ty, &value).is_ok() {
            display::literal(&ty, &value).unwrap();
            json::to_json(&ty, Some(&value)).unwrap();
        } else {
            let _ = (display::literal(&ty, &value), json::to_json(&ty, Some(&value)));
        }
        let _ = split_list(&value);
    }

    #[test]
    fn native_values_read_back_as_they_were_printed(ty in native(), value in bytes()) {
        let printed = display::plain(&ty, &value);
        // Blobs are printed with 0x, and what is printed as nothing is an empty value.
        if let Ok(text) = printed && ty != CqlType::Blob && !text.is_empty() {
            let again = match constant::from_text(&ty, &text) {
                Ok(again) => again,
                // Far dates and scales print beyond what is read.
                Err(_) if matches!(ty, CqlType::Timestamp | CqlType::Decimal) => return Ok(()),
                Err(error) => panic!("{ty:?} {text}: {error}"),
            };
            prop_assert_eq!(display::plain(&ty, &again).unwrap(), text);
        }
    }

    #[test]
    fn any_text_is_refused_or_a_valid_value(ty in native(), text in "[-+0-9a-zA-Z:.µ ]{0,24}|\\PC{0,12}") {
        if let Ok(value) = constant::from_text(&ty, &text) {
            validate(&ty, &value).unwrap();
        }
        let _ = json::from_json_text(&ty, &text);
    }
}
