//! The state store on ScyllaDB (or any CQL database with lightweight transactions).

use std::collections::HashMap;
use std::sync::Arc;

use scylla::client::session::Session;
use scylla::response::query_result::QueryResult;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency, Statement};
use scylla::value::{CqlValue, Row};

use crate::model::{SlotId, SlotSet};
use crate::ports::{
    Checkpoint, Conditional, Epoch, Placement, ProcessRow, Save, SegmentKey, SlotRow, StateError, StateStore,
};
use crate::state::checkpoint::{FORMAT, base_checksum, decode_segment, encode_segment};

mod errors;

use errors::{Failure, failure};

/// Keeps the state of one identity in one keyspace.
pub struct ScyllaState {
    session: Arc<Session>,
    identity: String,
    slots: PreparedStatement,
    processes: PreparedStatement,
    beat: PreparedStatement,
    retire: PreparedStatement,
    claim: PreparedStatement,
    claim_first: PreparedStatement,
    release: PreparedStatement,
    load: PreparedStatement,
    save_base: PreparedStatement,
    add_segment: PreparedStatement,
    remove_segment: PreparedStatement,
}

impl ScyllaState {
    /// Prepares every statement, which also proves that the tables are there and may be used.
    ///
    /// # Errors
    /// [`StateError::Configuration`] if a table is missing or the keyspace uses tablets.
    pub async fn open(session: Arc<Session>, keyspace: &str, identity: &str) -> Result<Self, StateError> {
        refuse_tablets(&session, keyspace).await?;
        let at = |text: &str| text.replace("{ks}", &format!("\"{keyspace}\""));
        let plain = async |text: &str| prepare(&session, at(text), Consistency::Quorum).await;
        let serial = async |text: &str| prepare(&session, at(text), Consistency::Serial).await;
        let slot = "WHERE identity = ? AND slot = ?";
        Ok(Self {
            slots: plain("SELECT DISTINCT identity, slot, owner, epoch FROM {ks}.slots WHERE identity = ? AND slot IN ?").await?,
            processes: plain("SELECT process, beat, placement FROM {ks}.processes WHERE identity = ?").await?,
            beat: plain("INSERT INTO {ks}.processes (identity, process, beat, placement) VALUES (?, ?, ?, ?)").await?,
            retire: plain("DELETE FROM {ks}.processes WHERE identity = ? AND process = ?").await?,
            claim: plain(&format!("UPDATE {{ks}}.slots SET owner = ?, epoch = ? {slot} IF epoch = ?")).await?,
            claim_first: plain(&format!("UPDATE {{ks}}.slots SET owner = ?, epoch = ? {slot} IF epoch = null")).await?,
            release: plain(&format!("UPDATE {{ks}}.slots SET owner = null {slot} IF epoch = ?")).await?,
            load: serial(&format!(
                "SELECT owner, epoch, format, bound, saved_revision, checksum, second, revision, ids FROM {{ks}}.slots {slot}"
            ))
            .await?,
            save_base: plain(&format!(
                "UPDATE {{ks}}.slots SET format = ?, bound = ?, saved_revision = ?, checksum = ? {slot} IF epoch = ?"
            ))
            .await?,
            add_segment: plain("INSERT INTO {ks}.slots (identity, slot, second, revision, ids) VALUES (?, ?, ?, ?, ?)")
                .await?,
            remove_segment: plain(&format!("DELETE FROM {{ks}}.slots {slot} AND second = ? AND revision = ?")).await?,
            session,
            identity: identity.to_owned(),
        })
    }

    fn at(&self, slot: SlotId) -> (CqlValue, CqlValue) {
        (
            CqlValue::Text(self.identity.clone()),
            CqlValue::Int(slot.index() as i32),
        )
    }

