//! What the schema says of the outbox table and its log.

use std::collections::HashMap;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;

use super::errors;
use crate::ports::LogError;

/// The outbox table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxTable {
    pub keyspace: String,
    pub name: String,
    /// Name to CQL type, as `system_schema.columns` spells it.
    pub columns: HashMap<String, String>,
    pub partition_key: Vec<String>,
    pub clustering_key: Vec<ClusteringColumn>,
    pub cdc: CdcOptions,
    /// How long its rows stay (`default_time_to_live`); None for ever.
    pub ttl: Option<Duration>,
    /// How long the tombstones of its rows stay (`gc_grace_seconds`).
    pub tombstones: Duration,
    /// The keyspace has tablets, not vnodes.
    pub tablets: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusteringColumn {
    pub name: String,
    pub descending: bool,
}

/// `WITH cdc = {...}`, as far as a reader minds (ScyllaDB `cdc/cdc_options.hh`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CdcOptions {
    pub enabled: bool,
    /// `delta: keys`: delta rows hold key columns only.
    pub delta_keys: bool,
    pub postimage: bool,
    pub preimage: bool,
    /// How long log rows stay; None for ever.
    pub ttl: Option<Duration>,
}

impl OutboxTable {
    /// Reads the schema; None if there is no such table.
    ///
    /// # Errors
    /// When the schema cannot be read.
    pub async fn read(session: &Session, keyspace: &str, name: &str) -> Result<Option<Self>, LogError> {
        let text = "SELECT column_name, kind, position, clustering_order, type FROM system_schema.columns \
                    WHERE keyspace_name = ? AND table_name = ?";
        type Column = (String, String, i32, String, String);
        let mut columns: Vec<Column> = select(session, text, (keyspace, name)).await?;
        if columns.is_empty() {
            return Ok(None);
        }
        columns.sort_by_key(|column| column.2);
        let text = "SELECT default_time_to_live, gc_grace_seconds FROM system_schema.tables \
                    WHERE keyspace_name = ? AND table_name = ?";
        let options: Vec<(Option<i32>, Option<i32>)> = select(session, text, (keyspace, name)).await?;
        let (ttl, tombstones) = options.first().copied().unwrap_or_default();
        let seconds = |seconds: Option<i32>| Duration::from_secs(seconds.unwrap_or_default().max(0) as u64);
        let of_kind = |wanted: &'static str| columns.iter().filter(move |column| column.1 == wanted);
        Ok(Some(Self {
            keyspace: keyspace.to_owned(),
            name: name.to_owned(),
            partition_key: of_kind("partition_key").map(|column| column.0.clone()).collect(),
            clustering_key: of_kind("clustering")
                .map(|column| ClusteringColumn {
                    name: column.0.clone(),
                    descending: column.3.eq_ignore_ascii_case("desc"),
                })
                .collect(),
            columns: columns
                .iter()
                .map(|column| (column.0.clone(), column.4.clone()))
                .collect(),
            cdc: cdc_options(session, keyspace, name).await?,
            ttl: Some(seconds(ttl)).filter(|ttl| !ttl.is_zero()),
            tombstones: seconds(tombstones),
            tablets: uses_tablets(session, keyspace).await?,
        }))
    }

    /// Why the log does not show what is written under these options, as it did when the table was read.
    pub fn hidden_by(&self, now: &CdcOptions) -> Option<String> {
        let name = format!("{}.{}", self.keyspace, self.name);
        if !now.enabled {
            return Some(format!(
                "CDC is switched off on {name}: what is written now is not captured; \
                 ALTER TABLE {name} WITH cdc = {{'enabled': true}}"
            ));
        }
        (now.delta_keys && !now.postimage && !self.cdc.delta_keys).then(|| {
            format!(
                "the log of {name} shows keys only: what is written now comes without its values; \
                 ALTER TABLE {name} WITH cdc = {{'enabled': true, 'delta': 'full'}}"
            )
        })
    }

    pub fn is_key(&self, column: &str) -> bool {
        self.partition_key.iter().any(|name| name == column)
            || self.clustering_key.iter().any(|key| key.name == column)
    }
}

