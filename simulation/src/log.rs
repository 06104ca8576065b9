//! The model of a CDC log: what is written, when whom sees it, and how a query answers. From ScyllaDB's documentation
//! and sources; knows nothing of how the relay reads.

mod port;
mod streams;
mod time;

use std::collections::BTreeMap;
use std::sync::Arc;

use relay::model::{CdcTime, SourcePosition, StreamId};
use relay::ports::{Columns, LogPage, LogQuery, LogRow, Operation, PageState, Stream, StreamSet};
use scylla::value::CqlValue;

use crate::chance::Chance;
use crate::plan::Plan;
use crate::world::Micros;
use streams::{Set, place};
pub(crate) use time::{Order, order, uuid};

type StreamKey = (i64, [u8; 16]);

pub(crate) struct Log {
    sets: Vec<Set>,
    streams: BTreeMap<StreamKey, BTreeMap<(Order, i32), Row>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) uuid: uuid::Uuid,
    pub(crate) seq: i32,
    pub(crate) operation: Operation,
    pub(crate) end: bool,
    pub(crate) token: i64,
    pub(crate) key: Arc<[u8]>,
    pub(crate) values: Vec<Option<CqlValue>>,
    pub(crate) seen: Seen,
}

/// When a row is there for readers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Some replicas have it, so a read may see it ...
    pub(crate) maybe: Micros,
    /// ... and from here on every read does.
    pub(crate) surely: Micros,
    /// It expires then, or as soon as it is settled.
    pub(crate) vanishes: Option<Micros>,
    /// Its TTL is over then, whoever has read it.
    pub(crate) expires: Micros,
    /// What the oracle knows the changes of its record by.
    pub(crate) facts: (usize, usize),
}

/// What was remarkable about an answer.
#[derive(Debug, Default, Clone)]
pub(crate) struct Remarks {
    /// The records in it, by what the oracle knows them by.
    records: Vec<(usize, usize)>,
    missed: bool,
    vanished: bool,
    returned: bool,
    cut: bool,
    empty: bool,
}

impl Log {
    pub(crate) fn new(plan: &Plan, chance: &mut Chance) -> Self {
        let sets = plan.sets.iter().map(|set| Set::new(set, plan.tablets, chance));
        Self {
            sets: sets.collect(),
            streams: BTreeMap::new(),
        }
    }

    /// The set that writes of this time belong to.
    pub(crate) fn set_at(&self, time: Micros) -> usize {
        self.sets.iter().rposition(|set| set.start <= time).unwrap_or(0)
    }

    pub(crate) fn stream(&self, set: usize, token: i64) -> [u8; 16] {
        self.sets[set].stream(token)
    }

    pub(crate) fn put(&mut self, stream: [u8; 16], rows: Vec<Row>) {
        let partition = self.streams.entry(place(&stream)).or_default();
        partition.extend(rows.into_iter().map(|row| ((order(&row.uuid), row.seq), row)));
    }

    /// The sets that are published by `now`, with their numbers.
    fn published(&self, now: Micros) -> (Vec<usize>, Vec<StreamSet>) {
        let sets = self
            .sets
            .iter()
            .enumerate()
            .filter(|(_, set)| set.published <= now);
        let stream = |(id, after, until)| Stream {
            id: StreamId(id),
            after,
            until,
        };
        sets.map(|(number, set)| {
            let streams = set.streams().into_iter().map(stream).collect();
            (
                number,
                StreamSet {
                    start: set.start,
                    streams,
                },
            )
        })
        .unzip()
    }

