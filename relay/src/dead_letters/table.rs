//! Dead letters in a CQL table.

mod owned;
mod requests;

use std::collections::HashSet;
use std::sync::Arc;

use crds::RelayConfig;
use crds::sink::Guarantee;
use futures::TryStreamExt;
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, Statement};
use scylla::value::{CqlTimestamp, CqlTimeuuid, CqlValue};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::replay::replays;
use super::stored::{self, Stored};
use crate::model::{CdcTime, Micros, SlotId, SlotSet, SourcePosition};
use crate::ports::{DeadLetter, DeadLetterError, Outcome};
use owned::Owned;

/// Name of the table in the state keyspace unless the configuration names another.
const DEFAULT_TABLE: &str = "dead_letters";

/// Columns in the order of the insert.
const COLUMNS: [&str; 22] = [
    "identity",
    "slot",
    "source_time",
    "source_stream",
    "source_seq",
    "id",
    "event_id",
    "aggregate_id",
    "event_type",
    "payload",
    "error_message",
    "failure_count",
    "first_failed_at",
    "last_failed_at",
    "created_at",
    "topic",
    "key",
    "headers",
    "source_position",
    "error_class",
    "outcome",
    "status",
];

/// A partition per slot, in log order, so that a replay finds the letters of an aggregate in their order; the key is
/// the source position, so that writing one twice writes it once.
pub fn create_table(keyspace: &str, table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS \"{keyspace}\".\"{table}\" (\
         identity text, slot int, source_time timeuuid, source_stream blob, source_seq int, \
         id uuid, event_id text, aggregate_id text, event_type text, payload blob, error_message text, \
         failure_count int, first_failed_at timestamp, last_failed_at timestamp, created_at timestamp, \
         topic text, key blob, headers list<frozen<tuple<text, blob>>>, source_position text, error_class text, \
         outcome text, status text, replay_begun bigint, epoch bigint static, \
         PRIMARY KEY ((identity, slot), source_time, source_stream, source_seq))"
    )
}

/// What a table of an earlier version lacks, and how it gets it. A letter without a status waits.
pub fn additions(keyspace: &str, table: &str) -> [(&'static str, String); 3] {
    let add = |column| format!("ALTER TABLE \"{keyspace}\".\"{table}\" ADD {column}");
    [
        ("status", add("status text")),
        ("replay_begun", add("replay_begun bigint")),
        ("epoch", add("epoch bigint static")),
    ]
}

/// Before every letter; a partition that has nothing but an epoch has no row from here on.
const BEGINNING: &str = "00000000-0000-1000-8080-808080808080";

/// A value of column `slot` under which there never is a letter, but requests for replays.
const NO_SLOT: i32 = -1;

/// Of a letter whose event no committed transaction has resolved yet.
pub const PENDING: &str = "pending";

/// Of a letter that waits for somebody to act.
pub const WAITING: &str = "waiting";

/// Of a letter whose replay is asked for.
pub const REPLAYING: &str = "replaying";

/// Of a letter whose replay may be in a transaction that was committed.
pub const SENDING: &str = "sending";

/// Of a letter that was replayed as often as is accepted.
pub const QUARANTINED: &str = "quarantined";

/// Keyspace and table, as configured.
pub fn name(config: &RelayConfig) -> (String, String) {
    let named = config.dead_letter.table.as_deref().unwrap_or(DEFAULT_TABLE);
    match named.split_once('.') {
        Some((keyspace, table)) => (keyspace.to_owned(), table.to_owned()),
        None => (config.state.keyspace.clone(), named.to_owned()),
    }
}

/// Identity, slot, time, stream and number in the batch.
type Key<'a> = (&'a str, i32, CqlTimeuuid, Vec<u8>, i32);

