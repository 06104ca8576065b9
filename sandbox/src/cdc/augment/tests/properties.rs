//! Whatever a mutation holds, the log says each change of it exactly once, at its time and with its TTL.

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};

use super::fixture::{Before, T, Write, options, table};
use super::log_lines;
use crate::storage::mutation::{Cell, CellChange, Expiry, Mutation, RowChange};

#[derive(Debug, Clone)]
enum Step {
    Marker(i32, i64, i32),
    Cell(i32, &'static str, Option<i32>, i64, i32),
    Static(Option<i32>, i64),
    Map(i32, Option<i64>, Vec<(i32, Option<i32>, i64, i32)>),
    DeleteRow(i32, i64),
    DeleteRange(i32, i64),
    DeletePartition(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ck = || 0..3i32;
    // Mostly one time and no TTL, as statements have it; sometimes others, as batches may.
    let time = || prop_oneof![4 => Just(T), 1 => T..T + 3];
    let ttl = || prop_oneof![3 => Just(0), 1 => Just(5), 1 => Just(6)];
    let value = || prop::option::weighted(0.7, 1..9i32);
    let column = prop_oneof![Just("v"), Just("w")];
    let elements = prop::collection::btree_map(1..5i32, (value(), time(), ttl()), 0..3);
    let elements = elements.prop_map(|map| {
        map.into_iter()
            .map(|(key, (v, at, ttl))| (key, v, at, ttl))
            .collect()
    });
    let replaced = (any::<bool>(), time()).prop_map(|(yes, at)| yes.then_some(at - 1));
    let step = prop_oneof![
        3 => (ck(), time(), ttl()).prop_map(|(ck, at, ttl)| Step::Marker(ck, at, ttl)),
        4 => (ck(), column, value(), time(), ttl()).prop_map(|(ck, c, v, at, ttl)| Step::Cell(ck, c, v, at, ttl)),
        2 => (value(), time()).prop_map(|(value, at)| Step::Static(value, at)),
        3 => (ck(), replaced, elements).prop_map(|(ck, deleted, elements)| Step::Map(ck, deleted, elements)),
        1 => (ck(), time()).prop_map(|(ck, at)| Step::DeleteRow(ck, at)),
        1 => (ck(), time()).prop_map(|(ck, at)| Step::DeleteRange(ck, at)),
        1 => time().prop_map(Step::DeletePartition),
    ];
    prop::collection::vec(step, 1..8)
}

fn write(steps: &[Step]) -> Write {
    let table = table(options());
    steps.iter().fold(Write::new(&table), |write, step| match step {
        Step::Marker(ck, at, ttl) => write.marker(*ck, *at, *ttl),
        Step::Cell(ck, column, value, at, ttl) => write.cell(*ck, column, *value, *at, *ttl),
        Step::Static(value, at) => write.statics(*value, *at),
        Step::Map(ck, deleted, elements) => write.map(*ck, *deleted, elements),
        Step::DeleteRow(ck, at) => write.delete_row(*ck, *at),
        Step::DeleteRange(ck, at) => write.delete_range(Some((*ck, true)), None, *at),
        Step::DeletePartition(at) => write.delete_partition(*at),
    })
}

/// Each change of a mutation as `@time ttl row what`.
fn changes(base: &Mutation) -> Vec<String> {
    let mut changes = Vec::new();
    add_cells(base, "static", &base.static_row, &mut changes);
    for (key, row) in &base.rows {
        let ck = i32::from_be_bytes(key.value(0).unwrap().try_into().unwrap()).to_string();
        if let Some(marker) = row.marker {
            changes.push(change(marker.timestamp, marker.expiry, &ck, "insert"));
        }
        add_cells(base, &ck, row, &mut changes);
        if let Some(deleted) = row.tombstone {
            changes.push(change(deleted.timestamp, None, &ck, "op3"));
        }
    }
    for range in &base.range_tombstones {
        changes.push(change(range.tombstone.timestamp, None, "", "range"));
    }
    if let Some(deleted) = base.partition_tombstone {
        changes.push(change(deleted.timestamp, None, "", "op4"));
    }
    changes.sort();
    changes
}

fn add_cells(base: &Mutation, row_name: &str, row: &RowChange, changes: &mut Vec<String>) {
    let number = |bytes: &[u8]| i32::from_be_bytes(bytes.try_into().unwrap());
    for (column, cell) in &row.cells {
        let name = &base.table.columns[*column].name;
        let mut add = |cell: &Cell, live: String, dead: String| {
            changes.push(match &cell.value {
                Some(value) => change(
                    cell.timestamp,
                    cell.expiry,
                    row_name,
                    &format!("{live}={}", number(value)),
                ),
                None => change(cell.timestamp, None, row_name, &dead),
            });
        };
        match cell {
            CellChange::Atomic(cell) => add(cell, name.clone(), format!("deleted_{name}")),
            CellChange::Multi { tombstone, elements } => {
                for (path, cell) in elements {
                    add(
                        cell,
                        format!("m[{}]", number(path)),
                        format!("deleted m[{}]", number(path)),
                    );
                }
                if let Some(deleted) = tombstone {
                    changes.push(change(deleted.timestamp + 1, None, row_name, "deleted_m"));
                }
            }
            CellChange::CounterDelta { .. } => unreachable!("no step makes counters"),
        }
    }
}

fn change(at: i64, expiry: Option<Expiry>, row: &str, what: &str) -> String {
    let ttl = expiry.map_or(0, |expiry| expiry.ttl);
    format!("@{} ttl {ttl} row {row}: {what}", at - T)
}

/// The same, read back from log rows. A deletion has no TTL, whatever its log row says.
fn logged(lines: &[String]) -> Vec<String> {
    let mut changes = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let get = |name: &str| {
            words
                .iter()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        let (at, operation) = (words[0], words[2]);
        let ttl = get("ttl").unwrap_or("0");
        let row = get("ck").unwrap_or(if get("s").or(get("deleted_s")).is_some() {
            "static"
        } else {
            ""
        });
        let mut add =
            |ttl: &str, row: &str, what: String| changes.push(format!("{at} ttl {ttl} row {row}: {what}"));
        match operation {
            "op2" => add(ttl, row, "insert".into()),
            "op3" | "op4" => add("0", row, operation.into()),
            "op5" => add("0", "", "range".into()),
            _ => {}
        }
        for name in ["s", "v", "w"] {
            if let Some(value) = get(name) {
                add(ttl, row, format!("{name}={value}"));
            }
        }
        for name in ["deleted_s", "deleted_v", "deleted_w", "deleted_m"] {
            if get(name).is_some() {
                assert_eq!(ttl, "0", "{line}");
                add("0", row, name.into());
            }
        }
        let numbers = |text: &str| {
            text.trim_matches(['{', '}'])
                .split(',')
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        for pair in get("m").map(numbers).unwrap_or_default().chunks(2) {
            add(ttl, row, format!("m[{}]={}", pair[0], pair[1]));
        }
        for key in get("deleted_elements_m").map(numbers).unwrap_or_default() {
            add("0", row, format!("deleted m[{key}]"));
        }
    }
    changes.sort();
    changes
}

proptest! {
    #[test]
    fn every_change_is_logged_once(steps in steps()) {
        let Write(base) = write(&steps);
        let lines = log_lines(&Before::default(), &base);
        assert_eq!(logged(&lines), changes(&base), "{lines:#?}");
    }

    /// Sequence numbers count from 0 within a time, and the last row of each says so.
    #[test]
    fn records_are_whole(steps in steps()) {
        let Write(base) = write(&steps);
        let lines = log_lines(&Before::default(), &base);
        for (index, line) in lines.iter().enumerate() {
            let next_begins = lines.get(index + 1).is_none_or(|next| next.split(' ').nth(1) == Some("0"));
            assert_eq!(line.contains("end_of_batch=1"), next_begins, "{lines:#?}");
            let seq_no: usize = line.split(' ').nth(1).unwrap().parse().unwrap();
            let same_time = |other: &&String| other.split(' ').next() == line.split(' ').next();
            assert_eq!(seq_no, lines[..index].iter().filter(same_time).count(), "{lines:#?}");
        }
    }
}
