//! One paged read of some streams and a time range, whole or not at all.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::{CdcTime, Micros, SECOND, StreamId};
use crate::ports::{Columns, LogPage, LogQuery, LogRow, PageState};
use crate::source::record::{Assembler, Change, Rules};

/// Rows of a page with all columns: about 1 MB at 500 bytes a row, which is also where ScyllaDB ends a page.
const FULL_PAGE: i32 = 2000;

/// Rows of a page with identity columns only, about 60 bytes each.
const IDENTITY_PAGE: i32 = 5000;

/// Behind rows younger than this others are still becoming visible.
const YOUNG: Micros = 2 * SECOND;

#[derive(Debug)]
pub(super) struct Scan {
    /// Read one after the other.
    segments: VecDeque<Segment>,
    until: Option<Micros>,
    columns: Columns,
    /// After a page that ends among young rows, read on with a fresh query that starts this much earlier, so that a
    /// row that became visible meanwhile is not overtaken. None: with the page state.
    overlap: Option<Micros>,
    assembler: Assembler,
    /// When the first query started.
    started: Option<Micros>,
    /// Rows seen.
    pub(super) rows: usize,
}

#[derive(Debug)]
struct Segment {
    streams: Arc<[StreamId]>,
    from: Micros,
    page: Option<PageState>,
    /// Streams of which rows were seen; all but the last are read to their end.
    seen: Vec<StreamId>,
}

impl Scan {
    /// Everything that was visible when it started.
    pub(super) fn new(
        streams: Arc<[StreamId]>,
        from: Micros,
        until: Option<Micros>,
        columns: Columns,
    ) -> Self {
        Self {
            segments: VecDeque::from([Segment::new(streams, from)]),
            until,
            columns,
            overlap: None,
            assembler: Assembler::default(),
            started: None,
            rows: 0,
        }
    }

    pub(super) fn restarting_young(mut self, overlap: Micros) -> Self {
        self.overlap = Some(overlap);
        self
    }

    /// The next query; None if everything is read.
    pub(super) fn query(&self) -> Option<LogQuery> {
        let segment = self.segments.front()?;
        Some(LogQuery {
            streams: Arc::clone(&segment.streams),
            from: CdcTime::min_of(segment.from),
            until: self.until.map(CdcTime::min_of),
            columns: self.columns,
            page_size: match self.columns {
                Columns::Identity => IDENTITY_PAGE,
                Columns::Full => FULL_PAGE,
            },
            page: segment.page.clone(),
        })
    }

    pub(super) fn started(&self) -> Option<Micros> {
        self.started
    }

    /// The answer to [`Self::query`], which was asked at `started`. What is older than `grace` is as complete as it
    /// will ever be.
    pub(super) fn on_page(
        &mut self,
        page: LogPage,
        started: Micros,
        (grace, rules): (Micros, &Rules),
        changes: &mut Vec<Change>,
    ) {
        let settled = *self.started.get_or_insert(started) - grace;
        self.rows += page.rows.len();
        let Some(segment) = self.segments.front_mut() else {
            return;
        };
        segment.note(&page.rows);
        let restart = page.next.as_ref().and(self.overlap);
        let restart = restart.and_then(|overlap| segment.restart(&page.rows, started, overlap));
        self.assembler.add(page.rows, settled, rules, changes);
        match (page.next, restart) {
            (None, _) => {
                self.assembler.break_off(settled, rules, changes);
                self.segments.pop_front();
            }
            (Some(_), Some(segments)) => {
                self.assembler.rewind();
                self.segments.pop_front();
                for segment in segments.into_iter().rev() {
                    self.segments.push_front(segment);
                }
            }
            (Some(state), None) => segment.page = Some(state),
        }
    }
}

impl Segment {
    fn new(streams: Arc<[StreamId]>, from: Micros) -> Self {
        Self {
            streams,
            from,
            page: None,
            seen: Vec::new(),
        }
    }

    fn note(&mut self, rows: &[LogRow]) {
        for row in rows {
            if self.seen.last() != Some(&row.position.stream) {
                self.seen.push(row.position.stream);
            }
        }
    }

    /// What is left to read behind a page that ends with young rows: first the rest of the stream that was cut, then
    /// the streams that were not reached. None if that would get no further than the page state.
    fn restart(&self, rows: &[LogRow], started: Micros, overlap: Micros) -> Option<Vec<Self>> {
        let last = rows.last()?.position;
        if last.time.micros() < started - YOUNG {
            return None;
        }
        let complete = rows
            .iter()
            .rev()
            .find(|row| row.end_of_batch && row.position.stream == last.stream);
        let reached = complete.map_or(self.from, |row| row.position.time.micros() - overlap);
        let from = reached.max(self.from);
        let finished = self.seen.len() > 1;
        if from <= self.from && !finished {
            return None;
        }
        let unread = self.streams.iter().filter(|stream| !self.seen.contains(stream));
        let unread: Arc<[StreamId]> = unread.copied().collect();
        let mut segments = vec![Self::new(Arc::from([last.stream]), from)];
        if !unread.is_empty() {
            segments.push(Self::new(unread, self.from));
        }
        Some(segments)
    }
}