pub struct TableDeadLetters {
    session: Arc<Session>,
    identity: String,
    target: String,
    /// Keyspace and table, quoted.
    name: String,
    max_replays: u32,
    /// Letters are written, and decided on, by lightweight transactions.
    transactional: bool,
    insert: PreparedStatement,
    count: PreparedStatement,
    aggregates: PreparedStatement,
    /// Prepared for those who deliver in transactions, or follow somebody who did: not every keyspace takes them.
    owned: OnceCell<Owned>,
    /// For people only, so it is prepared when they ask.
    whole: Statement,
    remove: PreparedStatement,
    pending: PreparedStatement,
    standing: PreparedStatement,
}

impl TableDeadLetters {
    /// # Errors
    /// When the table is missing, lacks a column or may not be written.
    pub async fn open(session: Arc<Session>, config: &RelayConfig) -> Result<Self, DeadLetterError> {
        let (keyspace, table) = name(config);
        let target = format!("table {keyspace}.{table}");
        let text = format!(
            "INSERT INTO \"{keyspace}\".\"{table}\" ({}) VALUES ({})",
            COLUMNS.join(", "),
            ["?"; COLUMNS.len()].join(", ")
        );
        let statement = |text: String| {
            let mut statement = Statement::new(text);
            statement.set_consistency(Consistency::Quorum);
            statement.set_is_idempotent(true);
            statement
        };
        let prepare = async |text: String| {
            let prepared = session.prepare(statement(text)).await;
            prepared.map_err(|error| failed(&target, &error))
        };
        let of_slot = |what: &str| {
            format!("SELECT {what} FROM \"{keyspace}\".\"{table}\" WHERE identity = ? AND slot = ?")
        };
        let insert = prepare(text).await?;
        // A partition that has nothing but an epoch is a row to a count of rows.
        let count = prepare(of_slot("count(error_class)")).await?;
        let aggregates = prepare(of_slot("aggregate_id, status")).await?;
        let at =
            "WHERE identity = ? AND slot = ? AND source_time = ? AND source_stream = ? AND source_seq = ?";
        let remove = prepare(format!("DELETE FROM \"{keyspace}\".\"{table}\" {at}")).await?;
        let pending = of_slot("source_time, source_stream, source_seq, status, replay_begun");
        let pending = prepare(format!("{pending} AND source_time >= {BEGINNING}")).await?;
        let standing = "source_time, source_stream, source_seq, status, error_class, event_id, aggregate_id, last_failed_at";
        let standing = prepare(format!("{} AND source_time >= {BEGINNING}", of_slot(standing))).await?;
        let whole = statement(format!(
            "{} AND source_time >= {BEGINNING}",
            of_slot(stored::COLUMNS)
        ));
        let table = Self {
            session,
            whole,
            identity: config.identity.clone(),
            target,
            name: format!("\"{keyspace}\".\"{table}\""),
            max_replays: config.dead_letter.max_replays,
            transactional: config.sink.guarantee == Guarantee::ExactlyOnce,
            insert,
            count,
            aggregates,
            owned: OnceCell::new(),
            remove,
            pending,
            standing,
        };
        table.prove().await?;
        if table.transactional {
            table.prove_owned().await?;
        }
        Ok(table)
    }

    /// Preparing a statement asks for no permission. Removes what is in no slot, so nothing.
    async fn prove(&self) -> Result<(), DeadLetterError> {
        let removed = self.session.execute_unpaged(&self.remove, self.nowhere()).await;
        removed.map(drop).map_err(|error| self.failed(&error))
    }

