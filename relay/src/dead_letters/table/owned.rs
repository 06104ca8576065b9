//! Dead letters whose events are resolved by commits. Only the owner of their slot writes them and decides on them: each
//! statement is conditional on the epoch in the slot's partition, which whoever takes the slot replaces first. So a process
//! that was suspended, and wakes after its slots were taken, neither brings back what was decided nor hides it.

use scylla::client::session::Session;
use scylla::errors::PrepareError;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency, Statement};
use scylla::value::{CqlValue, Row};

use super::{COLUMNS, Key, PENDING, QUARANTINED, REPLAYING, SENDING, TableDeadLetters, WAITING};
use crate::dead_letters::replay::replays_of;
use crate::ledger::Known;
use crate::model::{Micros, RowId, SlotId, SourcePosition};
use crate::ports::{DeadLetter, DeadLetterError, Epoch, Lettered};

/// Columns of the key, which come first in [`COLUMNS`].
const KEY: usize = 5;

/// Taking a slot's letters over is tried this often: between two tries somebody else took them.
const TRIES: usize = 3;

pub(super) struct Owned {
    write: PreparedStatement,
    remove: PreparedStatement,
    mark: PreparedStatement,
    send: PreparedStatement,
    ask: PreparedStatement,
    take: PreparedStatement,
}

impl Owned {
    pub(super) async fn prepare(session: &Session, table: &str) -> Result<Self, PrepareError> {
        let prepare = async |text: String| {
            let mut statement = Statement::new(text);
            statement.set_consistency(Consistency::Quorum);
            statement.set_serial_consistency(Some(SerialConsistency::Serial));
            // Done twice, each of them has the effect of doing it once.
            statement.set_is_idempotent(true);
            session.prepare(statement).await
        };
        let row =
            "WHERE identity = ? AND slot = ? AND source_time = ? AND source_stream = ? AND source_seq = ?";
        let at = format!("{row} IF epoch = ?");
        let values = COLUMNS[KEY..].join(" = ?, ");
        Ok(Self {
            write: prepare(format!("UPDATE {table} SET {values} = ? {at}")).await?,
            remove: prepare(format!("DELETE FROM {table} {at}")).await?,
            mark: prepare(format!("UPDATE {table} SET status = ? {at}")).await?,
            send: prepare(format!(
                "UPDATE {table} SET status = '{SENDING}', replay_begun = ? {at}"
            ))
            .await?,
            ask: prepare(format!(
                "UPDATE {table} SET status = '{REPLAYING}' {row} IF status = ?"
            ))
            .await?,
            take: prepare(format!(
                "UPDATE {table} SET epoch = ? WHERE identity = ? AND slot = ? IF epoch = ?"
            ))
            .await?,
        })
    }
}

impl TableDeadLetters {
    async fn owned(&self) -> Result<&Owned, DeadLetterError> {
        let prepare = || Owned::prepare(&self.session, &self.name);
        let owned = self.owned.get_or_try_init(prepare).await;
        owned.map_err(|error| self.failed(&error))
    }

    /// Whether the table takes lightweight transactions from us. Decides on what is in no slot, so on nothing.
    pub(super) async fn prove_owned(&self) -> Result<(), DeadLetterError> {
        let remove = &self.owned().await?.remove;
        self.decide(remove, self.nowhere(), Epoch(0)).await
    }

    pub(super) async fn write_owned(&self, letter: &DeadLetter, epoch: Epoch) -> Result<(), DeadLetterError> {
        let mut values = self.row(letter);
        values.rotate_left(KEY);
        values.push(Some(CqlValue::BigInt(epoch.0)));
        match self.conditional(&self.owned().await?.write, values).await? {
            None => Ok(()),
            Some(_) => Err(DeadLetterError {
                fenced: true,
                ..self.failed(&format!("slot {} was taken by another process", letter.slot))
            }),
        }
    }

    /// See [`crate::ports::DeadLetters::settle`].
    pub(in crate::dead_letters) async fn settle(&self, letters: &[Lettered]) -> Result<(), DeadLetterError> {
        for letter in letters {
            self.settle_one(letter.slot, &letter.position, letter.epoch)
                .await?;
        }
        Ok(())
    }

    /// One that failed as often as is accepted waits for nobody.
    async fn settle_one(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        epoch: Epoch,
    ) -> Result<(), DeadLetterError> {
        let letter = self.letter(slot, position).await?;
        let replays = letter.as_ref().map_or(0, replays_of);
        let status = if replays >= self.max_replays {
            QUARANTINED
        } else {
            WAITING
        };
        self.mark_owned(slot, position, status, epoch).await
    }

