//! The byte order of clustering keys against orders that are computed another way.

use std::cmp::Ordering;
use std::sync::Arc;

use num_bigint::BigInt;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::CqlType;
use super::composite::{join_list, join_tuple};
use super::constant::encode_decimal;
use crate::schema::TableSchema;
use crate::schema::builder::TableBuilder;
use crate::storage::ordered::{clustering_key, compare, encode};

fn encoded(ty: &CqlType, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(ty, value, &mut out);
    out
}

/// What every type owes: order by bytes, and no encoding that begins another.
fn check(ty: &CqlType, a: &[u8], b: &[u8], expected: Ordering) {
    let (left, right) = (encoded(ty, a), encoded(ty, b));
    assert_eq!(left.cmp(&right), expected, "{ty:?} {a:?} {b:?}");
    assert_eq!(compare(ty, a, b), expected);
    assert!(
        expected.is_eq() || !right.starts_with(&left) && !left.starts_with(&right),
        "{ty:?} {a:?} {b:?}"
    );
}

fn decimal_order((a, a_scale): (i64, i8), (b, b_scale): (i64, i8)) -> Ordering {
    let raised = |number: i64, other: i8, own: i8| {
        BigInt::from(number)
            * BigInt::from(10).pow(u32::from((i16::from(other) - i16::from(own)).max(0) as u16))
    };
    raised(a, b_scale, a_scale).cmp(&raised(b, a_scale, b_scale))
}

fn table() -> TableSchema {
    TableBuilder::new("ks", "t")
        .partition_key("p", CqlType::Int)
        .clustering("a", CqlType::Text)
        .clustering_desc("b", CqlType::Int)
        .clustering_desc("c", CqlType::Blob)
        .build()
}

proptest! {
    #[test]
    fn integers(a in any::<i64>(), b in any::<i64>()) {
        for ty in [CqlType::Bigint, CqlType::Timestamp, CqlType::Time, CqlType::Counter] {
            check(&ty, &a.to_be_bytes(), &b.to_be_bytes(), a.cmp(&b));
        }
        let (a, b) = (a as i32, b as i32);
        check(&CqlType::Int, &a.to_be_bytes(), &b.to_be_bytes(), a.cmp(&b));
        check(&CqlType::Date, &a.to_be_bytes(), &b.to_be_bytes(), (a as u32).cmp(&(b as u32)));
        check(&CqlType::Smallint, &(a as i16).to_be_bytes(), &(b as i16).to_be_bytes(), (a as i16).cmp(&(b as i16)));
        check(&CqlType::Tinyint, &(a as i8).to_be_bytes(), &(b as i8).to_be_bytes(), (a as i8).cmp(&(b as i8)));
    }

    #[test]
    fn floats(a in any::<f64>(), b in any::<f64>()) {
        check(&CqlType::Double, &a.to_be_bytes(), &b.to_be_bytes(), a.total_cmp(&b));
        let (a, b) = (a as f32, b as f32);
        check(&CqlType::Float, &a.to_be_bytes(), &b.to_be_bytes(), a.total_cmp(&b));
    }

    #[test]
    fn big_numbers(a in vec(any::<u8>(), 1..12), b in vec(any::<u8>(), 1..12)) {
        let order = BigInt::from_signed_bytes_be(&a).cmp(&BigInt::from_signed_bytes_be(&b));
        check(&CqlType::Varint, &a, &b, order);
    }

    #[test]
    fn decimals(a in (any::<i64>(), any::<i8>()), b in (any::<i64>(), any::<i8>()), small in (-20..20i64, -20..20i64)) {
        let value = |(number, scale): (i64, i8)| encode_decimal(&number.into(), scale.into());
        check(&CqlType::Decimal, &value(a), &value(b), decimal_order(a, b));
        let (a, b) = ((small.0, a.1 % 4), (small.1, b.1 % 4));
        check(&CqlType::Decimal, &value(a), &value(b), decimal_order(a, b));
    }

    #[test]
    fn bytes_and_texts(a in vec(0..3u8, 0..5), b in vec(0..3u8, 0..5)) {
        check(&CqlType::Blob, &a, &b, a.cmp(&b));
        check(&CqlType::Text, &a, &b, a.cmp(&b));
    }

    /// reference: ScyllaDB `utils/UUID.hh`, `timeuuid_tri_compare`: time, then the low bytes as signed ones.
    #[test]
    fn timeuuids(time in any::<[u64; 2]>(), low in any::<[[i8; 8]; 2]>(), same_time in any::<bool>()) {
        let times = [time[0] >> 4, if same_time { time[0] >> 4 } else { time[1] >> 4 }];
        let uuid = |i: usize| {
            let t = times[i];
            let high = (t << 32) | ((t >> 16) & 0xffff_0000) | 0x1000 | (t >> 48);
            [high.to_be_bytes(), low[i].map(|byte| byte as u8)].concat()
        };
        let order = (times[0], low[0]).cmp(&(times[1], low[1]));
        check(&CqlType::Timeuuid, &uuid(0), &uuid(1), order);
    }

    #[test]
    fn collections_go_element_by_element(a in vec(-2..2i32, 0..4), b in vec(-2..2i32, 0..4)) {
        let ty = CqlType::List { element: Arc::new(CqlType::Int), frozen: true };
        let value = |list: &[i32]| join_list(&list.iter().map(|i| i.to_be_bytes()).collect::<Vec<_>>());
        check(&ty, &value(&a), &value(&b), a.cmp(&b));
    }

    #[test]
    fn tuples_put_null_first(a in (any::<Option<i8>>(), "[ab]{0,2}"), b in (any::<Option<i8>>(), "[ab]{0,2}")) {
        let ty = CqlType::Tuple(vec![CqlType::Tinyint, CqlType::Text].into());
        let value = |(number, text): &(Option<i8>, String)| {
            join_tuple(&[number.map(|number| vec![number as u8]), Some(text.clone().into_bytes())])
        };
        check(&ty, &value(&a), &value(&b), a.cmp(&b));
    }

    #[test]
    fn keys_go_by_column_and_prefixes_begin_what_extends_them(
        a in ("[ab]{0,2}", -2..2i32, vec(0..2u8, 0..3)),
        b in ("[ab]{0,2}", -2..2i32, vec(0..2u8, 0..3)),
    ) {
        let table = table();
        let key = |(text, number, blob): &(String, i32, Vec<u8>), columns: usize| {
            let number = number.to_be_bytes();
            clustering_key(&table, &[text.as_bytes(), &number, blob][..columns]).ordered().to_vec()
        };
        let order = a.0.cmp(&b.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2));
        prop_assert_eq!(key(&a, 3).cmp(&key(&b, 3)), order);
        for columns in 0..3 {
            prop_assert!(key(&a, 3).starts_with(&key(&a, columns)));
            let shares = [a.0 == b.0, a.1 == b.1][..columns.min(2)].iter().all(|same| *same);
            prop_assert_eq!(key(&b, 3).starts_with(&key(&a, columns)), shares);
        }
    }
}