    fn nowhere(&self) -> Key<'_> {
        let time = CqlTimeuuid::from(CdcTime::min_of(0).0);
        (&self.identity, NO_SLOT, time, Vec::new(), 0)
    }

    /// One after the other: letters of one aggregate must not overtake each other into a half-written table.
    pub(super) async fn write(&self, letters: &[DeadLetter]) -> Result<(), DeadLetterError> {
        for letter in letters {
            if let Some(epoch) = letter.pending {
                self.write_owned(letter, epoch).await?;
            } else {
                let written = self.session.execute_unpaged(&self.insert, self.row(letter)).await;
                written.map_err(|error| self.failed(&error))?;
            }
        }
        Ok(())
    }

    /// See [`crate::ports::DeadLetters::aggregates`]. Reads the letters page by page, oldest first.
    pub(super) async fn aggregates(
        &self,
        slot: SlotId,
        limit: usize,
    ) -> Result<Vec<String>, DeadLetterError> {
        let failed = |error: &dyn std::fmt::Display| self.failed(error);
        let values = (self.identity.clone(), slot.index() as i32);
        let pages = self.session.execute_iter(self.aggregates.clone(), values).await;
        let mut rows = pages
            .map_err(|error| failed(&error))?
            .rows_stream::<(Option<String>, Option<String>)>()
            .map_err(|error| failed(&error))?;
        let mut aggregates = HashSet::new();
        while let Some((aggregate, status)) = rows.try_next().await.map_err(|error| failed(&error))? {
            aggregates.extend(aggregate.filter(|_| status.as_deref() != Some(PENDING)));
            if aggregates.len() >= limit {
                break;
            }
        }
        Ok(aggregates.into_iter().collect())
    }

    async fn at(
        &self,
        statement: &PreparedStatement,
        slot: SlotId,
        position: &SourcePosition,
    ) -> Result<(), DeadLetterError> {
        let key = self.key(slot, position);
        let done = self.session.execute_unpaged(statement, key).await;
        done.map(drop).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> DeadLetterError {
        failed(&self.target, error)
    }

    /// Dead letters that wait in the partitions of these slots.
    ///
    /// # Errors
    /// When they cannot be counted.
    pub async fn pending(&self, slots: SlotSet) -> Result<u64, DeadLetterError> {
        let failed = |error: &dyn std::fmt::Display| self.failed(error);
        let mut pending = 0;
        for slot in slots.iter() {
            let values = (&self.identity, slot.index() as i32);
            let result = self
                .session
                .execute_unpaged(&self.count, values)
                .await
                .map_err(|error| failed(&error))?;
            let rows = result.into_rows_result().map_err(|error| failed(&error))?;
            pending += rows
                .single_row::<(i64,)>()
                .map_err(|error| failed(&error))?
                .0
                .max(0) as u64;
        }
        Ok(pending)
    }

    /// The letters that `takes` says yes to, of all slots.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn stored(&self, takes: impl Fn(&Stored) -> bool) -> Result<Vec<Stored>, DeadLetterError> {
        let whole = self.session.prepare(self.whole.clone()).await;
        let whole = whole.map_err(|error| self.failed(&error))?;
        let mut letters = Vec::new();
        for slot in SlotId::all() {
            let values = (self.identity.clone(), slot.index() as i32);
            let rows = self.session.execute_iter(whole.clone(), values).await;
            let rows = rows.map_err(|error| self.failed(&error))?;
            let mut rows = rows
                .rows_stream::<Stored>()
                .map_err(|error| self.failed(&error))?;
            while let Some(letter) = rows.try_next().await.map_err(|error| self.failed(&error))? {
                letters.extend(Some(letter).filter(|letter| takes(letter)));
            }
        }
        Ok(letters)
    }

    /// Removes a letter.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn discard(&self, letter: &Stored) -> Result<(), DeadLetterError> {
        let values = (
            &self.identity,
            letter.slot,
            letter.source_time,
            &letter.source_stream,
            letter.source_seq,
        );
        let removed = self.session.execute_unpaged(&self.remove, values).await;
        removed.map(drop).map_err(|error| self.failed(&error))
    }

    fn row(&self, letter: &DeadLetter) -> Vec<Option<CqlValue>> {
        let text = |text: &str| Some(CqlValue::Text(text.to_owned()));
        let time = |micros: Micros| Some(CqlValue::Timestamp(CqlTimestamp(micros / 1000)));
        let blob = |bytes: &bytes::Bytes| CqlValue::Blob(bytes.to_vec());
        let message = &letter.message;
        let headers = message.headers.iter().map(|(name, value)| {
            CqlValue::Tuple(vec![Some(CqlValue::Text(name.to_string())), Some(blob(value))])
        });
        vec![
            text(&self.identity),
            Some(CqlValue::Int(letter.slot.index() as i32)),
            Some(CqlValue::Timeuuid(letter.position.time.0.into())),
            Some(CqlValue::Blob(letter.position.stream.0.to_vec())),
            Some(CqlValue::Int(letter.position.batch_seq_no)),
            Some(CqlValue::Uuid(uuid_of(&letter.event_id))),
            text(&letter.event_id),
            letter.aggregate_id.as_deref().and_then(text),
            letter.event_type.as_deref().and_then(text),
            message.payload.as_ref().map(blob),
            text(&letter.error),
            Some(CqlValue::Int(i32::try_from(letter.failures).unwrap_or(i32::MAX))),
            time(letter.first_failed_at),
            time(letter.last_failed_at),
            letter.created_at.and_then(time),
            text(&message.topic),
            message.key.as_ref().map(blob),
            Some(CqlValue::List(headers.collect())),
            text(&letter.position.to_string()),
            text(letter.reason.name()),
            text(outcome_name(letter.outcome)),
            text(match letter.pending {
                Some(_) => PENDING,
                None if replays(&message.headers) >= self.max_replays => QUARANTINED,
                None => WAITING,
            }),
        ]
    }
}

