//! Faults of reads: rows that a replica does not have.

use std::sync::Arc;

use super::Faults;
use super::rule::{ActiveRule, Stage, chance};
use crate::error::CqlError;
use crate::query::api::Session;
use crate::query::hooks::{ReadFaults, RowFilter};
use crate::schema::TableSchema;
use crate::storage::mutation::{ClusteringKey, PartitionKey};

impl ReadFaults for Faults {
    fn before_read(&self, _session: &Session, table: &TableSchema) -> Result<Option<RowFilter>, CqlError> {
        if !self.touch(Stage::Read) {
            return Ok(None);
        }
        let name = format!("{}.{}", table.keyspace, table.name);
        let striking: Vec<(Arc<ActiveRule>, u64)> = self
            .rules_of(Stage::Read)
            .into_iter()
            .filter(|active| active.rule.table.as_ref().is_none_or(|pattern| pattern.is(&name)))
            .filter_map(|active| active.next_turn().map(|turn| (active, turn)))
            .collect();
        if striking.is_empty() {
            return Ok(None);
        }
        let is_log = table.cdc_log_of.is_some();
        Ok(Some(Arc::new(
            move |key: &PartitionKey, clustering: Option<&ClusteringKey>| {
                striking.iter().all(|(active, turn)| {
                    let seen = !misses(active, *turn, key, clustering, is_log);
                    if !seen {
                        active.count_hit();
                    }
                    seen
                })
            },
        )))
    }
}

/// Each read draws anew, as another replica would answer it. All rows of a log record (one stream and time)
/// share one draw: they are one mutation.
fn misses(
    active: &ActiveRule,
    turn: u64,
    key: &PartitionKey,
    clustering: Option<&ClusteringKey>,
    is_log: bool,
) -> bool {
    let mut drawn = key.serialized.to_vec();
    match clustering {
        Some(clustering) if is_log => drawn.extend_from_slice(clustering.value(0).unwrap_or_default()),
        Some(clustering) => drawn.extend_from_slice(clustering.ordered()),
        None => {}
    }
    chance(active.rule.seed, turn, &drawn) < u64::from(active.rule.share_percent)
}
