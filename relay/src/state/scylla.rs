//! The state store on ScyllaDB (or any CQL database with lightweight transactions).

use std::collections::HashMap;
use std::sync::Arc;

use scylla::client::session::Session;
use scylla::response::query_result::QueryResult;
use scylla::statement::batch::Batch;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, Row};
use uuid::Uuid;

use crate::journal::Incarnation;
use crate::model::{SlotId, SlotSet};
use crate::ports::{
    Conditional, Epoch, Loaded, Placement, ProcessRow, Save, SlotRow, StateError, StateStore,
};
use crate::state::checkpoint::{Base, FORMAT, base_checksum, encode_segment};

mod audits;
mod errors;
mod forget;
mod partition;
mod statements;

use errors::{Failure, failure};
pub use partition::Partition;
use statements::Statements;

/// No slot: what is conditional on its epoch is never applied. What belongs to the identity as a whole stands here.
const NO_SLOT: i32 = -1;

/// Keeps the state of one identity in one keyspace.
pub struct ScyllaState {
    session: Arc<Session>,
    keyspace: String,
    identity: String,
    statements: Statements,
}

impl ScyllaState {
    /// Prepares every statement and tries a lightweight transaction that changes nothing, which proves that the tables
    /// are there and may be used.
    ///
    /// # Errors
    /// [`StateError::Configuration`] if a table is missing, a permission, or lightweight transactions on its keyspace.
    pub async fn open(session: Arc<Session>, keyspace: &str, identity: &str) -> Result<Self, StateError> {
        let statements = Statements::prepare(&session, keyspace).await?;
        let state = Self {
            session,
            keyspace: keyspace.to_owned(),
            identity: identity.to_owned(),
            statements,
        };
        match state.prove().await {
            Err(StateError::Configuration { action, detail }) if state.uses_tablets(keyspace).await => {
                Err(StateError::Configuration {
                    action,
                    detail: format!(
                        "keyspace \"{keyspace}\" uses tablets, on which this database refuses lightweight transactions \
                         ({detail}); accepted: a keyspace created WITH tablets = {{'enabled': false}}; drop this one, and \
                         the relay makes it so, or name another one in state.keyspace"
                    ),
                })
            }
            proved => proved.map(|()| state),
        }
    }

    /// A slot of whichever owner.
    ///
    /// # Errors
    /// [`StateError::Unreadable`] if its checkpoint is not as it was written; otherwise as for any read.
    pub async fn look(&self, slot: SlotId) -> Result<Partition, StateError> {
        self.partition(slot, "look at a checkpoint").await
    }

    async fn prove(&self) -> Result<(), StateError> {
        let nowhere = vec![
            Some(CqlValue::Text(self.identity.clone())),
            Some(CqlValue::Int(NO_SLOT)),
            Some(CqlValue::BigInt(0)),
        ];
        let action = "use lightweight transactions";
        self.conditional(&self.statements.release, nowhere, action)
            .await
            .map(drop)
    }

    async fn uses_tablets(&self, keyspace: &str) -> bool {
        let text = "SELECT initial_tablets FROM system_schema.scylla_keyspaces WHERE keyspace_name = ?";
        // A database without that table has no tablets.
        let Ok(result) = self.session.query_unpaged(text, (keyspace,)).await else {
            return false;
        };
        typed::<(Option<i32>,)>(result, "read keyspaces")
            .is_ok_and(|rows| rows.iter().any(|row| row.0.is_some()))
    }

    fn at(&self, slot: SlotId) -> (CqlValue, CqlValue) {
        (
            CqlValue::Text(self.identity.clone()),
            CqlValue::Int(slot.index() as i32),
        )
    }

    /// A slot's partition, read linearizably: whatever was under way is decided first.
    async fn partition(&self, slot: SlotId, action: &'static str) -> Result<Partition, StateError> {
        let result = self
            .session
            .execute_unpaged(&self.statements.load, self.at(slot))
            .await;
        let result = result.map_err(|error| failure(&error).into_error(action))?;
        Partition::read(&self.identity, slot, result)
    }

    async fn conditional(
        &self,
        statement: &PreparedStatement,
        values: Vec<Option<CqlValue>>,
        action: &'static str,
    ) -> Result<Step, StateError> {
        step(
            self.session
                .execute_unpaged(statement, values)
                .await
                .map_err(|e| failure(&e)),
            action,
        )
    }
}

impl StateStore for ScyllaState {
    async fn slots(&self) -> Result<Vec<SlotRow>, StateError> {
        let action = "read slot owners";
        let indexes: Vec<i32> = SlotId::all().map(|slot| slot.index() as i32).collect();
        let result = self
            .session
            .execute_unpaged(&self.statements.slots, (&self.identity, indexes))
            .await;
        let rows = result.map_err(|error| failure(&error).into_error(action))?;
        let mut found: HashMap<usize, (Option<String>, Option<i64>)> = HashMap::new();
        for row in typed::<(String, i32, Option<String>, Option<i64>)>(rows, action)? {
            found.insert(row.1 as usize, (row.2, row.3));
        }
        let row = |slot: SlotId| {
            let (owner, epoch) = found.remove(&slot.index()).unwrap_or_default();
            SlotRow {
                slot,
                owner,
                epoch: epoch.map(Epoch),
            }
        };
        Ok(SlotSet::ALL.iter().map(row).collect())
    }

