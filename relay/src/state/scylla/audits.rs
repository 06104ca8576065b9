//! The last recorded audit of the identity: written by the command, read by the relay that owns slot 0. One row; who writes
//! last is right, so plain writes do.

use crds::relay_status::Audit;
use scylla::statement::{Consistency, Statement};
use scylla::value::{CqlTimestamp, CqlValue};

use super::statements::REQUEST_TIMEOUT;
use super::{ScyllaState, failure, typed};
use crate::ports::StateError;

/// Time, from, to, then the counts.
type Row = (
    Option<CqlTimestamp>,
    Option<CqlTimestamp>,
    Option<CqlTimestamp>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

impl ScyllaState {
    /// Records what an audit found, in place of the one before.
    ///
    /// # Errors
    /// When the table is missing or may not be written.
    pub async fn record_audit(&self, audit: &Audit) -> Result<(), StateError> {
        let text = "INSERT INTO {ks}.audits (identity, audited_at, window_from, window_to, events, not_yet_due, missing, \
                    reordered, repeated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let time = |time: crds::Timestamp| CqlValue::Timestamp(CqlTimestamp(time.milliseconds() as i64));
        let count = |count: u64| CqlValue::BigInt(i64::try_from(count).unwrap_or(i64::MAX));
        let values = vec![
            CqlValue::Text(self.identity.clone()),
            time(audit.time),
            time(audit.from),
            time(audit.to),
            count(audit.events),
            count(audit.not_yet_due),
            count(audit.missing),
            count(audit.reordered),
            count(audit.repeated),
        ];
        let written = self.session.query_unpaged(self.audits(text), values).await;
        written
            .map(drop)
            .map_err(|error| failure(&error).into_error("record an audit"))
    }

    /// The last one; None if there never was one.
    ///
    /// # Errors
    /// When the table is missing or cannot be read.
    pub async fn audit(&self) -> Result<Option<Audit>, StateError> {
        let action = "read the last audit";
        let text = "SELECT audited_at, window_from, window_to, events, not_yet_due, missing, reordered, repeated \
                    FROM {ks}.audits WHERE identity = ?";
        let read = self
            .session
            .query_unpaged(self.audits(text), (&self.identity,))
            .await;
        let rows = read.map_err(|error| failure(&error).into_error(action))?;
        let rows = typed::<Row>(rows, action)?;
        let time = |time: Option<CqlTimestamp>| {
            crds::Timestamp::from_milliseconds(time.map_or(0, |time| time.0.max(0) as u64))
        };
        let count = |count: Option<i64>| count.unwrap_or_default().max(0) as u64;
        Ok(rows.into_iter().next().map(|row| Audit {
            time: time(row.0),
            from: time(row.1),
            to: time(row.2),
            events: count(row.3),
            not_yet_due: count(row.4),
            missing: count(row.5),
            reordered: count(row.6),
            repeated: count(row.7),
        }))
    }

    /// Of another outbox it would say nothing. A table that is not there has none.
    ///
    /// # Errors
    /// When it is not known whether it was deleted.
    pub async fn forget_audit(&self) -> Result<(), StateError> {
        if self.audit().await.unwrap_or_default().is_none() {
            return Ok(());
        }
        let text = self.audits("DELETE FROM {ks}.audits WHERE identity = ?");
        let deleted = self.session.query_unpaged(text, (&self.identity,)).await;
        deleted
            .map(drop)
            .map_err(|error| failure(&error).into_error("forget the last audit"))
    }

    fn audits(&self, text: &str) -> Statement {
        let mut statement = Statement::new(text.replace("{ks}", &format!("\"{}\"", self.keyspace)));
        statement.set_consistency(Consistency::Quorum);
        statement.set_is_idempotent(true);
        statement.set_request_timeout(Some(REQUEST_TIMEOUT));
        statement
    }
}
