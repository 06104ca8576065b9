use scylla::value::CqlTimestamp;

use super::*;
use crate::model::{CdcTime, RowId, SlotId, StreamId};

fn position() -> SourcePosition {
    SourcePosition {
        stream: StreamId([7; 16]),
        time: CdcTime::min_of(1_700_000_000_000_000),
        batch_seq_no: 2,
    }
}

fn event(operation: EventOperation, values: Vec<Option<CqlValue>>) -> SourceEvent {
    SourceEvent {
        position: position(),
        row_id: RowId(1),
        slot: SlotId::of_token(0),
        ownership: 0,
        token: 0,
        values,
        operation,
        late: false,
        reconciled: false,
    }
}

fn columns() -> Columns {
    Columns {
        headers: Some("headers".into()),
        trace_context: Some("trace".into()),
        ..Columns::default()
    }
}

/// id, aggregate_id, event_type, payload, aggregate_type, created_at, headers, trace, region
fn mapping() -> Mapping {
    Mapping::new(&columns(), ["region", "aggregate_id"], |name| {
        ["aggregate_type", "created_at"].contains(&name)
    })
}

fn text_value(value: &str) -> Option<CqlValue> {
    Some(CqlValue::Text(value.into()))
}

fn whole_row() -> Vec<Option<CqlValue>> {
    let headers = vec![
        (CqlValue::Text("a".into()), CqlValue::Text("1".into())),
        (CqlValue::Text("b".into()), CqlValue::Blob(vec![0])),
    ];
    vec![
        Some(CqlValue::Uuid(Uuid::from_u128(1))),
        Some(CqlValue::BigInt(42)),
        text_value("OrderCreated"),
        text_value("{}"),
        text_value("order"),
        Some(CqlValue::Timestamp(CqlTimestamp(1_700_000_000_123))),
        Some(CqlValue::Map(headers)),
        text_value("00-ab"),
        text_value("eu"),
    ]
}

#[test]
fn columns_are_mapped_once_each() {
    assert_eq!(
        mapping().names(),
        [
            "id",
            "aggregate_id",
            "event_type",
            "payload",
            "aggregate_type",
            "created_at",
            "headers",
            "trace",
            "region"
        ]
    );
    let plain = Mapping::new(&Columns::default(), [], |_| false);
    assert_eq!(plain.names(), ["id", "aggregate_id", "event_type", "payload"]);
    assert_eq!(mapping().index("region"), Some(8));
    assert_eq!(mapping().index("elsewhere"), None);
}

#[test]
fn a_whole_row_is_read_whole() {
    let (decoded, problem) = mapping().decode(event(EventOperation::Insert, whole_row()));
    assert_eq!(problem, Ok(()));
    assert_eq!(decoded.id, Uuid::from_u128(1).to_string());
    assert_eq!(decoded.aggregate_id.as_deref(), Some("42"));
    assert_eq!(decoded.event_type.as_deref(), Some("OrderCreated"));
    assert_eq!(decoded.payload, Some(Bytes::from_static(b"{}")));
    assert_eq!(decoded.aggregate_type.as_deref(), Some("order"));
    assert_eq!(decoded.created_at, Some(1_700_000_000_123_000));
    assert_eq!(
        decoded.headers,
        [("a".into(), "1".into()), ("b".into(), Bytes::from_static(&[0]))]
    );
    assert_eq!(decoded.trace_context.as_deref(), Some("00-ab"));
    assert_eq!(decoded.column(8), Ok(Some("eu".into())));
    assert_eq!(decoded.column(6), Err(Unrenderable("map")));
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_kept() {
    let check = |at: usize, value: Option<CqlValue>, expected: &str| {
        let mut row = whole_row();
        row[at] = value;
        let (decoded, problem) = mapping().decode(event(EventOperation::Insert, row));
        assert_eq!(
            problem.map_err(|error| error.to_string()),
            Err(expected.to_owned())
        );
        assert_eq!(
            decoded.column(8),
            Ok(Some("eu".into())),
            "the rest is still there"
        );
    };
    check(0, None, "column id is null; an event needs it");
    check(1, None, "column aggregate_id is null; an event needs it");
    check(2, None, "column event_type is null; an event needs it");
    let list = "a value of type list has no text form; use a scalar type such as text, uuid, timeuuid, int, bigint or blob";
    check(
        1,
        Some(CqlValue::List(vec![])),
        &format!("column aggregate_id: {list}"),
    );
    check(
        3,
        Some(CqlValue::List(vec![])),
        &format!("column payload: {list}"),
    );
    let headers = "message headers are a map<text, text> or a map<text, blob>";
    check(
        6,
        Some(CqlValue::Int(1)),
        &format!("column headers holds another type; {headers}"),
    );
    let map = CqlValue::Map(vec![(CqlValue::Int(1), CqlValue::Int(1))]);
    check(
        6,
        Some(map),
        &format!("column headers holds a map of other types; {headers}"),
    );
}

#[test]
fn an_unreadable_id_becomes_a_stable_uuid_of_the_position() {
    let mut row = whole_row();
    row[0] = None;
    let (first, _) = mapping().decode(event(EventOperation::Insert, row.clone()));
    let (second, _) = mapping().decode(event(EventOperation::Insert, row));
    assert_eq!(first.id, second.id);
    assert_eq!(Uuid::parse_str(&first.id).unwrap().get_version_num(), 5);
    let elsewhere = SourcePosition {
        batch_seq_no: 3,
        ..position()
    };
    assert_ne!(position_id(&position()), position_id(&elsewhere));
}

#[test]
fn a_delete_carries_its_key_only() {
    let mut row = vec![None; 9];
    row[1] = text_value("a-1");
    let (decoded, problem) = mapping().decode(event(EventOperation::Delete, row));
    assert_eq!(problem, Ok(()));
    assert_eq!(
        (decoded.aggregate_id.as_deref(), decoded.payload),
        (Some("a-1"), None)
    );
}

#[test]
fn creation_times_come_in_several_types() {
    let micros = 1_700_000_000_123_000;
    let timeuuid = CdcTime::min_of(micros).0;
    let check = |value: CqlValue, expected| assert_eq!(created_at(&value), expected, "{value:?}");
    check(CqlValue::Timestamp(CqlTimestamp(1_700_000_000_123)), Some(micros));
    check(CqlValue::BigInt(1_700_000_000_123), Some(micros));
    check(CqlValue::Timeuuid(timeuuid.into()), Some(micros));
    check(CqlValue::Text("2023-11-14T22:13:20.123Z".into()), Some(micros));
    check(CqlValue::Text("yesterday".into()), None);
    check(CqlValue::Timestamp(CqlTimestamp(i64::MAX)), None);
}
