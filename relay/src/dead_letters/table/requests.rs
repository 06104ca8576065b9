//! Requests for replays, in the table for dead letters itself. A letter that is asked for has the status `replaying`; a
//! row in a partition of its own says in which slot there are such letters, so that an owner asks for one partition and
//! not for all of its own again and again.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use scylla::DeserializeRow;
use scylla::client::pager::TypedRowStream;
use scylla::statement::{Consistency, Statement};
use scylla::value::{CqlTimestamp, CqlTimeuuid};
use uuid::Uuid;

use super::{Key, NO_SLOT, REPLAYING, TableDeadLetters};
use crate::dead_letters::stored::{self, Stored};
use crate::model::{CdcTime, Micros, SlotId, SourcePosition, StreamId};
use crate::ports::{DeadLetterError, Epoch, ReplayRequest, Standing};

const AT: &str =
    "WHERE identity = ? AND slot = ? AND source_time = ? AND source_stream = ? AND source_seq = ?";

/// Of a request's UUID; what tells two requests apart is the time in it.
const NODE: [u8; 6] = [0; 6];

type StatusRow = (CqlTimeuuid, Vec<u8>, i32, Option<String>, Option<i64>);

/// Of a look at all letters of a slot.
#[derive(DeserializeRow)]
struct StandingRow {
    source_time: CqlTimeuuid,
    source_stream: Vec<u8>,
    source_seq: i32,
    status: Option<String>,
    error_class: Option<String>,
    event_id: Option<String>,
    aggregate_id: Option<String>,
    last_failed_at: Option<CqlTimestamp>,
}

impl TableDeadLetters {
    /// See [`crate::ports::DeadLetters::requests`].
    pub(in crate::dead_letters) async fn requests(&self) -> Result<Vec<ReplayRequest>, DeadLetterError> {
        let mut rows = self.statuses(NO_SLOT).await?;
        let mut requests = Vec::new();
        while let Some((time, slot, ..)) = rows.try_next().await.map_err(|error| self.failed(&error))? {
            let slot = <[u8; 1]>::try_from(slot)
                .ok()
                .and_then(|[slot]| SlotId::new(slot));
            requests.extend(slot.map(|slot| ReplayRequest {
                slot,
                id: time.into(),
            }));
        }
        Ok(requests)
    }

    /// See [`crate::ports::DeadLetters::carried_out`].
    pub(in crate::dead_letters) async fn carried_out(
        &self,
        request: &ReplayRequest,
    ) -> Result<(), DeadLetterError> {
        let done = self
            .session
            .execute_unpaged(&self.remove, self.key_of(request))
            .await;
        done.map(drop).map_err(|error| self.failed(&error))
    }

    /// See [`crate::ports::DeadLetters::asked`].
    pub(in crate::dead_letters) async fn asked(
        &self,
        slot: SlotId,
        limit: usize,
    ) -> Result<Vec<SourcePosition>, DeadLetterError> {
        let mut asked = Vec::new();
        self.each_status(slot, |position, status, _| {
            asked.extend((status == Some(REPLAYING)).then_some(position));
            asked.len() < limit
        })
        .await?;
        Ok(asked)
    }

    /// See [`crate::ports::DeadLetters::standing`]. Those whose key no relay has written are not shown.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn standing(
        &self,
        slot: SlotId,
        mut see: impl FnMut(Standing<'_>) + Send,
    ) -> Result<(), DeadLetterError> {
        let values = (self.identity.clone(), slot.index() as i32);
        let pages = self.session.execute_iter(self.standing.clone(), values).await;
        let mut rows = pages
            .map_err(|error| self.failed(&error))?
            .rows_stream::<StandingRow>()
            .map_err(|error| self.failed(&error))?;
        while let Some(row) = rows.try_next().await.map_err(|error| self.failed(&error))? {
            let Some(position) = position(row.source_time, &row.source_stream, row.source_seq) else {
                continue;
            };
            see(Standing {
                position,
                event_id: row.event_id.as_deref().unwrap_or_default(),
                aggregate_id: row.aggregate_id.as_deref(),
                class: row.error_class.as_deref(),
                status: row.status.as_deref(),
                last_failed_at: row.last_failed_at.map(|at| at.0.saturating_mul(1000)),
            });
        }
        Ok(())
    }

