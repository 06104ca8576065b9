//! The model log: rows that become visible at their time, streams that are published at theirs.

use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

use super::{MS, START, rng};
use crate::model::{CdcTime, Micros, SECOND, SourcePosition, StreamId};
use crate::ports::{LogPage, LogQuery, LogRow, Operation, PageState, Stream, StreamSet};

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) row: LogRow,
    pub(super) visible: Micros,
}

/// What the database holds, now and in future.
#[derive(Debug)]
pub(in super::super) struct World {
    pub(super) rows: Vec<Row>,
    /// With the time of publication.
    pub(super) sets: Vec<(StreamSet, Micros)>,
    rng: StdRng,
}

fn ring(start: Micros, count: u64) -> StreamSet {
    let edge = |i: u64| ((u128::from(i % count) << 64) / u128::from(count)) as u64 ^ (1 << 63);
    let stream = |i: u64| {
        let (after, until) = (edge(i).wrapping_sub(1) as i64, edge(i + 1).wrapping_sub(1) as i64);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&until.to_be_bytes());
        id[8..].copy_from_slice(&(start as u64).to_be_bytes());
        Stream {
            id: StreamId(id),
            after,
            until,
        }
    };
    StreamSet {
        start,
        streams: (0..count).map(stream).collect(),
    }
}

impl World {
    pub(in super::super) fn one_set(streams: u64) -> Self {
        let start = START - 10_000 * SECOND;
        Self {
            rows: Vec::new(),
            sets: vec![(ring(start, streams), start)],
            rng: rng(42),
        }
    }

    pub(in super::super) fn add_set(&mut self, start: Micros, published: Micros, streams: u64) {
        self.sets.push((ring(start, streams), published));
    }

    /// Writes an event of an aggregate.
    pub(in super::super) fn write(&mut self, aggregate: u64, time: Micros, visible: Micros) {
        let current = self.sets.iter().rposition(|(set, _)| set.start <= time).unwrap();
        self.put(current, aggregate, time, visible, 1);
    }

    /// Deletes an event of an aggregate, as outboxes do that clean up at once.
    pub(in super::super) fn delete(&mut self, aggregate: u64, time: Micros) {
        self.write(aggregate, time, time + MS);
        if let Some(deleted) = self.rows.last_mut() {
            deleted.row.operation = Operation::RowDelete;
        }
    }

    /// Writes a record of two rows whose end becomes visible at `end`, if ever.
    pub(in super::super) fn write_broken(&mut self, aggregate: u64, time: Micros, end: Option<Micros>) {
        self.write_rows(aggregate, time, 2);
        let last = self.rows.len() - 1;
        match end {
            Some(end) => self.rows[last].visible = end,
            None => self.rows.truncate(last),
        }
    }

    /// Writes as a coordinator does that does not know of the newest set.
    pub(in super::super) fn write_old(&mut self, aggregate: u64, time: Micros, visible: Micros) {
        self.put(0, aggregate, time, visible, 1);
    }

    /// Writes an event whose record has several rows.
    pub(in super::super) fn write_rows(&mut self, aggregate: u64, time: Micros, rows: i32) {
        let current = self.sets.iter().rposition(|(set, _)| set.start <= time).unwrap();
        self.put(current, aggregate, time, time + MS, rows);
    }

    fn put(&mut self, set: usize, aggregate: u64, time: Micros, visible: Micros, rows: i32) {
        let token = (aggregate.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (aggregate << 7)) as i64;
        let holds = |stream: &&Stream| {
            let span = stream.until.wrapping_sub(stream.after) as u64;
            let at = token.wrapping_sub(stream.after) as u64;
            span == 0 || (at >= 1 && at <= span)
        };
        let stream = self.sets[set].0.streams.iter().find(holds).unwrap().id;
        let time = CdcTime::from_parts(time, self.rng.random());
        for seq in 0..rows {
            let row = LogRow {
                position: SourcePosition {
                    stream,
                    time,
                    batch_seq_no: seq,
                },
                operation: if seq == 0 {
                    Operation::Insert
                } else {
                    Operation::Update
                },
                end_of_batch: seq == rows - 1,
                token,
                key: Arc::from(aggregate.to_be_bytes()),
                values: Vec::new(),
                deleted: 0,
            };
            self.rows.push(Row { row, visible });
        }
    }

    pub(super) fn seal(&mut self) {
        self.rows
            .sort_by_key(|row| (row.row.position.stream.token(), row.row.position));
    }

    /// A page as of `at`.
    pub(super) fn read(&self, query: &LogQuery, at: Micros, page_size: usize) -> LogPage {
        let after = query
            .page
            .as_ref()
            .map(|page| usize::from_be_bytes(page.0.as_ref().try_into().unwrap()));
        let first = after.map_or(0, |after| after + 1);
        let mut page = LogPage::default();
        let mut streams = query.streams.to_vec();
        streams.sort_by_key(|stream| (stream.token(), *stream));
        for stream in streams {
            let key = |row: &Row| {
                (
                    row.row.position.stream.token(),
                    row.row.position.stream,
                    row.row.position.time,
                )
            };
            let from = self
                .rows
                .partition_point(|row| key(row) < (stream.token(), stream, query.from));
            for (index, row) in self.rows.iter().enumerate().skip(from.max(first)) {
                let position = row.row.position;
                if position.stream != stream || query.until.is_some_and(|until| position.time >= until) {
                    break;
                }
                if row.visible > at {
                    continue;
                }
                if page.rows.len() == page_size.min(query.page_size as usize) {
                    // Continues behind the last row that was returned.
                    return page;
                }
                page.rows.push(row.row.clone());
                page.next = Some(PageState(Bytes::copy_from_slice(&index.to_be_bytes())));
            }
        }
        page.next = None;
        page
    }
}
