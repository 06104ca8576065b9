//! Taking a slot's checkpoint away for good. The epoch stays, raised by one: a process that comes back after all, however
//! late, finds another one and does no harm to a relay that begins anew.

use scylla::client::session::Session;
use scylla::statement::Statement;
use scylla::statement::batch::Batch;
use scylla::value::CqlValue;

use super::statements::{self, REQUEST_TIMEOUT};
use super::{NO_SLOT, ScyllaState, Step, failure, step, typed, unapplied};
use crate::model::SlotId;
use crate::ports::{Conditional, Epoch, StateError, StateStore as _};

/// Segments in one conditional batch; a checkpoint of many is deleted in several, its base with the last one.
const SEGMENTS_PER_BATCH: usize = 100;

/// Owner of a slot whose checkpoint is being deleted: it beats no heart, so the slot is free again after a lease.
const DELETION: &str = "state-delete";

const ACTION: &str = "delete a checkpoint";

impl ScyllaState {
    /// Whether there are state tables in this keyspace.
    ///
    /// # Errors
    /// When the schema cannot be read.
    pub async fn is_there(session: &Session, keyspace: &str) -> Result<bool, StateError> {
        let action = "look for its tables";
        let text =
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = 'slots'";
        let result = session.query_unpaged(text, (keyspace,)).await;
        let rows = result.map_err(|error| failure(&error).into_error(action))?;
        Ok(!typed::<(String,)>(rows, action)?.is_empty())
    }

    /// Deletes the checkpoint of a slot whose epoch is still `seen`, and frees the slot.
    ///
    /// # Errors
    /// When it is not known whether all of it was deleted: try again with the epoch that stands there then.
    pub async fn forget(&self, slot: SlotId, seen: Epoch) -> Result<Conditional<()>, StateError> {
        let epoch = match self.claim(slot, Some(seen), DELETION).await? {
            Conditional::Applied(epoch) => epoch,
            Conditional::Fenced => return Ok(Conditional::Fenced),
        };
        let segments = self.segments(slot).await?;
        let (all_but_last, last) = match segments
            .chunks(SEGMENTS_PER_BATCH)
            .collect::<Vec<_>>()
            .split_last()
        {
            Some((last, others)) => (others.to_vec(), last.to_vec()),
            None => (Vec::new(), Vec::new()),
        };
        let keep_base = self
            .at_keyspace("UPDATE {ks}.slots SET owner = null WHERE identity = ? AND slot = ? IF epoch = ?");
        for chunk in all_but_last {
            if let Conditional::Fenced = self.forget_batch(slot, epoch, &keep_base, chunk).await? {
                return Ok(Conditional::Fenced);
            }
        }
        let without_base = self.at_keyspace(
            "UPDATE {ks}.slots SET owner = null, transactional_id = null, incarnation = null, format = null, bound = null, \
             saved_revision = null, mark_offset = null, mark_sequence = null, checksum = null WHERE identity = ? AND slot = ? IF epoch = ?",
        );
        self.forget_batch(slot, epoch, &without_base, &last).await
    }

    /// Deletes which journal is the identity's: the next one is begun, or the one that is there adopted.
    ///
    /// # Errors
    /// When it is not known whether it was deleted.
    pub async fn forget_incarnation(&self) -> Result<(), StateError> {
        let Some(incarnation) = self.incarnation().await? else {
            return Ok(());
        };
        let text = self.at_keyspace(
            "UPDATE {ks}.slots SET incarnation = null WHERE identity = ? AND slot = ? IF incarnation = ?",
        );
        let mut statement = Statement::new(text);
        statement.set_serial_consistency(Some(scylla::statement::SerialConsistency::Serial));
        statement.set_request_timeout(Some(REQUEST_TIMEOUT));
        let values = (&self.identity, NO_SLOT, incarnation.0);
        let result = self.session.query_unpaged(statement, values).await;
        result
            .map(drop)
            .map_err(|error| failure(&error).into_error(ACTION))
    }

    /// Keys of the slot's segments; what they hold is not looked at, as it may be what cannot be read.
    async fn segments(&self, slot: SlotId) -> Result<Vec<(i64, i64)>, StateError> {
        let text =
            self.at_keyspace("SELECT second, revision FROM {ks}.slots WHERE identity = ? AND slot = ?");
        let mut statement = Statement::new(text);
        statement.set_consistency(scylla::statement::Consistency::Serial);
        statement.set_request_timeout(Some(REQUEST_TIMEOUT));
        let result = self.session.query_unpaged(statement, self.at(slot)).await;
        let rows = result.map_err(|error| failure(&error).into_error(ACTION))?;
        let rows = typed::<(Option<i64>, Option<i64>)>(rows, ACTION)?;
        // A partition of static columns alone is one row without a key.
        Ok(rows
            .into_iter()
            .filter_map(|(second, revision)| second.zip(revision))
            .collect())
    }

    async fn forget_batch(
        &self,
        slot: SlotId,
        epoch: Epoch,
        base: &str,
        segments: &[(i64, i64)],
    ) -> Result<Conditional<()>, StateError> {
        let (identity, index) = self.at(slot);
        let mut batch: Batch = statements::batch();
        batch.append_statement(Statement::new(base));
        let mut values = vec![vec![identity.clone(), index.clone(), CqlValue::BigInt(epoch.0)]];
        for (second, revision) in segments {
            batch.append_statement(self.statements.remove_segment.clone());
            let key = [*second, *revision].map(CqlValue::BigInt);
            values.push([identity.clone(), index.clone()].into_iter().chain(key).collect());
        }
        let result = self.session.batch(&batch, values).await;
        match step(result.map_err(|error| failure(&error)), ACTION)? {
            Step::Applied => Ok(Conditional::Applied(())),
            Step::Refused => Ok(Conditional::Fenced),
            Step::Unknown => Err(unapplied(ACTION)),
        }
    }

    fn at_keyspace(&self, text: &str) -> String {
        text.replace("{ks}", &format!("\"{}\"", self.keyspace))
    }
}