    /// A slot's partition, read linearizably: whatever was under way is decided first.
    async fn partition(&self, slot: SlotId, action: &'static str) -> Result<Partition, StateError> {
        let result = self.session.execute_unpaged(&self.load, self.at(slot)).await;
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
            .execute_unpaged(&self.slots, (&self.identity, indexes))
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
            .execute_unpaged(&self.processes, (&self.identity,))
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
        let values = (&self.identity, &row.process, row.beat, placement);
        let result = self.session.execute_unpaged(&self.beat, values).await;
        result
            .map(drop)
            .map_err(|error| failure(&error).into_error("renew the heartbeat"))
    }

    async fn retire(&self, process: &str) -> Result<(), StateError> {
        let result = self
            .session
            .execute_unpaged(&self.retire, (&self.identity, process))
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
                &self.claim
            }
            None => &self.claim_first,
        };
        let applied = match self.conditional(statement, values, action).await? {
            Step::Applied => true,
            Step::Refused => false,
            Step::Unknown => {
                let found = self.partition(slot, action).await?;
                found.epoch == Some(next) && found.owner.as_deref() == Some(owner)
            }
        };
        Ok(if applied {
            Conditional::Applied(next)
        } else {
            Conditional::Fenced
        })
    }

    async fn release(&self, slot: SlotId, epoch: Epoch) -> Result<Conditional<()>, StateError> {
        let action = "release a slot";
        let (identity, index) = self.at(slot);
        let values = vec![Some(identity), Some(index), Some(CqlValue::BigInt(epoch.0))];
        let applied = match self.conditional(&self.release, values, action).await? {
            Step::Applied => true,
            Step::Refused => false,
            Step::Unknown => {
                let found = self.partition(slot, action).await?;
                settled(found.epoch == Some(epoch), found.owner.is_none(), action)?
            }
        };
        Ok(if applied {
            Conditional::Applied(())
        } else {
            Conditional::Fenced
        })
    }

    async fn load(&self, slot: SlotId) -> Result<Option<Checkpoint>, StateError> {
        Ok(self.partition(slot, "load a checkpoint").await?.checkpoint)
    }

    async fn save(&self, slot: SlotId, epoch: Epoch, save: &Save) -> Result<Conditional<()>, StateError> {
        let action = "save a checkpoint";
        let (batch, values) = self.save_batch(slot, epoch, save);
        let result = self
            .session
            .batch(&batch, values)
            .await
            .map_err(|error| failure(&error));
        let applied = match step(result, action)? {
            Step::Applied => true,
            Step::Refused => false,
            Step::Unknown => {
                let found = self.partition(slot, action).await?;
                let revision = found.checkpoint.map_or(0, |checkpoint| checkpoint.revision);
                settled(found.epoch == Some(epoch), revision == save.revision, action)?
            }
        };
        Ok(if applied {
            Conditional::Applied(())
        } else {
            Conditional::Fenced
        })
    }
}

