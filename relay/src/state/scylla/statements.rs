//! The statements of the state store, prepared, each with its consistency and its time-out.

use std::time::Duration;

use scylla::client::session::Session;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency, Statement};

use super::errors;
use crate::ports::StateError;

/// Beyond ScyllaDB's own time-outs for a lightweight transaction (1 s of contention and 2 s for the write), so that its
/// answer comes first: what was given up before it was answered may yet take place.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Statements {
    pub(super) slots: PreparedStatement,
    pub(super) processes: PreparedStatement,
    pub(super) beat: PreparedStatement,
    pub(super) retire: PreparedStatement,
    pub(super) claim: PreparedStatement,
    pub(super) claim_first: PreparedStatement,
    pub(super) release: PreparedStatement,
    pub(super) release_clean: PreparedStatement,
    pub(super) record_id: PreparedStatement,
    pub(super) incarnation: PreparedStatement,
    pub(super) record_incarnation: PreparedStatement,
    pub(super) load: PreparedStatement,
    pub(super) save_base: PreparedStatement,
    pub(super) save_first: PreparedStatement,
    pub(super) add_segment: PreparedStatement,
    pub(super) remove_segment: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StateError> {
        let at = |text: &str| text.replace("{ks}", &format!("\"{keyspace}\""));
        let plain = async |text: &str| prepare(session, at(text), Consistency::Quorum).await;
        let serial = async |text: &str| prepare(session, at(text), Consistency::Serial).await;
        let slot = "WHERE identity = ? AND slot = ?";
        let save = format!(
            "UPDATE {{ks}}.slots SET format = ?, bound = ?, saved_revision = ?, mark_offset = ?, mark_sequence = ?, \
             checksum = ? {slot}"
        );
        Ok(Self {
            slots: plain("SELECT DISTINCT identity, slot, owner, epoch FROM {ks}.slots WHERE identity = ? AND slot IN ?")
                .await?,
            processes: plain("SELECT process, beat, placement FROM {ks}.processes WHERE identity = ?").await?,
            beat: plain(
                "INSERT INTO {ks}.processes (identity, process, beat, placement) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
            )
            .await?,
            retire: plain("DELETE FROM {ks}.processes USING TIMESTAMP ? WHERE identity = ? AND process = ?").await?,
            claim: plain(&format!("UPDATE {{ks}}.slots SET owner = ?, epoch = ? {slot} IF epoch = ?")).await?,
            claim_first: plain(&format!("UPDATE {{ks}}.slots SET owner = ?, epoch = ? {slot} IF epoch = null")).await?,
            release: plain(&format!("UPDATE {{ks}}.slots SET owner = null {slot} IF epoch = ?")).await?,
            release_clean: plain(&format!(
                "UPDATE {{ks}}.slots SET owner = null, transactional_id = null {slot} IF epoch = ?"
            ))
            .await?,
            record_id: plain(&format!("UPDATE {{ks}}.slots SET transactional_id = ? {slot} IF epoch = ?")).await?,
            incarnation: serial(&format!("SELECT DISTINCT identity, slot, incarnation FROM {{ks}}.slots {slot}")).await?,
            record_incarnation: plain(&format!(
                "UPDATE {{ks}}.slots SET incarnation = ? {slot} IF incarnation = null"
            ))
            .await?,
            load: serial(&format!(
                "SELECT owner, epoch, transactional_id, format, bound, saved_revision, mark_offset, mark_sequence, \
                 checksum, second, revision, ids FROM {{ks}}.slots {slot}"
            ))
            .await?,
            save_base: plain(&format!("{save} IF epoch = ? AND saved_revision = ?")).await?,
            save_first: plain(&format!("{save} IF epoch = ? AND saved_revision = null")).await?,
            add_segment: plain("INSERT INTO {ks}.slots (identity, slot, second, revision, ids) VALUES (?, ?, ?, ?, ?)")
                .await?,
            remove_segment: plain(&format!("DELETE FROM {{ks}}.slots {slot} AND second = ? AND revision = ?")).await?,
        })
    }
}

/// An empty conditional batch.
pub(super) fn batch() -> Batch {
    let mut batch = Batch::new(BatchType::Logged);
    batch.set_consistency(Consistency::Quorum);
    batch.set_serial_consistency(Some(SerialConsistency::Serial));
    batch.set_request_timeout(Some(REQUEST_TIMEOUT));
    batch
}

async fn prepare(
    session: &Session,
    text: String,
    consistency: Consistency,
) -> Result<PreparedStatement, StateError> {
    let mut statement = Statement::new(text);
    statement.set_consistency(consistency);
    statement.set_serial_consistency(Some(SerialConsistency::Serial));
    statement.set_request_timeout(Some(REQUEST_TIMEOUT));
    let prepared = session.prepare(statement).await;
    prepared.map_err(|error| errors::preparing(&error).into_error("prepare its statements"))
}
