//! What is done with an input, one function per fuzz target. `relay/tests/fuzz_corpus.rs` includes this file and replays
//! the corpus.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use crds::names::is_topic;
use crds::source::Columns;
use crds::topic_template::TopicTemplate;
use crds::{Sink, load};
use relay::decode::Mapping;
use relay::deliver::prepare::Preparer;
use relay::event::SourceEvent;
use relay::journal::{self, Entry};
use relay::metrics::EventLabel;
use relay::model::{CdcTime, SlotId, SourcePosition, StreamId};
use relay::ports::{LogRow, Operation, SegmentKey};
use relay::route::{Router, extra_columns};
use relay::source::record::{Assembler, Change, Rules, Verdict};
use relay::state::checkpoint;
use scylla::value::{
    CqlDate, CqlDecimal, CqlDuration, CqlTime, CqlTimestamp, CqlTimeuuid, CqlValue, CqlVarint,
};
use uuid::Uuid;

const IDENTITY: &str = "shop.orders";

/// A configuration is refused with reasons, or everything that is made of it can be made.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match load(text, Path::new("/secrets")) {
        Ok(config) => {
            Preparer::new(&config.source, &config.sink, |_| true)
                .expect("validation refused what cannot be made");
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(
                problems.iter().all(|problem| !problem.accepted.is_empty()),
                "{problems}"
            );
        }
    }
}

/// A template is refused, or makes topic names that Kafka takes of the values in the lines behind it.
pub fn topic(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut lines = text.split('\n');
    let sink = Sink {
        topic: lines.next().unwrap_or_default().to_owned(),
        ..Sink::default()
    };
    let columns = extra_columns(&sink);
    let mapping = Mapping::new(&Columns::default(), columns.iter().map(String::as_str), |_| false);
    let Ok(router) = Router::new(&sink, &mapping) else {
        assert!(
            TopicTemplate::parse(&sink.topic).is_err(),
            "every column of it is mapped"
        );
        return;
    };
    let values = mapping
        .names()
        .iter()
        .map(|_| Some(CqlValue::Text(lines.next()?.to_owned())));
    let (event, _) = mapping.decode(event(values.collect()));
    if let Ok(topic) = router.topic(&event) {
        assert!(is_topic(&topic), "{topic:?}");
    }
}

/// Bytes are refused, or are what the segment's ids are written as; also where the checksum happens to fit.
pub fn checkpoint(bytes: &[u8]) {
    let slot = SlotId::of_token(0);
    let key = SegmentKey {
        second: 7,
        revision: 1024,
    };
    let mut place = Vec::from(IDENTITY);
    place.extend([0xff, slot.index() as u8]);
    place.extend(key.second.to_be_bytes());
    place.extend(key.revision.to_be_bytes());
    for blob in [bytes.to_vec(), with_checksum(&place, bytes)] {
        if let Some(ids) = checkpoint::decode_segment(IDENTITY, slot, key, &blob) {
            assert_eq!(checkpoint::encode_segment(IDENTITY, slot, key, &ids), blob);
        }
    }
}

/// Bytes are refused, or are what the entry is written as; also where the checksum happens to fit.
pub fn journal(bytes: &[u8]) {
    let place = |identity: &[u8]| [identity, &[0xff]].concat();
    let head_of = bytes.get(18..).unwrap_or_default();
    let sealed = [IDENTITY.as_bytes(), head_of].map(|identity| with_checksum(&place(identity), bytes));
    for value in [&[bytes.to_vec()][..], &sealed].concat() {
        match journal::decode(IDENTITY, Some(&value)) {
            Ok(Entry::Head(head)) => assert_eq!(head.encode(), value),
            Ok(Entry::Record(record)) => assert_eq!(record.encode(IDENTITY), value),
            Err(_) => {}
        }
    }
}

/// Whatever rows a log holds, and however its pages cut them: each of them is in one change at most, in order, and its
/// values become a message or a reason why not.
pub fn record(bytes: &[u8]) {
    let mut input = Input(bytes);
    let rules = Rules {
        forward_changes: input.flag(),
        own_deletes: false,
        required: u64::from(input.byte() % 16),
        from_postimage: input.flag(),
    };
    let (mut assembler, mut changes, mut rows) = (Assembler::default(), Vec::new(), 0);
    let mut at = (0, 0);
    while !input.0.is_empty() {
        let page: Vec<_> = (0..input.byte() % 8).map(|_| row(&mut input, &mut at)).collect();
        rows += page.len();
        let settled = i64::from(input.byte());
        assembler.add(page, settled, &rules, &mut changes);
        match input.byte() % 8 {
            0 => assembler.break_off(settled, &rules, &mut changes),
            1 => assembler.rewind(),
            _ => {}
        }
    }
    assert!(changes.len() <= rows, "{} changes of {rows} rows", changes.len());
    let order = |change: &Change| (change.position.time.micros(), change.position.batch_seq_no);
    assert!(changes.is_sorted_by_key(order), "{changes:?}");
    let sink = Sink {
        topic: "${c4}-events".to_owned(),
        ..Sink::default()
    };
    let preparer = Preparer::new(&crds::Source::default(), &sink, |_| false).expect("a topic template");
    for change in changes {
        if let Verdict::Event(operation) = change.verdict {
            let event = SourceEvent {
                operation,
                ..event(change.values)
            };
            preparer.prepare(event, |_| EventLabel::default());
        }
    }
}

