//! What the relay makes of an outbox row beside what others make of it: Debezium's outbox event router with Kafka Connect's
//! converters, and the CloudEvents SDK for Python. Both are the real thing, fetched by `scripts/clients.sh`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crds::envelope::{CloudEvents, Debezium, DebeziumConverter, DebeziumEventType, Envelope};
use crds::sink::PayloadFormat;
use crds::{Sink, Source};
use openssl::base64::{decode_block, encode_block};
use relay::deliver::prepare::Preparer;
use relay::encode::Message;
use relay::event::{EventOperation, SourceEvent};
use relay::metrics::EventLabel;
use relay::model::{CdcTime, RowId, SlotId, SourcePosition, StreamId};
use scylla::value::{CqlTimestamp, CqlValue};
use serde_json::{Value, json};

const JSON: &str = r#"{"id":1,"note":"ä \"quoted\"","lines":[{"sku":"x","price":1.5}]}"#;

#[test]
fn debeziums_consumers_see_what_debezium_would_send() {
    use DebeziumConverter::{Json, JsonWithSchemas, Plain};
    use DebeziumEventType::{Envelope as Body, Header};
    use PayloadFormat::{Json as JsonPayload, Raw, Text};
    let cases = [
        (Plain, Header, Raw, b"\x00\xffbytes".as_slice()),
        (Plain, Header, Text, b"plain text"),
        (Plain, Header, Text, JSON.as_bytes()),
        (Json, Header, Raw, b"\x00\xffbytes"),
        (Json, Header, Text, JSON.as_bytes()),
        (Json, Header, JsonPayload, JSON.as_bytes()),
        (Json, Body, Raw, b"bytes"),
        (Json, Body, Text, b"plain text"),
        (Json, Body, JsonPayload, JSON.as_bytes()),
        (JsonWithSchemas, Header, Raw, b"\x00\xffbytes"),
        (JsonWithSchemas, Header, Text, JSON.as_bytes()),
    ];
    let event = |(converter, event_type, format, payload): &(_, _, _, &[u8])| {
        json!({
            "converter": format!("{converter:?}"), "eventType": format!("{event_type:?}"),
            "format": format!("{format:?}"), "payload": encode_block(payload),
            "id": "e-1", "aggregateId": "a-1", "type": "OrderCreated",
        })
    };
    let theirs = ask("debezium", &cases.iter().map(event).collect::<Vec<_>>());
    assert_eq!(theirs.len(), cases.len());
    for ((converter, event_type, format, payload), theirs) in cases.into_iter().zip(theirs) {
        let ours = message(
            &Sink {
                envelope: Envelope::Debezium,
                debezium: Some(Debezium {
                    converter,
                    event_type,
                }),
                payload_format: format,
                ..Sink::default()
            },
            payload,
        );
        let case = format!("{converter:?} {event_type:?} {format:?}");
        assert_eq!(ours.key.as_deref(), Some(&*bytes(&theirs["key"])), "{case}: key");
        let value = ours.payload.as_deref().unwrap();
        assert_eq!(text(value), text(&bytes(&theirs["value"])), "{case}: value");
        let headers = headers(&ours);
        let expected = theirs["headers"].as_object().unwrap();
        assert_eq!(expected.contains_key("eventType"), event_type == Header, "{case}");
        for (name, value) in expected {
            assert_eq!(headers.get(name), Some(&bytes(value)), "{case}: header {name}");
        }
        assert_eq!(headers.contains_key("eventType"), event_type == Header, "{case}");
    }
}

