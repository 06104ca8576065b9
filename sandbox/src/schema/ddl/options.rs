//! `WITH` properties of tables.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::DdlContext;
use crate::cql::ast::definition::{Properties, PropertyValue};
use crate::error::CqlError;
use crate::schema::TableSchema;

/// What a WITH says, checked but not applied.
#[derive(Default)]
pub(super) struct TableOptions {
    pub id: Option<Uuid>,
    default_time_to_live: Option<i32>,
    gc_grace_seconds: Option<i32>,
    comment: Option<String>,
    cdc: Option<BTreeMap<String, String>>,
    others: Vec<(String, String)>,
}

/// ScyllaDB's limit of a TTL: 20 years, in seconds.
pub(crate) const MAX_TTL: i32 = 20 * 365 * 24 * 3600;

/// Options that are numbers, with the least value they take.
const NUMBERS: [(&str, f64); 10] = [
    ("bloom_filter_fp_chance", 0.0),
    ("crc_check_chance", 0.0),
    ("dclocal_read_repair_chance", 0.0),
    ("read_repair_chance", 0.0),
    ("max_index_interval", 1.0),
    ("min_index_interval", 1.0),
    ("memtable_flush_period_in_ms", 0.0),
    ("paxos_grace_seconds", 0.0),
    ("default_time_to_live", 0.0),
    ("gc_grace_seconds", 0.0),
];
const MAPS: [&str; 6] = [
    "caching",
    "compaction",
    "compression",
    "tombstone_gc",
    "per_partition_rate_limit",
    "tablets",
];
const TEXTS: [&str; 9] = [
    "speculative_retry",
    "synchronous_updates",
    "read_repair",
    "additional_write_policy",
    "allow_auto_snapshot",
    "incremental_backups",
    "memtable",
    "extensions",
    "in_memory",
];

impl TableOptions {
    pub(super) fn read(properties: &Properties) -> Result<Self, CqlError> {
        let mut read = Self::default();
        for (name, value) in properties {
            match (name.as_str(), value) {
                ("cdc", PropertyValue::Map(options)) => read.cdc = Some(options.iter().cloned().collect()),
                ("id", PropertyValue::Scalar(text)) => {
                    let id = text
                        .parse()
                        .map_err(|_| CqlError::config(format!("Invalid table id: '{text}' is not a uuid")))?;
                    read.id = Some(id);
                }
                ("comment", PropertyValue::Scalar(text)) => read.comment = Some(text.clone()),
                ("default_time_to_live", PropertyValue::Scalar(text)) => {
                    read.default_time_to_live = Some(time_to_live(text)?);
                }
                ("gc_grace_seconds", PropertyValue::Scalar(text)) => {
                    read.gc_grace_seconds = Some(integer(name, text)?);
                }
                (_, PropertyValue::Scalar(text)) if NUMBERS.iter().any(|(known, _)| known == name) => {
                    check_number(name, text)?;
                    read.others.push((name.clone(), text.clone()));
                }
                (_, PropertyValue::Map(options)) if MAPS.contains(&name.as_str()) => {
                    check_map(name, options)?;
                    read.others.push((name.clone(), map_text(options)));
                }
                (_, PropertyValue::Scalar(text)) if TEXTS.contains(&name.as_str()) => {
                    read.others.push((name.clone(), text.clone()));
                }
                (_, PropertyValue::Map(options)) if TEXTS.contains(&name.as_str()) => {
                    read.others.push((name.clone(), map_text(options)));
                }
                _ if is_known(name) => {
                    return Err(CqlError::syntax(format!("Invalid value for property '{name}'")));
                }
                _ => return Err(CqlError::syntax(format!("Unknown property '{name}'"))),
            }
        }
        Ok(read)
    }

    /// `altering`: in ALTER TABLE.
    pub(super) fn apply(
        self,
        context: &DdlContext<'_>,
        table: &mut TableSchema,
        altering: bool,
    ) -> Result<(), CqlError> {
        if let Some(ttl) = self.default_time_to_live {
            if ttl > 0 && table.is_counter() {
                return Err(CqlError::invalid(
                    "Cannot set default_time_to_live on a table with counters",
                ));
            }
            table.default_time_to_live = ttl;
        }
        if let Some(given) = &self.cdc {
            table.cdc = Some(context.cdc.parse_options(given, altering)?);
        }
        table.gc_grace_seconds = self.gc_grace_seconds.unwrap_or(table.gc_grace_seconds);
        table.comment = self.comment.unwrap_or_else(|| std::mem::take(&mut table.comment));
        table.options.extend(self.others);
        Ok(())
    }
}

/// A map as CQL writes it.
pub(super) fn map_text(options: &[(String, String)]) -> String {
    let quote = |text: &str| text.replace('\'', "''");
    let sorted: BTreeMap<_, _> = options.iter().map(|(name, value)| (name, value)).collect();
    let entries: Vec<_> = sorted
        .iter()
        .map(|(name, value)| format!("'{}': '{}'", quote(name), quote(value)))
        .collect();
    format!("{{{}}}", entries.join(", "))
}

fn is_known(name: &str) -> bool {
    matches!(name, "cdc" | "id" | "comment")
        || NUMBERS.iter().any(|(known, _)| *known == name)
        || MAPS.contains(&name)
        || TEXTS.contains(&name)
}

fn integer(name: &str, text: &str) -> Result<i32, CqlError> {
    match text.parse::<i32>() {
        Ok(value) if value >= 0 => Ok(value),
        Ok(_) => Err(CqlError::config(format!(
            "{name} must be greater than or equal to 0 (got {text})"
        ))),
        Err(_) => Err(CqlError::syntax(format!(
            "Invalid integer value {text} for '{name}'"
        ))),
    }
}

fn time_to_live(text: &str) -> Result<i32, CqlError> {
    let ttl = integer("default_time_to_live", text)?;
    if ttl > MAX_TTL {
        return Err(CqlError::config(format!(
            "default_time_to_live must be less than or equal to {MAX_TTL} (got {ttl})"
        )));
    }
    Ok(ttl)
}

fn check_number(name: &str, text: &str) -> Result<(), CqlError> {
    let value: f64 = text
        .parse()
        .map_err(|_| CqlError::syntax(format!("Invalid double value {text} for '{name}'")))?;
    let least = NUMBERS
        .iter()
        .find(|(known, _)| *known == name)
        .map_or(0.0, |(_, least)| *least);
    let chance = name.ends_with("chance");
    if value < least || (chance && value > 1.0) || (name == "bloom_filter_fp_chance" && value <= 0.0) {
        return Err(CqlError::config(format!(
            "{name} must be at least {least} (got {text})"
        )));
    }
    Ok(())
}

fn check_map(name: &str, options: &[(String, String)]) -> Result<(), CqlError> {
    if name != "compaction" {
        return Ok(());
    }
    let class = options
        .iter()
        .find(|(key, _)| key == "class")
        .map(|(_, class)| class);
    let class =
        class.ok_or_else(|| CqlError::config("Missing sub-option 'class' for the 'compaction' option."))?;
    let short = class.rsplit('.').next().unwrap_or(class);
    let known = [
        "SizeTieredCompactionStrategy",
        "LeveledCompactionStrategy",
        "TimeWindowCompactionStrategy",
        "IncrementalCompactionStrategy",
        "UnifiedCompactionStrategy",
        "NullCompactionStrategy",
    ];
    if !known.contains(&short) {
        return Err(CqlError::config(format!(
            "Unable to find compaction strategy class '{class}'"
        )));
    }
    Ok(())
}