    async fn processes(&self) -> Result<Vec<ProcessRow>, StateError> {
        let action = "read heartbeats";
        let result = self
            .session
            .execute_unpaged(&self.statements.processes, (&self.identity,))
            .await;
        let rows = result.map_err(|error| failure(&error).into_error(action))?;
        let row = |(process, beat, placement): (String, i64, Option<String>)| ProcessRow {
            process,
            beat,
            placement: if placement.as_deref() == Some(AUTO) {
                Placement::Auto
            } else {
                Placement::Pinned
            },
        };
        Ok(typed::<(String, i64, Option<String>)>(rows, action)?
            .into_iter()
            .map(row)
            .collect())
    }

    async fn beat(&self, row: &ProcessRow) -> Result<(), StateError> {
        let placement = if row.placement == Placement::Auto {
            AUTO
        } else {
            PINNED
        };
        let values = (&self.identity, &row.process, row.beat, placement, row.beat);
        let result = self.session.execute_unpaged(&self.statements.beat, values).await;
        result
            .map(drop)
            .map_err(|error| failure(&error).into_error("renew the heartbeat"))
    }

    async fn retire(&self, last_seen: &ProcessRow) -> Result<(), StateError> {
        let values = (last_seen.beat, &self.identity, &last_seen.process);
        let result = self
            .session
            .execute_unpaged(&self.statements.retire, values)
            .await;
        result
            .map(drop)
            .map_err(|error| failure(&error).into_error("remove an ended process"))
    }

    async fn claim(
        &self,
        slot: SlotId,
        seen: Option<Epoch>,
        owner: &str,
    ) -> Result<Conditional<Epoch>, StateError> {
        let action = "claim a slot";
        let next = Epoch(seen.map_or(1, |epoch| epoch.0 + 1));
        let (identity, index) = self.at(slot);
        let mut values = vec![
            Some(CqlValue::Text(owner.to_owned())),
            Some(CqlValue::BigInt(next.0)),
            Some(identity),
            Some(index),
        ];
        let statement = match seen {
            Some(epoch) => {
                values.push(Some(CqlValue::BigInt(epoch.0)));
                &self.statements.claim
            }
            None => &self.statements.claim_first,
        };
        let step = self.conditional(statement, values, action).await?;
        if matches!(step, Step::Applied) {
            return Ok(Conditional::Applied(next));
        }
        // Also where it was refused: an earlier attempt of ours may have taken place after all.
        let found = self.partition(slot, action).await?;
        if found.epoch == Some(next) && found.owner.as_deref() == Some(owner) {
            return Ok(Conditional::Applied(next));
        }
        if found.epoch == seen {
            return Err(unapplied(action));
        }
        Ok(Conditional::Fenced)
    }

    async fn release(&self, slot: SlotId, epoch: Epoch, clean: bool) -> Result<Conditional<()>, StateError> {
        let action = "release a slot";
        let statement = if clean {
            &self.statements.release_clean
        } else {
            &self.statements.release
        };
        let (identity, index) = self.at(slot);
        let values = vec![Some(identity), Some(index), Some(CqlValue::BigInt(epoch.0))];
        match self.conditional(statement, values, action).await? {
            Step::Applied => return Ok(Conditional::Applied(())),
            Step::Refused => return Ok(Conditional::Fenced),
            Step::Unknown => {}
        }
        let found = self.partition(slot, action).await?;
        match (found.epoch == Some(epoch), found.owner) {
            (false, _) => Ok(Conditional::Fenced),
            (true, None) => Ok(Conditional::Applied(())),
            (true, Some(_)) => Err(unapplied(action)),
        }
    }

    async fn load(&self, slot: SlotId) -> Result<Loaded, StateError> {
        Ok(self.partition(slot, "load a checkpoint").await?.loaded)
    }

    async fn record_id(&self, slot: SlotId, epoch: Epoch, id: &str) -> Result<Conditional<()>, StateError> {
        let action = "record a transactional id";
        let (identity, index) = self.at(slot);
        let mut values = vec![Some(CqlValue::Text(id.to_owned())), Some(identity), Some(index)];
        values.push(Some(CqlValue::BigInt(epoch.0)));
        match self
            .conditional(&self.statements.record_id, values, action)
            .await?
        {
            Step::Applied => return Ok(Conditional::Applied(())),
            Step::Refused => return Ok(Conditional::Fenced),
            Step::Unknown => {}
        }
        let found = self.partition(slot, action).await?;
        match (found.epoch == Some(epoch), found.loaded.transactional_id) {
            (false, _) => Ok(Conditional::Fenced),
            (true, Some(named)) if named == id => Ok(Conditional::Applied(())),
            (true, _) => Err(unapplied(action)),
        }
    }