#[test]
fn the_cloudevents_sdk_reads_what_the_relay_sends() {
    use Envelope::{CloudEventsBinary, CloudEventsStructured};
    use PayloadFormat::{Json, Raw, Text};
    let data = |value: Value| json!({ "value": value });
    let encoded = |bytes: &[u8]| json!({ "base64": encode_block(bytes) });
    let cases = [
        (
            CloudEventsBinary,
            Json,
            JSON.as_bytes(),
            data(serde_json::from_str(JSON).unwrap()),
        ),
        (
            CloudEventsBinary,
            Text,
            "plain ä".as_bytes(),
            data("plain ä".into()),
        ),
        (CloudEventsBinary, Raw, b"\x00\xff", encoded(b"\x00\xff")),
        (
            CloudEventsStructured,
            Json,
            JSON.as_bytes(),
            data(serde_json::from_str(JSON).unwrap()),
        ),
        (
            CloudEventsStructured,
            Text,
            "plain ä".as_bytes(),
            data("plain ä".into()),
        ),
        (CloudEventsStructured, Raw, b"\x00\xff", encoded(b"\x00\xff")),
    ];
    let sent = cases.iter().map(|(envelope, format, payload, _)| {
        let cloud_events = Some(CloudEvents {
            source: (*format == Json).then(|| "/shop/orders".to_owned()),
            data_content_type: None,
        });
        let ours = message(
            &Sink {
                envelope: *envelope,
                cloud_events,
                payload_format: *format,
                ..Sink::default()
            },
            payload,
        );
        let headers: BTreeMap<_, _> = headers(&ours)
            .into_iter()
            .map(|(name, value)| (name, encode_block(&value)))
            .collect();
        json!({
            "key": encode_block(ours.key.as_deref().unwrap()),
            "value": encode_block(ours.payload.as_deref().unwrap()),
            "headers": headers,
        })
    });
    let read = ask("cloudevents", &sent.collect::<Vec<_>>());
    assert_eq!(read.len(), cases.len());
    for ((envelope, format, _, expected), event) in cases.into_iter().zip(read) {
        let case = format!("{envelope:?} {format:?}");
        let (source, content_type) = match format {
            Json => ("/shop/orders", "application/json"),
            Text => ("/ks/outbox", "text/plain"),
            Raw => ("/ks/outbox", "application/octet-stream"),
        };
        let attributes = json!({
            "specversion": "1.0", "id": "e-1", "source": source, "type": "OrderCreated", "subject": "a-1",
            "time": "2026-01-31 12:00:00.250000+00:00", "datacontenttype": content_type, "partitionkey": "a-1",
            "traceparent": TRACEPARENT,
        });
        assert_eq!(event["attributes"], attributes, "{case}");
        for field in ["value", "base64"] {
            assert_eq!(event.get(field), expected.get(field), "{case}");
        }
    }
}

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The message of an event `e-1` of aggregate `a-1`.
fn message(sink: &Sink, payload: &[u8]) -> Message {
    let mut source = Source {
        keyspace: "ks".into(),
        table: "outbox".into(),
        ..Source::default()
    };
    source.columns.created_at = Some("created_at".into());
    source.columns.trace_context = Some("traceparent".into());
    let sink = Sink {
        topic: "t".into(),
        ..sink.clone()
    };
    let preparer = Preparer::new(&source, &sink, |_| false).unwrap();
    let value = |name: &str| match name {
        "id" => CqlValue::Text("e-1".into()),
        "aggregate_id" => CqlValue::Text("a-1".into()),
        "event_type" => CqlValue::Text("OrderCreated".into()),
        "payload" => CqlValue::Blob(payload.to_vec()),
        "created_at" => CqlValue::Timestamp(CqlTimestamp(1_769_860_800_250)),
        "traceparent" => CqlValue::Text(TRACEPARENT.into()),
        other => panic!("unexpected column {other}"),
    };
    let row = SourceEvent {
        position: SourcePosition {
            stream: StreamId([0; 16]),
            time: CdcTime::min_of(0),
            batch_seq_no: 0,
        },
        row_id: RowId(0),
        slot: SlotId::of_token(0),
        ownership: 0,
        token: 0,
        values: preparer.columns().iter().map(|name| Some(value(name))).collect(),
        operation: EventOperation::Insert,
        late: false,
        reconciled: false,
    };
    let event = preparer.prepare(row, |_| EventLabel::default());
    assert_eq!(event.problem, None);
    event.message
}

fn headers(message: &Message) -> BTreeMap<String, Vec<u8>> {
    message
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_vec()))
        .collect()
}

/// A JSON text of base64, or a header's own text.
fn bytes(value: &Value) -> Vec<u8> {
    decode_block(value.as_str().unwrap()).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Hands cases to a client, a line each, and returns its answers.
fn ask(client: &str, cases: &[Value]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/clients.sh");
    let mut child = Command::new(script)
        .arg(client)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    for case in cases {
        writeln!(input, "{case}").unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{client} failed");
    let lines = text(&output.stdout);
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
