use super::*;
use crate::model::{CdcTime, StreamId};

/// `(micros, seq, operation, end, key, value)` of a row of one stream with one mapped column.
type Row = (Micros, i32, Operation, bool, u8, Option<i32>);

fn row((micros, seq, operation, end_of_batch, key, value): Row) -> LogRow {
    LogRow {
        position: SourcePosition {
            stream: StreamId([7; 16]),
            time: CdcTime::min_of(micros),
            batch_seq_no: seq,
        },
        operation,
        end_of_batch,
        token: i64::from(key),
        key: Arc::from([key]),
        values: vec![value.map(CqlValue::Int)],
        deleted: 0,
    }
}

fn rules() -> Rules {
    Rules {
        required: 1,
        ..Rules::default()
    }
}

/// `micros/seq verdict value` per change.
fn told(changes: &[Change]) -> Vec<String> {
    let line = |change: &Change| {
        let verdict = match change.verdict {
            Verdict::Event(operation) => format!("{operation:?}"),
            Verdict::Ignored(operation) => format!("ignored {operation:?}"),
        };
        let value = change.values[0].as_ref().and_then(CqlValue::as_int);
        format!(
            "{}/{} {verdict} {}",
            change.time(),
            change.position.batch_seq_no,
            value.unwrap_or(-1)
        )
    };
    changes.iter().map(line).collect()
}

fn check(rules: &Rules, rows: &[Row], expected: &[&str]) {
    // Wherever a page cuts, the outcome is the same.
    for cut in 0..=rows.len() {
        let mut assembler = Assembler::default();
        let mut changes = Vec::new();
        for page in [&rows[..cut], &rows[cut..]] {
            assembler.add(page.iter().copied().map(row).collect(), 0, rules, &mut changes);
        }
        assert_eq!(told(&changes), expected, "cut at {cut}");
        assert!(changes.iter().all(|change| !change.broken), "cut at {cut}");
    }
}

use Operation::{
    Expiration, Insert, PartitionDelete, PostImage, PreImage, RangeDelete, RowDelete, Unknown, Update,
};

#[test]
fn an_insert_is_one_event_however_the_log_splits_it() {
    check(&rules(), &[(1, 0, Insert, true, 1, Some(5))], &["1/0 Insert 5"]);
    check(
        &rules(),
        &[
            (1, 0, Update, false, 1, None),
            (1, 1, Insert, false, 1, None),
            (1, 2, Update, true, 1, Some(5)),
        ],
        &["1/0 Insert 5"],
    );
}

#[test]
fn rows_of_a_batch_are_events_of_their_own() {
    check(
        &rules(),
        &[
            (1, 0, Insert, false, 1, Some(5)),
            (1, 1, Insert, false, 2, Some(6)),
            (1, 2, Update, true, 1, None),
        ],
        &["1/0 Insert 5", "1/1 Insert 6"],
    );
}

#[test]
fn an_update_that_sets_every_required_column_creates_the_row() {
    check(&rules(), &[(1, 0, Update, true, 1, Some(5))], &["1/0 Insert 5"]);
    check(
        &rules(),
        &[(1, 0, Update, true, 1, None)],
        &["1/0 ignored Update -1"],
    );
    check(
        &Rules::default(),
        &[(1, 0, Update, true, 1, Some(5))],
        &["1/0 ignored Update 5"],
    );
}

#[test]
fn changes_are_forwarded_or_ignored_and_expirations_are_neither() {
    let rows = [
        (1, 0, Update, true, 1, None),
        (2, 0, RowDelete, true, 1, None),
        (3, 0, PartitionDelete, true, 1, None),
        (4, 0, RangeDelete, false, 1, None),
        (4, 1, RangeDelete, true, 2, None),
        (5, 0, Expiration, true, 1, None),
        (6, 0, Unknown(77), true, 1, None),
    ];
    let ignored = [
        "1/0 ignored Update -1",
        "2/0 ignored RowDelete -1",
        "3/0 ignored PartitionDelete -1",
        "4/0 ignored RangeDelete -1",
        "4/1 ignored RangeDelete -1",
        "5/0 ignored Expiration -1",
        "6/0 ignored Unknown(77) -1",
    ];
    check(&rules(), &rows, &ignored);
    let forward = Rules {
        forward_changes: true,
        ..rules()
    };
    let mut forwarded = ignored;
    forwarded[..3].copy_from_slice(&["1/0 Update -1", "2/0 Delete -1", "3/0 Delete -1"]);
    check(&forward, &rows, &forwarded);
    let deleting = Rules {
        own_deletes: true,
        ..forward
    };
    forwarded[1..3].copy_from_slice(&ignored[1..3]);
    check(&deleting, &rows, &forwarded);
}

#[test]
fn images_are_no_events_but_lend_their_columns() {
    let rows = [
        (1, 0, PreImage, false, 1, Some(3)),
        (1, 1, Insert, false, 1, None),
        (1, 2, PostImage, true, 1, Some(4)),
    ];
    check(&rules(), &rows, &["1/1 Insert 4"]);
    check(&rules(), &[(1, 0, PreImage, true, 1, Some(3))], &[]);
    let update = [
        (1, 0, Update, false, 1, None),
        (1, 1, PostImage, true, 1, Some(4)),
    ];
    let keys_only = Rules {
        from_postimage: true,
        ..rules()
    };
    check(&keys_only, &update, &["1/0 Insert 4"]);
}

#[test]
fn a_changed_row_is_told_whole_where_the_log_has_its_image() {
    let forward = Rules {
        forward_changes: true,
        ..rules()
    };
    let rows = [
        (1, 0, Update, false, 1, None),
        (1, 1, PostImage, true, 1, Some(4)),
    ];
    // What the update itself sets decides whether it creates the row.
    check(&forward, &rows, &["1/0 Update 4"]);
    check(&rules(), &rows, &["1/0 ignored Update 4"]);
}

#[test]
fn a_record_without_its_end_waits_until_it_is_settled() {
    let rows = [
        (7, 0, Insert, false, 1, Some(0)),
        (8, 0, Insert, true, 1, Some(1)),
        (9, 0, Insert, false, 1, Some(2)),
        (11, 0, Insert, true, 1, Some(3)),
        (12, 0, Insert, false, 1, Some(4)),
        (12, 1, Insert, false, 2, Some(5)),
    ];
    let check = |settled, expected: &[&str], broken: &[bool]| {
        let (mut assembler, mut changes) = (Assembler::default(), Vec::new());
        assembler.add(rows.map(row).into(), settled, &rules(), &mut changes);
        assembler.break_off(settled, &rules(), &mut changes);
        assert_eq!(told(&changes), expected, "settled below {settled}");
        let marks: Vec<_> = changes.iter().map(|change| change.broken).collect();
        assert_eq!(marks, broken, "settled below {settled}");
    };
    check(0, &["8/0 Insert 1", "11/0 Insert 3"], &[false, false]);
    check(
        9,
        &["7/0 Insert 0", "8/0 Insert 1", "11/0 Insert 3"],
        &[true, false, false],
    );
    let all = [
        "7/0 Insert 0",
        "8/0 Insert 1",
        "9/0 Insert 2",
        "11/0 Insert 3",
        "12/0 Insert 4",
        "12/1 Insert 5",
    ];
    check(13, &all, &[true, false, true, false, true, true]);
}
