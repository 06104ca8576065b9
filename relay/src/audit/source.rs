//! Reads what was written in a window: rows of the log by their time, or rows of the table by their write time. One query
//! at a time, within `source.load`.

use std::sync::Arc;
use std::time::Duration;

use crds::source::Load;
use tokio::time::Instant;

use super::TooMany;
use crate::event::SourceEvent;
use crate::model::{CdcTime, Micros, SECOND, SlotId, SlotSet, StreamId};
use crate::ports::{ChangeLog, Columns, LogError, LogQuery, Outbox, PageState, StreamSet};
use crate::reconcile;
use crate::source::limiter::{Answer, Limiter, Limits};
use crate::source::record::{Assembler, Change, Rules, Verdict};

/// ScyllaDB's default limit for the keys of one `IN`.
const STREAMS_PER_QUERY: usize = 100;

/// With payloads of 100 KiB a page is 25 MiB.
const PAGE_ROWS: i32 = 250;

/// Rows of a stream set may be dated this long before its start or after its end.
const SET_SLACK: Micros = 60 * SECOND;

/// Attempts of one query, and the wait after the first failed one; it doubles.
const ATTEMPTS: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("it holds more events than are to be held in memory")]
    TooMany,
}

impl From<TooMany> for ReadError {
    fn from(TooMany: TooMany) -> Self {
        Self::TooMany
    }
}

/// From inclusive, to exclusive; write times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub from: Micros,
    pub to: Micros,
}

/// Holds the limits of one more relay process.
pub struct Throttle {
    limiter: Limiter,
    started: Instant,
}

impl Throttle {
    pub fn new(load: &Load) -> Self {
        let limits = Limits {
            max_in_flight: load.max_concurrent_queries,
            queries_per_second: load.queries_per_second,
            ramp: load.ramp(),
        };
        Self {
            limiter: Limiter::new(limits, Duration::ZERO),
            started: Instant::now(),
        }
    }