    /// A letter; None if there is none any more.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn letter(
        &self,
        slot: SlotId,
        position: &SourcePosition,
    ) -> Result<Option<Stored>, DeadLetterError> {
        let text = format!("SELECT {} FROM {} {AT}", stored::COLUMNS, self.name);
        let statement = idempotent(text);
        let answer = self
            .session
            .query_unpaged(statement, self.key(slot, position))
            .await;
        let rows = answer.map_err(|error| self.failed(&error))?.into_rows_result();
        let rows = rows.map_err(|error| self.failed(&error))?;
        rows.maybe_first_row().map_err(|error| self.failed(&error))
    }

    /// See [`crate::ports::DeadLetters::mark`].
    pub(in crate::dead_letters) async fn mark(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        status: &'static str,
        owner: Option<Epoch>,
    ) -> Result<(), DeadLetterError> {
        if let Some(epoch) = owner {
            return self.mark_owned(slot, position, status, epoch).await;
        }
        let statement = idempotent(format!("UPDATE {} SET status = '{status}' {AT}", self.name));
        let done = self
            .session
            .query_unpaged(statement, self.key(slot, position))
            .await;
        done.map(drop).map_err(|error| self.failed(&error))
    }

    /// See [`crate::ports::DeadLetters::remove`].
    pub(in crate::dead_letters) async fn forget(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        owner: Option<Epoch>,
    ) -> Result<(), DeadLetterError> {
        match owner {
            Some(epoch) => self.remove_owned(slot, position, epoch).await,
            None => self.at(&self.remove, slot, position).await,
        }
    }

    /// Asks for the replay of letters. First the letters, then where they are: whoever reads the latter finds the former.
    ///
    /// # Errors
    /// When it cannot be written; then the same may be asked again.
    pub async fn ask(&self, letters: &[(SlotId, SourcePosition)]) -> Result<(), DeadLetterError> {
        for (slot, position) in letters {
            if self.transactional {
                self.ask_owned(*slot, position).await?;
            } else {
                self.mark(*slot, position, REPLAYING, None).await?;
            }
        }
        self.ask_to_look(letters.iter().map(|(slot, _)| *slot)).await
    }

    /// Asks the owners of slots to look at the letters there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn ask_to_look(&self, slots: impl IntoIterator<Item = SlotId>) -> Result<(), DeadLetterError> {
        // Of version 1: the table's key column is a timeuuid, and two requests are never the same.
        let id = Uuid::now_v1(&NODE);
        let slots: BTreeSet<_> = slots.into_iter().collect();
        let text = format!("UPDATE {} SET status = '{REPLAYING}' {AT}", self.name);
        for slot in slots {
            let key = self.key_of(&ReplayRequest { slot, id });
            let done = self.session.query_unpaged(idempotent(text.clone()), key).await;
            done.map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }

    /// The status of each letter of a slot.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn states(
        &self,
        slot: SlotId,
    ) -> Result<BTreeMap<SourcePosition, Option<String>>, DeadLetterError> {
        let mut states = BTreeMap::new();
        self.each_status(slot, |position, status, _| {
            states.insert(position, status.map(str::to_owned));
            true
        })
        .await?;
        Ok(states)
    }

    pub(super) async fn each_status(
        &self,
        slot: SlotId,
        mut see: impl FnMut(SourcePosition, Option<&str>, Option<Micros>) -> bool,
    ) -> Result<(), DeadLetterError> {
        let mut rows = self.statuses(slot.index() as i32).await?;
        while let Some((time, stream, batch_seq_no, status, replay_begun)) =
            rows.try_next().await.map_err(|error| self.failed(&error))?
        {
            let Some(position) = position(time, &stream, batch_seq_no) else {
                continue;
            };
            if !see(position, status.as_deref(), replay_begun) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Key and status of each row of a partition.
    async fn statuses(&self, partition: i32) -> Result<TypedRowStream<StatusRow>, DeadLetterError> {
        let values = (self.identity.clone(), partition);
        let pages = self.session.execute_iter(self.pending.clone(), values).await;
        let pages = pages.map_err(|error| self.failed(&error))?;
        pages
            .rows_stream::<StatusRow>()
            .map_err(|error| self.failed(&error))
    }

    pub(super) fn key(&self, slot: SlotId, position: &SourcePosition) -> Key<'_> {
        let time = CqlTimeuuid::from(position.time.0);
        let stream = position.stream.0.to_vec();
        (
            &self.identity,
            slot.index() as i32,
            time,
            stream,
            position.batch_seq_no,
        )
    }

    fn key_of(&self, request: &ReplayRequest) -> Key<'_> {
        let slot = vec![request.slot.index() as u8];
        (&self.identity, NO_SLOT, CqlTimeuuid::from(request.id), slot, 0)
    }
}

fn position(time: CqlTimeuuid, stream: &[u8], batch_seq_no: i32) -> Option<SourcePosition> {
    Some(SourcePosition {
        stream: StreamId(stream.try_into().ok()?),
        time: CdcTime(time.into()),
        batch_seq_no,
    })
}

fn idempotent(text: String) -> Statement {
    let mut statement = Statement::new(text);
    statement.set_consistency(Consistency::Quorum);
    statement.set_is_idempotent(true);
    statement
}