    /// One page as of `now`. `settled` says whether a row may have expired.
    fn page(
        &self,
        query: &LogQuery,
        now: Micros,
        rows: usize,
        chance: &mut Chance,
        settled: impl Fn(usize) -> bool,
    ) -> (LogPage, Remarks) {
        let rows = rows.min(query.page_size.max(1) as usize);
        let mut streams: Vec<StreamKey> = query.streams.iter().map(|id| place(&id.0)).collect();
        streams.sort_unstable();
        let from = query.page.as_ref().map(Place::decode);
        let until = query.until.map(|until| order(&until.0));
        let (mut page, mut remarks) = (LogPage::default(), Remarks::default());
        let mut decided: Option<(StreamKey, Order, bool)> = None;
        for stream in streams {
            if from.as_ref().is_some_and(|from| stream < from.stream) {
                continue;
            }
            let Some(partition) = self.streams.get(&stream) else {
                continue;
            };
            for ((at, seq), row) in partition.range((order(&query.from.0), i32::MIN)..) {
                if until.is_some_and(|until| *at >= until) {
                    break;
                }
                let behind = |from: &Place| stream == from.stream && (*at, *seq) <= from.at;
                if from.as_ref().is_some_and(behind) {
                    continue;
                }
                // A read sees a mutation on the replicas that it asks, whole or not at all.
                let seen = match decided {
                    Some((in_stream, record, seen)) if in_stream == stream && record == *at => seen,
                    _ => row.seen.is_seen(now, chance, &settled, &mut remarks),
                };
                decided = Some((stream, *at, seen));
                if !seen {
                    continue;
                }
                if page.rows.len() == rows {
                    let last = page.rows.last();
                    remarks.cut |= last.is_some_and(|last| {
                        last.position.stream.0 == stream.1 && order(&last.position.time.0) == *at
                    });
                    return (page, remarks);
                }
                page.rows.push(row.answer(stream.1, query.columns));
                if remarks.records.last() != Some(&row.seen.facts) {
                    remarks.records.push(row.seen.facts);
                }
                page.next = Some(
                    Place {
                        stream,
                        at: (*at, *seq),
                    }
                    .encode(),
                );
            }
        }
        // The server may not know yet that nothing follows.
        let more = !page.rows.is_empty() && rows < 100 && chance.percent(5);
        remarks.empty |= more;
        if !more {
            page.next = None;
        }
        (page, remarks)
    }
}

impl Seen {
    fn is_seen(
        &self,
        now: Micros,
        chance: &mut Chance,
        settled: impl Fn(usize) -> bool,
        remarks: &mut Remarks,
    ) -> bool {
        if now < self.maybe || now >= self.expires {
            return false;
        }
        if now < self.surely {
            let seen = chance.percent(50);
            remarks.missed |= !seen;
            return seen;
        }
        let settled = || (self.facts.0..=self.facts.1).all(&settled);
        let vanishes = self.vanishes.is_some_and(|at| at <= now) && settled();
        // A replica whose clock is behind repairs the others now and then.
        let returned = vanishes && chance.percent(20);
        remarks.returned |= returned;
        remarks.vanished |= vanishes;
        !vanishes || returned
    }
}

impl Row {
    fn answer(&self, stream: [u8; 16], columns: Columns) -> LogRow {
        LogRow {
            position: SourcePosition {
                stream: StreamId(stream),
                time: CdcTime(self.uuid),
                batch_seq_no: self.seq,
            },
            operation: self.operation,
            end_of_batch: self.end,
            token: self.token,
            key: self.key.clone(),
            values: match columns {
                Columns::Identity => Vec::new(),
                Columns::Full => self.values.clone(),
            },
            deleted: 0,
        }
    }
}

/// Behind which row a page ended.
struct Place {
    stream: StreamKey,
    at: (Order, i32),
}

impl Place {
    fn encode(&self) -> PageState {
        let mut bytes = Vec::with_capacity(36);
        bytes.extend_from_slice(&self.stream.1);
        bytes.extend_from_slice(&self.at.0.0.to_be_bytes());
        bytes.extend_from_slice(&self.at.0.1.to_be_bytes());
        bytes.extend_from_slice(&self.at.1.to_be_bytes());
        PageState(bytes.into())
    }

    fn decode(state: &PageState) -> Self {
        fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
            let mut part = [0; N];
            part.copy_from_slice(&bytes[at..at + N]);
            part
        }
        let bytes = &state.0;
        let time = (
            i64::from_be_bytes(part(bytes, 16)),
            u64::from_be_bytes(part(bytes, 24)),
        );
        Self {
            stream: place(&part(bytes, 0)),
            at: (time, i32::from_be_bytes(part(bytes, 32))),
        }
    }
}