    /// Asks until there is an answer, or it fails too often.
    async fn ask<T>(&mut self, mut query: impl AsyncFnMut() -> Result<T, LogError>) -> Result<T, LogError> {
        let mut pause = FIRST_WAIT;
        for attempt in 1.. {
            while let Err(wait) = self.limiter.ready(self.started.elapsed()) {
                tokio::time::sleep(wait.unwrap_or(FIRST_WAIT)).await;
            }
            self.limiter.begin();
            let begun = Instant::now();
            let result = query().await;
            let answer = match &result {
                Ok(_) => Answer::Good,
                Err(LogError::Overloaded(_)) => Answer::Overloaded,
                Err(_) => Answer::Failed,
            };
            self.limiter.end(answer, begun.elapsed(), self.started.elapsed());
            match result {
                Err(LogError::Transient(_) | LogError::Overloaded(_)) if attempt < ATTEMPTS => {}
                result => return result,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the last attempt returns")
    }
}

/// The events of the log, stream by stream in its order. A record below `settled` that has no end is taken as it is.
///
/// # Errors
/// The log cannot be read, or the visitor has had enough.
pub async fn of_log(
    log: &impl ChangeLog,
    window: Window,
    slots: SlotSet,
    (rules, settled): (&Rules, Micros),
    throttle: &mut Throttle,
    visit: &mut impl FnMut(SourceEvent) -> Result<(), TooMany>,
) -> Result<(), ReadError> {
    let sets = throttle.ask(async || log.stream_sets().await).await?;
    for streams in chunks(&sets, window, slots) {
        let mut assembler = Assembler::default();
        let (mut page, mut changes) = (None, Vec::new());
        loop {
            let query = LogQuery {
                streams: streams.clone(),
                from: CdcTime::min_of(window.from),
                until: Some(CdcTime::min_of(window.to)),
                columns: Columns::Full,
                page_size: PAGE_ROWS,
                page: page.take(),
            };
            let read = throttle.ask(async || log.read(query.clone()).await).await?;
            assembler.add(read.rows, settled, rules, &mut changes);
            page = read.next;
            if page.is_none() {
                assembler.break_off(settled, rules, &mut changes);
            }
            for event in changes.drain(..).filter_map(event) {
                if slots.contains(event.slot) {
                    visit(event)?;
                }
            }
            if page.is_none() {
                break;
            }
        }
    }
    Ok(())
}

/// The streams that may hold rows of the window and of the slots.
fn chunks(sets: &[StreamSet], window: Window, slots: SlotSet) -> Vec<Arc<[StreamId]>> {
    let ends = sets.iter().skip(1).map(|set| set.start).chain([Micros::MAX]);
    let of_window = sets.iter().zip(ends).filter(|(set, end)| {
        set.start.saturating_sub(SET_SLACK) < window.to && end.saturating_add(SET_SLACK) > window.from
    });
    let streams = of_window.flat_map(|(set, _)| &set.streams);
    let overlaps = |after, until| !SlotSet::overlapping(after, until).intersection(slots).is_empty();
    let mut ids: Vec<_> = streams
        .filter(|stream| overlaps(stream.after, stream.until))
        .map(|stream| stream.id)
        .collect();
    // A stream may be in two sets.
    ids.sort_unstable();
    ids.dedup();
    ids.chunks(STREAMS_PER_QUERY).map(Arc::from).collect()
}

fn event(change: Change) -> Option<SourceEvent> {
    let Verdict::Event(operation) = change.verdict else {
        return None;
    };
    Some(SourceEvent {
        position: change.position,
        row_id: change.row_id,
        slot: SlotId::of_token(change.token),
        ownership: 0,
        token: change.token,
        values: change.values,
        operation,
        late: false,
        reconciled: false,
    })
}

/// The rows of the table that were written in the window; how many have no write time.
///
/// # Errors
/// The table cannot be read, or the visitor has had enough.
pub async fn of_table(
    table: &impl Outbox,
    window: Window,
    slots: SlotSet,
    throttle: &mut Throttle,
    visit: &mut impl FnMut(SourceEvent) -> Result<(), TooMany>,
) -> Result<u64, ReadError> {
    let mut undated = 0;
    for slot in slots.iter() {
        let mut page: Option<PageState> = None;
        loop {
            let scan = async || table.scan(slot.tokens(), page.clone(), PAGE_ROWS).await;
            let read = throttle.ask(scan).await?;
            for row in read.rows {
                let Some(written) = row.written else {
                    undated += 1;
                    continue;
                };
                if (window.from..window.to).contains(&written) {
                    visit(reconcile::event(slot, 0, row, written, false).1)?;
                }
            }
            page = read.next;
            if page.is_none() {
                break;
            }
        }
    }
    Ok(undated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Stream;

    #[test]
    fn streams_of_the_window_and_the_slots_are_read_each_once() {
        let stream = |token: i64, number: u8| {
            let mut id = [number; 16];
            id[..8].copy_from_slice(&token.to_be_bytes());
            StreamId(id)
        };
        let halves = |number| {
            vec![
                Stream {
                    id: stream(0, number),
                    after: i64::MIN,
                    until: 0,
                },
                Stream {
                    id: stream(i64::MAX, number),
                    after: 0,
                    until: i64::MAX,
                },
            ]
        };
        let hour = 3_600 * SECOND;
        let sets = [
            StreamSet {
                start: hour,
                streams: halves(1),
            },
            StreamSet {
                start: 2 * hour,
                streams: halves(2),
            },
            StreamSet {
                start: 3 * hour,
                streams: halves(3),
            },
        ];
        let numbers = |from, to, slots| {
            let chunks = chunks(&sets, Window { from, to }, slots);
            let mut numbers: Vec<_> = chunks
                .iter()
                .flat_map(|ids| ids.iter().map(|id| id.0[15]))
                .collect();
            numbers.sort_unstable();
            numbers
        };
        let upper: SlotSet = [SlotId::of_token(i64::MAX)].into_iter().collect();
        assert_eq!(numbers(hour, 2 * hour - 2 * SET_SLACK, SlotSet::ALL), [1, 1]);
        // A row may be dated a little beyond its set.
        assert_eq!(numbers(2 * hour, 2 * hour + SECOND, SlotSet::ALL), [1, 1, 2, 2]);
        assert_eq!(numbers(2 * hour + 2 * SET_SLACK, 9 * hour, upper), [2, 3]);
    }
}