pub(super) async fn cdc_options(
    session: &Session,
    keyspace: &str,
    name: &str,
) -> Result<CdcOptions, LogError> {
    let text = "SELECT extensions FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
    type Extensions = HashMap<String, Vec<u8>>;
    let rows: Vec<(Option<Extensions>,)> = select(session, text, (keyspace, name)).await?;
    let blob = rows
        .into_iter()
        .find_map(|row| row.0)
        .and_then(|mut extensions| extensions.remove("cdc"));
    let Some(blob) = blob else {
        return Ok(CdcOptions::default());
    };
    parse_cdc_options(&blob).ok_or_else(|| {
        LogError::Configuration(format!(
            "the cdc option of {keyspace}.{name} cannot be read: 0x{}",
            hex::encode(&blob)
        ))
    })
}

/// The blob is a little-endian u32 count, then per entry (u32 length, key, u32 length, value); see ScyllaDB
/// `cdc/cdc_extension.hh`.
fn parse_cdc_options(blob: &[u8]) -> Option<CdcOptions> {
    let mut rest = blob;
    let count = take_u32(&mut rest)?;
    let mut options = CdcOptions {
        ttl: Some(DEFAULT_TTL),
        ..CdcOptions::default()
    };
    for _ in 0..count {
        let (key, value) = (take_text(&mut rest)?, take_text(&mut rest)?);
        let on = matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "full");
        match key.as_str() {
            "enabled" => options.enabled = on,
            "preimage" => options.preimage = on,
            "postimage" => options.postimage = on,
            "delta" => options.delta_keys = value.eq_ignore_ascii_case("keys"),
            "ttl" => {
                let seconds: u64 = value.parse().ok()?;
                options.ttl = (seconds > 0).then(|| Duration::from_secs(seconds));
            }
            _ => {}
        }
    }
    Some(options)
}

/// ScyllaDB's own default: a day.
const DEFAULT_TTL: Duration = Duration::from_secs(86_400);

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(u32::from_le_bytes(*head))
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = take_u32(rest)? as usize;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    String::from_utf8(head.to_vec()).ok()
}

/// Tablets have a count of initial ones; a database without the table has none.
async fn uses_tablets(session: &Session, keyspace: &str) -> Result<bool, LogError> {
    let text = "SELECT initial_tablets FROM system_schema.scylla_keyspaces WHERE keyspace_name = ?";
    match select::<(Option<i32>,)>(session, text, (keyspace,)).await {
        Ok(rows) => Ok(rows.iter().any(|row| row.0.is_some())),
        Err(LogError::Configuration(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) async fn select<R>(
    session: &Session,
    text: &str,
    values: impl scylla::serialize::row::SerializeRow,
) -> Result<Vec<R>, LogError>
where
    R: for<'f, 'm> DeserializeRow<'f, 'm>,
{
    let result = session
        .query_unpaged(text, values)
        .await
        .map_err(|error| errors::executing(&error))?;
    let unreadable = |error: &dyn std::fmt::Display| LogError::Configuration(format!("{text}: {error}"));
    let rows = result.into_rows_result().map_err(|error| unreadable(&error))?;
    let rows = rows.rows::<R>().map_err(|error| unreadable(&error))?;
    rows.collect::<Result<_, _>>().map_err(|error| unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut blob = (entries.len() as u32).to_le_bytes().to_vec();
        for text in entries.iter().flat_map(|(key, value)| [key, value]) {
            blob.extend_from_slice(&(text.len() as u32).to_le_bytes());
            blob.extend_from_slice(text.as_bytes());
        }
        blob
    }

    #[test]
    fn cdc_options_are_read_and_damage_is_noticed() {
        let full = blob(&[
            ("delta", "keys"),
            ("enabled", "true"),
            ("postimage", "true"),
            ("preimage", "full"),
            ("ttl", "3600"),
            ("new", "?"),
        ]);
        let expected = CdcOptions {
            enabled: true,
            delta_keys: true,
            postimage: true,
            preimage: true,
            ttl: Some(Duration::from_secs(3600)),
        };
        assert_eq!(parse_cdc_options(&full), Some(expected));
        for end in 0..full.len() {
            assert_eq!(parse_cdc_options(&full[..end]), None, "cut at {end}");
        }
        let forever = parse_cdc_options(&blob(&[("enabled", "1"), ("ttl", "0")])).unwrap();
        assert_eq!((forever.enabled, forever.ttl), (true, None));
        assert_eq!(parse_cdc_options(&blob(&[])).unwrap().ttl, Some(DEFAULT_TTL));
    }
}