fn failed(target: &str, error: &dyn std::fmt::Display) -> DeadLetterError {
    DeadLetterError {
        target: target.to_owned(),
        detail: error.to_string(),
        fenced: false,
    }
}

/// Stable name for the table, headers and log fields.
pub(super) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotWritten => "not-written",
        Outcome::Unknown => "unknown",
    }
}

/// An event id that is no UUID gets one that follows from it.
fn uuid_of(event_id: &str) -> Uuid {
    event_id
        .parse()
        .unwrap_or_else(|_| Uuid::new_v5(&EVENT_ID_NAMESPACE, event_id.as_bytes()))
}

/// Fixed for ever: the same event must get the same id.
const EVENT_ID_NAMESPACE: Uuid = Uuid::from_u128(0x6f75_7462_6f78_5265_8c61_7920_6576_6964);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_state_keyspace_unless_named() {
        let mut config = RelayConfig::default();
        for (named, expected) in [
            (None, ("outbox_relay", "dead_letters")),
            (Some("failed"), ("outbox_relay", "failed")),
            (Some("shop.dead_letter_queue"), ("shop", "dead_letter_queue")),
        ] {
            config.dead_letter.table = named.map(str::to_owned);
            let (keyspace, table) = name(&config);
            assert_eq!((keyspace.as_str(), table.as_str()), expected);
        }
    }

    #[test]
    fn every_column_of_the_insert_is_in_the_table() {
        let of_the_example = |schema: &str| {
            let (_, rest) = schema.split_once("dead_letter_queue (").unwrap();
            rest.split_once(';').unwrap().0.to_owned()
        };
        for table in [
            create_table("ks", "t"),
            of_the_example(include_str!("../../../examples/orders/schema.cql")),
            of_the_example(include_str!("../../../examples/orders/schema-plain.cql")),
        ] {
            for column in COLUMNS {
                assert!(
                    table.contains(&format!(" {column} ")) || table.contains(&format!("({column} ")),
                    "{column}: {table}"
                );
            }
        }
    }

    #[test]
    fn ids_that_are_no_uuid_get_a_stable_one() {
        let uuid = "0191d2a4-0000-7000-8000-000000000001";
        assert_eq!(uuid_of(uuid).to_string(), uuid);
        assert_eq!(uuid_of("order-7"), uuid_of("order-7"));
        assert_ne!(uuid_of("order-7"), uuid_of("order-8"));
    }
}
