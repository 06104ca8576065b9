//! Event ids of the dead letters, from a table and from a topic.

use std::collections::HashMap;

use futures::TryStreamExt;
use scylla::client::session::Session;
use scylla::errors::{NextRowError, PagerExecutionError, TypeCheckError};
use uuid::Uuid;

use crate::kafka::{self, Cluster, ReadError, TopicReader};

/// Where dead letters are. Both may hold the same ones.
#[derive(Default)]
pub struct DeadLetters {
    /// Session and `keyspace.table`.
    pub table: Option<(Session, String)>,
    pub topic: Option<(Cluster, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum DeadLettersError {
    #[error("dead letters of table {table}: {cause}")]
    Query {
        table: String,
        cause: Box<PagerExecutionError>,
    },
    #[error("dead letters of table {table}: column id: {cause}")]
    Column {
        table: String,
        cause: Box<TypeCheckError>,
    },
    #[error("dead letters of table {table}: {cause}")]
    Row { table: String, cause: Box<NextRowError> },
    #[error(transparent)]
    Topic(#[from] ReadError),
    #[error("topic {topic}: the dead letter at partition {partition}, offset {offset} carries no event id")]
    Nameless {
        topic: String,
        partition: i32,
        offset: i64,
    },
}

impl DeadLetters {
    /// All event ids, as often as the target says them that says them most: both targets hold the same letters, but
    /// one that comes twice in a topic was written twice.
    pub async fn event_ids(&self) -> Result<Vec<Uuid>, DeadLettersError> {
        let table = match &self.table {
            Some((session, table)) => from_table(session, table).await?,
            None => Vec::new(),
        };
        let topic = match &self.topic {
            Some((cluster, topic)) => from_topic(cluster, topic).await?,
            None => Vec::new(),
        };
        Ok(joined(topic, table))
    }
}

/// The ids of one target, and what the other one says more often.
fn joined(mut ids: Vec<Uuid>, others: Vec<Uuid>) -> Vec<Uuid> {
    let mut counts: HashMap<Uuid, usize> = HashMap::new();
    for id in &ids {
        *counts.entry(*id).or_default() += 1;
    }
    for id in others {
        match counts.get_mut(&id) {
            Some(left) if *left > 0 => *left -= 1,
            _ => ids.push(id),
        }
    }
    ids
}

async fn from_table(session: &Session, table: &str) -> Result<Vec<Uuid>, DeadLettersError> {
    let table = || table.to_owned();
    let rows = session
        .query_iter(format!("SELECT id FROM {}", table()), ())
        .await
        .map_err(|cause| DeadLettersError::Query {
            table: table(),
            cause: Box::new(cause),
        })?
        // A row without an id is no letter: it says that replays are asked for.
        .rows_stream::<(Option<Uuid>,)>()
        .map_err(|cause| DeadLettersError::Column {
            table: table(),
            cause: Box::new(cause),
        })?;
    let ids: Result<Vec<(Option<Uuid>,)>, NextRowError> = rows.try_collect().await;
    let ids = ids.map_err(|cause| DeadLettersError::Row {
        table: table(),
        cause: Box::new(cause),
    })?;
    Ok(ids.into_iter().filter_map(|(id,)| id).collect())
}

async fn from_topic(cluster: &Cluster, topic: &str) -> Result<Vec<Uuid>, DeadLettersError> {
    use rdkafka::Message;
    let mut reader = TopicReader::open(cluster, topic).await?;
    let mut ids = Vec::new();
    while !reader.at_end() {
        let Some(message) = reader.next().await? else {
            continue;
        };
        let id = kafka::event_id(&message).ok_or_else(|| DeadLettersError::Nameless {
            topic: topic.to_owned(),
            partition: message.partition(),
            offset: message.offset(),
        })?;
        ids.push(id);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_targets_hold_comes_once_and_what_one_holds_twice_comes_twice() {
        let ids = |numbers: &[u128]| -> Vec<Uuid> { numbers.iter().copied().map(Uuid::from_u128).collect() };
        let check = |topic: &[u128], table: &[u128], expected: &[u128]| {
            assert_eq!(
                joined(ids(topic), ids(table)),
                ids(expected),
                "{topic:?} {table:?}"
            );
        };
        check(&[1, 2], &[2, 1], &[1, 2]);
        check(&[1, 1], &[1], &[1, 1]);
        check(&[1], &[1, 1, 3], &[1, 1, 3]);
        check(&[], &[4], &[4]);
    }
}