fn with_checksum(place: &[u8], bytes: &[u8]) -> Vec<u8> {
    let checksum = crc32fast::hash(&[place, bytes].concat());
    [bytes, &checksum.to_be_bytes()].concat()
}

fn event(values: Vec<Option<CqlValue>>) -> SourceEvent {
    let position = SourcePosition {
        stream: StreamId([0; 16]),
        time: CdcTime::min_of(0),
        batch_seq_no: 0,
    };
    SourceEvent {
        position,
        row_id: position.row_id(),
        slot: SlotId::of_token(0),
        ownership: 0,
        token: 0,
        values,
        operation: relay::event::EventOperation::Insert,
        late: false,
        reconciled: false,
    }
}

/// The next row of a log that is read in order.
fn row(input: &mut Input<'_>, (time, batch_seq_no): &mut (i64, i32)) -> LogRow {
    match input.byte() % 4 {
        0 => (*time, *batch_seq_no) = (*time + i64::from(input.byte()) + 1, 0),
        _ => *batch_seq_no += 1,
    }
    let operations = [
        Operation::PreImage,
        Operation::Update,
        Operation::Insert,
        Operation::Insert,
        Operation::RowDelete,
        Operation::PartitionDelete,
        Operation::RangeDelete,
        Operation::PostImage,
        Operation::Expiration,
        Operation::Unknown(99),
    ];
    LogRow {
        position: SourcePosition {
            stream: StreamId([0; 16]),
            time: CdcTime::min_of(*time),
            batch_seq_no: *batch_seq_no,
        },
        operation: operations[usize::from(input.byte()) % operations.len()],
        end_of_batch: input.flag(),
        token: i64::from(input.byte()),
        key: Arc::from([input.byte() % 3]),
        values: (0..input.byte() % 6).map(|_| value(input, 2)).collect(),
        deleted: u64::from(input.byte()),
    }
}

fn value(input: &mut Input<'_>, depth: u8) -> Option<CqlValue> {
    let nested = |input: &mut Input<'_>| -> Vec<CqlValue> {
        let count = if depth == 0 { 0 } else { input.byte() % 4 };
        (0..count).filter_map(|_| value(input, depth - 1)).collect()
    };
    Some(match input.byte() % 28 {
        0 => return None,
        1 => CqlValue::Ascii(input.text()),
        2..6 => CqlValue::Text(input.text()),
        6 => CqlValue::Blob(input.bytes().to_vec()),
        7 => CqlValue::Boolean(input.flag()),
        8 => CqlValue::Date(CqlDate(input.number() as u32)),
        9 => CqlValue::Decimal(CqlDecimal::from_signed_be_bytes_and_exponent(
            input.bytes().to_vec(),
            input.number() as i32,
        )),
        10 => CqlValue::Double(f64::from_bits(input.number() as u64)),
        11 => CqlValue::Float(f32::from_bits(input.number() as u32)),
        12 => CqlValue::Duration(CqlDuration {
            months: input.number() as i32,
            days: input.number() as i32,
            nanoseconds: input.number(),
        }),
        13 => CqlValue::Empty,
        14 => CqlValue::Int(input.number() as i32),
        15 => CqlValue::BigInt(input.number()),
        16 => CqlValue::SmallInt(input.number() as i16),
        17 => CqlValue::TinyInt(input.number() as i8),
        18 => CqlValue::Timestamp(CqlTimestamp(input.number())),
        19 => CqlValue::Time(CqlTime(input.number())),
        20 => CqlValue::Timeuuid(CqlTimeuuid::from(Uuid::from_u64_pair(input.number() as u64, 7))),
        21 => CqlValue::Uuid(Uuid::from_u64_pair(input.number() as u64, 7)),
        22 => CqlValue::Varint(CqlVarint::from_signed_bytes_be(input.bytes().to_vec())),
        23 => CqlValue::Inet(IpAddr::V4(Ipv4Addr::from_bits(input.number() as u32))),
        24 => CqlValue::List(nested(input)),
        25 => CqlValue::Tuple(nested(input).into_iter().map(Some).collect()),
        _ => CqlValue::Map(
            nested(input)
                .chunks_exact(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect(),
        ),
    })
}

/// Bytes, zeros once they are used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        self.0.split_off(..length).unwrap_or_default()
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    fn number(&mut self) -> i64 {
        let mut bytes = [0; 8];
        let given = self.bytes();
        let length = given.len().min(8);
        bytes[8 - length..].copy_from_slice(&given[..length]);
        i64::from_be_bytes(bytes)
    }
}