impl ScyllaState {
    fn save_batch(&self, slot: SlotId, epoch: Epoch, save: &Save) -> (Batch, Vec<Vec<CqlValue>>) {
        let (identity, index) = self.at(slot);
        let here = || vec![identity.clone(), index.clone()];
        let mut batch = Batch::new(BatchType::Logged);
        batch.set_consistency(Consistency::Quorum);
        batch.set_serial_consistency(Some(SerialConsistency::Serial));
        batch.append_statement(self.save_base.clone());
        let checksum = base_checksum(&self.identity, slot, save.bound, save.revision);
        let mut base = vec![CqlValue::Int(FORMAT)];
        base.extend([save.bound, save.revision, checksum].map(CqlValue::BigInt));
        base.extend(here());
        base.push(CqlValue::BigInt(epoch.0));
        let mut values = vec![base];
        for (key, ids) in &save.add {
            batch.append_statement(self.add_segment.clone());
            let mut row = here();
            row.extend([CqlValue::BigInt(key.second), CqlValue::BigInt(key.revision)]);
            row.push(CqlValue::Blob(encode_segment(&self.identity, slot, *key, ids)));
            values.push(row);
        }
        for key in &save.remove {
            batch.append_statement(self.remove_segment.clone());
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

/// The outcome of a step without an answer, from a linearizable read after it: whether the epoch is still ours, and
/// whether what was to be written stands there.
fn settled(ours: bool, written: bool, action: &'static str) -> Result<bool, StateError> {
    if ours && !written {
        return Err(StateError::Unavailable {
            action,
            detail: "no answer, and not applied".into(),
        });
    }
    Ok(ours)
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

/// A slot's partition as read.
struct Partition {
    owner: Option<String>,
    epoch: Option<Epoch>,
    checkpoint: Option<Checkpoint>,
}

type PartitionRow = (
    Option<String>,
    Option<i64>,
    Option<i32>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<Vec<u8>>,
);

impl Partition {
    fn read(identity: &str, slot: SlotId, result: QueryResult) -> Result<Self, StateError> {
        let rows = typed::<PartitionRow>(result, "load a checkpoint")?;
        let mut partition = Self {
            owner: None,
            epoch: None,
            checkpoint: None,
        };
        for (owner, epoch, format, bound, revision, checksum, second, segment_revision, ids) in rows {
            partition.owner = owner;
            partition.epoch = epoch.map(Epoch);
            if let Some(format) = format {
                let base = partition.checkpoint.get_or_insert_default();
                (base.bound, base.revision) = check_base(identity, slot, format, bound, revision, checksum)?;
            }
            let (Some(second), Some(revision), Some(blob)) = (second, segment_revision, ids) else {
                continue;
            };
            let key = SegmentKey { second, revision };
            let refuse = |detail: String| StateError::Unreadable { slot, detail };
            let ids = decode_segment(identity, slot, key, &blob).ok_or_else(|| {
                refuse(format!(
                    "the segment of second {second}, revision {revision} is corrupt"
                ))
            })?;
            let Some(base) = &mut partition.checkpoint else {
                return Err(refuse("segments without a base row".into()));
            };
            base.segments.push(key);
            base.resolved.extend(ids.into_iter().map(|id| (second, id)));
        }
        Ok(partition)
    }
}

fn check_base(
    identity: &str,
    slot: SlotId,
    format: i32,
    bound: Option<i64>,
    revision: Option<i64>,
    checksum: Option<i64>,
) -> Result<(i64, i64), StateError> {
    let refuse = |detail: String| StateError::Unreadable { slot, detail };
    if format != FORMAT {
        return Err(refuse(format!(
            "it has format {format}, this version reads format {FORMAT}; run the version that wrote it"
        )));
    }
    let (Some(bound), Some(revision)) = (bound, revision) else {
        return Err(refuse("its bound or revision is missing".into()));
    };
    if checksum != Some(base_checksum(identity, slot, bound, revision)) {
        return Err(refuse(format!(
            "its checksum does not match (identity \"{identity}\", bound {bound})"
        )));
    }
    Ok((bound, revision))
}

/// Lightweight transactions are refused on tablets in many releases; better said at once than by the first claim.
async fn refuse_tablets(session: &Session, keyspace: &str) -> Result<(), StateError> {
    let text = "SELECT initial_tablets FROM system_schema.scylla_keyspaces WHERE keyspace_name = ?";
    // A database without that table has no tablets.
    let Ok(result) = session.query_unpaged(text, (keyspace,)).await else {
        return Ok(());
    };
    let uses_tablets = typed::<(Option<i32>,)>(result, "read keyspaces")?
        .iter()
        .any(|row| row.0.is_some());
    if !uses_tablets {
        return Ok(());
    }
    Err(StateError::Configuration {
        action: "use the state keyspace",
        detail: format!(
            "keyspace \"{keyspace}\" uses tablets, where lightweight transactions may be refused; create it WITH \
             tablets = {{'enabled': false}} or name another one in state.keyspace"
        ),
    })
}

async fn prepare(
    session: &Session,
    text: String,
    consistency: Consistency,
) -> Result<PreparedStatement, StateError> {
    let mut statement = Statement::new(text);
    statement.set_consistency(consistency);
    statement.set_serial_consistency(Some(SerialConsistency::Serial));
    let prepared = session.prepare(statement).await;
    prepared.map_err(|error| errors::preparing(&error).into_error("prepare its statements"))
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