    /// See [`crate::ports::DeadLetters::recover`].
    pub(in crate::dead_letters) async fn recover(
        &self,
        slot: SlotId,
        epoch: Epoch,
        resolved: impl Fn(&SourcePosition) -> Option<bool>,
    ) -> Result<(), DeadLetterError> {
        self.take_over(slot, epoch).await?;
        let (owned, mut pending) = (self.owned().await?, Vec::new());
        self.each_status(slot, |position, status, _| {
            pending.extend((status == Some(PENDING)).then_some(position));
            true
        })
        .await?;
        for position in pending {
            let key = self.key(slot, &position);
            match resolved(&position) {
                Some(true) => self.settle_one(slot, &position, epoch).await?,
                Some(false) => self.decide(&owned.remove, key, epoch).await?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// From here on letters of earlier epochs are refused; those that were under way are there, or will never be.
    async fn take_over(&self, slot: SlotId, epoch: Epoch) -> Result<(), DeadLetterError> {
        let (owned, mut former) = (self.owned().await?, None);
        for _ in 0..TRIES {
            let values = vec![
                Some(CqlValue::BigInt(epoch.0)),
                Some(CqlValue::Text(self.identity.clone())),
                Some(CqlValue::Int(slot.index() as i32)),
                former.map(CqlValue::BigInt),
            ];
            match self.conditional(&owned.take, values).await? {
                None => return Ok(()),
                Some(now) if now == Some(epoch.0) => return Ok(()),
                Some(now) => former = now,
            }
        }
        Err(self.failed(&format!("the letters of slot {slot} are taken over by others")))
    }

    async fn decide(
        &self,
        statement: &PreparedStatement,
        key: Key<'_>,
        epoch: Epoch,
    ) -> Result<(), DeadLetterError> {
        let values = conditioned(key, epoch).into();
        // If not, whoever took the slot decides.
        self.conditional(statement, values).await.map(drop)
    }

    /// See [`crate::ports::DeadLetters::sending`].
    pub(in crate::dead_letters) async fn sending(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        begun: Micros,
        epoch: Epoch,
    ) -> Result<bool, DeadLetterError> {
        let values = conditioned(self.key(slot, position), epoch);
        let values = [Some(CqlValue::BigInt(begun))].into_iter().chain(values);
        let answer = self.conditional(&self.owned().await?.send, values.collect());
        Ok(answer.await?.is_none())
    }

    pub(super) async fn mark_owned(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        status: &str,
        epoch: Epoch,
    ) -> Result<(), DeadLetterError> {
        let values = conditioned(self.key(slot, position), epoch);
        let values = [Some(CqlValue::Text(status.to_owned()))]
            .into_iter()
            .chain(values);
        let answer = self.conditional(&self.owned().await?.mark, values.collect());
        answer.await.map(drop)
    }

    pub(super) async fn remove_owned(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        epoch: Epoch,
    ) -> Result<(), DeadLetterError> {
        let remove = &self.owned().await?.remove;
        self.decide(remove, self.key(slot, position), epoch).await
    }

    /// Asks for the replay of a letter that nobody is sending right now, and leaves the others alone.
    pub(super) async fn ask_owned(
        &self,
        slot: SlotId,
        position: &SourcePosition,
    ) -> Result<(), DeadLetterError> {
        let [identity, slot, time, stream, seq, _] = conditioned(self.key(slot, position), Epoch(0));
        for status in [Some(WAITING), Some(QUARANTINED), None] {
            let status = status.map(|status| CqlValue::Text(status.to_owned()));
            let values = vec![
                identity.clone(),
                slot.clone(),
                time.clone(),
                stream.clone(),
                seq.clone(),
                status,
            ];
            if self
                .conditional(&self.owned().await?.ask, values)
                .await?
                .is_none()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// See [`crate::ports::DeadLetters::recover_replays`].
    pub(in crate::dead_letters) async fn recover_replays(
        &self,
        slot: SlotId,
        epoch: Epoch,
        known: impl Fn(Micros, RowId) -> Known,
    ) -> Result<(), DeadLetterError> {
        let mut sending = Vec::new();
        self.each_status(slot, |position, status, begun| {
            sending.extend((status == Some(SENDING)).then_some((position, begun)));
            true
        })
        .await?;
        for (position, begun) in sending {
            let begun = begun.unwrap_or(Micros::MIN);
            match known(begun, position.replay_id(begun)) {
                Known::Resolved => self.remove_owned(slot, &position, epoch).await?,
                Known::New | Known::Taken => self.mark_owned(slot, &position, REPLAYING, epoch).await?,
                // An owner that knows nothing of replays in transactions was there meanwhile.
                Known::BelowBound => self.mark_owned(slot, &position, WAITING, epoch).await?,
                Known::Foreign => return Ok(()),
            }
        }
        Ok(())
    }

    /// None if it was applied; otherwise the epoch that stands there.
    async fn conditional(
        &self,
        statement: &PreparedStatement,
        values: Vec<Option<CqlValue>>,
    ) -> Result<Option<Option<i64>>, DeadLetterError> {
        let answer = self.session.execute_unpaged(statement, values).await;
        let rows = answer.map_err(|error| self.failed(&error))?.into_rows_result();
        let rows = rows.map_err(|error| self.failed(&error))?;
        let row = rows.first_row::<Row>().map_err(|error| self.failed(&error))?;
        // ScyllaDB answers with the condition's columns whether it was applied or not, Cassandra only if it was not.
        match row.columns.first() {
            Some(Some(CqlValue::Boolean(true))) => Ok(None),
            _ => Ok(Some(row.columns.get(1).and_then(|epoch| match epoch {
                Some(CqlValue::BigInt(epoch)) => Some(*epoch),
                _ => None,
            }))),
        }
    }
}

/// The values of a key and of the condition on the epoch.
fn conditioned(key: Key<'_>, epoch: Epoch) -> [Option<CqlValue>; 6] {
    [
        Some(CqlValue::Text(key.0.to_owned())),
        Some(CqlValue::Int(key.1)),
        Some(CqlValue::Timeuuid(key.2)),
        Some(CqlValue::Blob(key.3)),
        Some(CqlValue::Int(key.4)),
        Some(CqlValue::BigInt(epoch.0)),
    ]
}
