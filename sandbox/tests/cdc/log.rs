//! The content of a log table, checked for what holds for every record and rendered for comparison.

use std::collections::BTreeMap;

use scylla::value::CqlValue;

use crate::render;
use crate::row::{LogRow, micros, stream};

/// Records of a log by time, then text, each row as `seq operation column=value...` with columns sorted.
///
/// # Errors
/// What is wrong with a record.
pub(crate) fn render(rows: Vec<LogRow>, since: Option<i64>) -> Result<Vec<String>, String> {
    let mut records: BTreeMap<(Vec<u8>, uuid::Uuid), Vec<LogRow>> = BTreeMap::new();
    for row in rows {
        let time = row
            .get("cdc$time")
            .and_then(CqlValue::as_timeuuid)
            .ok_or("no cdc$time")?;
        records.entry((stream(&row), time.into())).or_default().push(row);
    }
    let mut rendered = Vec::new();
    for rows in records.into_values() {
        check_record(&rows)?;
        let micros = micros(&rows[0]);
        let at = since
            .map(|since| format!("@{} ", micros - since))
            .unwrap_or_default();
        let lines: Vec<_> = rows.iter().map(|row| format!("{at}{}", line(row))).collect();
        rendered.push((micros, lines));
    }
    rendered.sort();
    Ok(rendered.into_iter().flat_map(|(_, lines)| lines).collect())
}

fn check_record(rows: &[LogRow]) -> Result<(), String> {
    for (index, row) in rows.iter().enumerate() {
        let seq_no = row.get("cdc$batch_seq_no").and_then(CqlValue::as_int);
        if seq_no != Some(index as i32) {
            return Err(format!("row {index} of a record has cdc$batch_seq_no {seq_no:?}"));
        }
        let is_last = index + 1 == rows.len();
        let end = row.get("cdc$end_of_batch").and_then(CqlValue::as_boolean);
        if end != is_last.then_some(true) {
            return Err(format!(
                "row {index} of {} has cdc$end_of_batch {end:?}",
                rows.len()
            ));
        }
    }
    Ok(())
}

fn line(row: &LogRow) -> String {
    let code = match row.get("cdc$operation") {
        Some(CqlValue::TinyInt(code)) => *code,
        other => panic!("cdc$operation is {other:?}"),
    };
    let seq_no = render::value(row.get("cdc$batch_seq_no"));
    let mut columns = Vec::new();
    for (name, value) in row {
        let shown = match name.as_str() {
            "cdc$stream_id" | "cdc$time" | "cdc$batch_seq_no" | "cdc$operation" | "cdc$end_of_batch" => {
                continue;
            }
            other => other.trim_start_matches("cdc$"),
        };
        columns.push(format!("{shown}={}", render::value(Some(value))));
    }
    columns.sort_unstable();
    let mut line = format!("{seq_no} {}", render::operation(code));
    for column in columns {
        line.push(' ');
        line.push_str(&column);
    }
    line
}
