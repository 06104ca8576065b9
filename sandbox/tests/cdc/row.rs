//! Rows of a log table as the driver gives them.

use std::collections::BTreeMap;

use scylla::value::{CqlValue, Row};

/// A log row: column name to value, nulls left out.
pub(crate) type LogRow = BTreeMap<String, CqlValue>;

pub(crate) fn rows(columns: &[String], rows: Vec<Row>) -> Vec<LogRow> {
    let named = |row: Row| {
        columns
            .iter()
            .cloned()
            .zip(row.columns)
            .filter_map(|(name, value)| Some((name, value?)))
    };
    rows.into_iter().map(|row| named(row).collect()).collect()
}

/// The stream that a log row lies in.
pub(crate) fn stream(row: &LogRow) -> Vec<u8> {
    row["cdc$stream_id"].as_blob().expect("a blob").clone()
}

/// The microseconds of a log row's cdc$time.
pub(crate) fn micros(row: &LogRow) -> i64 {
    let time: uuid::Uuid = row["cdc$time"].as_timeuuid().expect("a timeuuid").into();
    let (ticks, _) = time.get_timestamp().expect("version 1").to_gregorian();
    // 100 ns intervals since 1582-10-15.
    (ticks - 0x01b2_1dd2_1381_4000) as i64 / 10
}