    async fn incarnation(&self) -> Result<Option<Incarnation>, StateError> {
        let action = "read the journal's incarnation";
        let result = self
            .session
            .execute_unpaged(&self.statements.incarnation, (&self.identity, NO_SLOT))
            .await;
        let rows = result.map_err(|error| failure(&error).into_error(action))?;
        let rows = typed::<(String, i32, Option<Uuid>)>(rows, action)?;
        Ok(rows.first().and_then(|row| row.2).map(Incarnation))
    }

    async fn record_incarnation(&self, incarnation: Incarnation) -> Result<Incarnation, StateError> {
        let action = "record the journal's incarnation";
        let values = vec![
            Some(CqlValue::Uuid(incarnation.0)),
            Some(CqlValue::Text(self.identity.clone())),
            Some(CqlValue::Int(NO_SLOT)),
        ];
        self.conditional(&self.statements.record_incarnation, values, action)
            .await?;
        // Whatever became of it: what stands there now is the one.
        self.incarnation().await?.ok_or_else(|| unapplied(action))
    }

    async fn save(&self, slot: SlotId, epoch: Epoch, save: &Save) -> Result<Conditional<()>, StateError> {
        let action = "save a checkpoint";
        let (batch, values) = self.save_batch(slot, epoch, save);
        let result = self.session.batch(&batch, values).await;
        let step = step(result.map_err(|error| failure(&error)), action)?;
        if matches!(step, Step::Applied) {
            return Ok(Conditional::Applied(()));
        }
        let found = self.partition(slot, action).await?;
        if found.epoch != Some(epoch) {
            return Ok(Conditional::Fenced);
        }
        let revision = found.loaded.checkpoint.map_or(0, |found| found.revision);
        // No other save of this epoch bears this number, so also a refusal may mean that an earlier try of it took place.
        if revision == save.revision {
            Ok(Conditional::Applied(()))
        } else if revision == save.follows {
            Err(unapplied(action))
        } else {
            Err(StateError::Superseded { slot })
        }
    }
}

impl ScyllaState {
    fn save_batch(&self, slot: SlotId, epoch: Epoch, save: &Save) -> (Batch, Vec<Vec<CqlValue>>) {
        let (identity, index) = self.at(slot);
        let here = || vec![identity.clone(), index.clone()];
        let mut batch = statements::batch();
        let checked = Base {
            format: FORMAT,
            bound: save.bound,
            revision: save.revision,
            mark: save.mark,
        };
        let checksum = base_checksum(&self.identity, slot, &checked);
        let mark = [save.mark.offset, save.mark.sequence.cast_signed()];
        let mut base = vec![CqlValue::Int(FORMAT)];
        base.extend([save.bound, save.revision, mark[0], mark[1], checksum].map(CqlValue::BigInt));
        base.extend(here());
        base.push(CqlValue::BigInt(epoch.0));
        if save.follows == 0 {
            batch.append_statement(self.statements.save_first.clone());
        } else {
            batch.append_statement(self.statements.save_base.clone());
            base.push(CqlValue::BigInt(save.follows));
        }
        let mut values = vec![base];
        for (key, ids) in &save.add {
            batch.append_statement(self.statements.add_segment.clone());
            let mut row = here();
            row.extend([CqlValue::BigInt(key.second), CqlValue::BigInt(key.revision)]);
            row.push(CqlValue::Blob(encode_segment(&self.identity, slot, *key, ids)));
            values.push(row);
        }
        for key in &save.remove {
            batch.append_statement(self.statements.remove_segment.clone());
            let mut row = here();
            row.extend([CqlValue::BigInt(key.second), CqlValue::BigInt(key.revision)]);
            values.push(row);
        }
        (batch, values)
    }
}

const PINNED: &str = "Pinned";
const AUTO: &str = "Auto";

/// What became of a conditional statement.
enum Step {
    Applied,
    Refused,
    /// No answer: only a linearizable read tells.
    Unknown,
}

fn unapplied(action: &'static str) -> StateError {
    StateError::Unavailable {
        action,
        detail: "no answer, and not applied".into(),
    }
}

fn step(result: Result<QueryResult, Failure>, action: &'static str) -> Result<Step, StateError> {
    let result = match result {
        Ok(result) => result,
        Err(Failure::Unknown(_)) => return Ok(Step::Unknown),
        Err(failure) => return Err(failure.into_error(action)),
    };
    let rows = typed::<Row>(result, action)?;
    match rows.first().and_then(|row| row.columns.first()) {
        Some(Some(CqlValue::Boolean(true))) => Ok(Step::Applied),
        Some(Some(CqlValue::Boolean(false))) => Ok(Step::Refused),
        other => Err(StateError::Configuration {
            action,
            detail: format!(
                "the answer to a conditional statement starts with {other:?} instead of [applied]"
            ),
        }),
    }
}

fn typed<R>(result: QueryResult, action: &'static str) -> Result<Vec<R>, StateError>
where
    R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm>,
{
    let unreadable = |detail: String| StateError::Configuration { action, detail };
    let rows = result
        .into_rows_result()
        .map_err(|error| unreadable(error.to_string()))?;
    let rows = rows.rows::<R>().map_err(|error| unreadable(error.to_string()))?;
    rows.collect::<Result<_, _>>()
        .map_err(|error| unreadable(error.to_string()))
}
