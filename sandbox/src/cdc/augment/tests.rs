mod fixture;
mod properties;

use std::sync::Arc;

use rand::{SeedableRng, rngs::StdRng};

use super::{Surroundings, layout, log_mutations};
use crate::cdc::log_schema::log_table;
use crate::cdc::stream_id::StreamId;
use crate::schema::{Catalog, CdcOptions, DeltaMode, PreimageMode};
use crate::storage::mutation::Mutation;
use fixture::{Before, NOW_SECONDS, T, Write, options, show, table};

fn check(before: &Before, Write(base): Write, expected: &[&str]) {
    assert_eq!(log_lines(before, &base), expected);
}

/// The log rows of a write as text.
fn log_lines(before: &Before, base: &Mutation) -> Vec<String> {
    let log = Arc::new(log_table(&Catalog::default(), &base.table, None, T).unwrap());
    let layout = layout(&base.table, &log).unwrap();
    let stream = StreamId::new(99, 0, &mut StdRng::seed_from_u64(1));
    let around = Surroundings {
        layout: &layout,
        now_seconds: NOW_SECONDS,
        rows: before,
        stream: &|_| Ok(stream),
        random: &|| 0x1234_5678_9abc_def0,
    };
    log_mutations(base, &around)
        .unwrap()
        .iter()
        .flat_map(show)
        .collect()
}

#[test]
fn single_statements() {
    let table = table(options());
    let none = Before::default();
    let write = || Write::new(&table);
    check(
        &none,
        write().marker(1, T, 0).cell(1, "v", Some(5), T, 0),
        &["@0 0 op2 ck=1 end_of_batch=1 v=5"],
    );
    check(
        &none,
        write().cell(1, "v", None, T, 0),
        &["@0 0 op1 ck=1 deleted_v=1 end_of_batch=1"],
    );
    check(&none, write().delete_row(1, T), &["@0 0 op3 ck=1 end_of_batch=1"]);
    check(&none, write().delete_partition(T), &["@0 0 op4 end_of_batch=1"]);
    check(
        &none,
        write().delete_range(Some((1, false)), Some((3, true)), T),
        &["@0 0 op6 ck=1", "@0 1 op7 ck=3 end_of_batch=1"],
    );
    check(
        &none,
        write().delete_range(Some((1, true)), None, T),
        &["@0 0 op5 ck=1", "@0 1 op7 end_of_batch=1"],
    );
    check(
        &none,
        write().delete_range(None, Some((3, false)), T),
        &["@0 0 op5", "@0 1 op8 ck=3 end_of_batch=1"],
    );
    check(&none, write(), &[]);
    check(
        &none,
        write().statics(Some(4), T).marker(1, T, 0),
        &["@0 0 op1 s=4", "@0 1 op2 ck=1 end_of_batch=1"],
    );
    check(
        &none,
        write().cell(1, "v", Some(5), T, 30).cell(1, "w", None, T, 0),
        &[
            "@0 0 op1 ck=1 deleted_w=1",
            "@0 1 op1 ck=1 end_of_batch=1 ttl=30 v=5",
        ],
    );
}

#[test]
fn collections() {
    let table = table(options());
    let none = Before::default();
    let write = || Write::new(&table);
    let replaced = |ttl| write().map(1, Some(T - 1), &[(2, Some(3), T, ttl)]);
    check(
        &none,
        replaced(0),
        &["@0 0 op1 ck=1 deleted_m=1 end_of_batch=1 m={2,3}"],
    );
    check(
        &none,
        replaced(0).marker(1, T, 0),
        &["@0 0 op2 ck=1 deleted_m=1 end_of_batch=1 m={2,3}"],
    );
    check(
        &none,
        replaced(9).marker(1, T, 9),
        &[
            "@0 0 op2 ck=1 ttl=9",
            "@0 1 op1 ck=1 deleted_m=1",
            "@0 2 op1 ck=1 end_of_batch=1 m={2,3} ttl=9",
        ],
    );
    check(
        &none,
        write().map(1, Some(T), &[]),
        &["@1 0 op1 ck=1 deleted_m=1 end_of_batch=1"],
    );
    check(
        &none,
        write().map(1, None, &[(5, None, T, 0), (-4, Some(1), T, 0)]),
        &["@0 0 op1 ck=1 deleted_elements_m={5} end_of_batch=1 m={-4,1}"],
    );
}

#[test]
fn mixed_changes_are_sorted_by_time_then_kind() {
    let table = table(options());
    let none = Before::default();
    let write = || Write::new(&table);
    check(
        &none,
        write()
            .delete_partition(T)
            .delete_range(Some((0, true)), Some((3, false)), T)
            .delete_row(0, T)
            .cell(1, "v", Some(1), T, 0)
            .marker(2, T, 0)
            .statics(Some(9), T),
        &[
            "@0 0 op1 s=9",
            "@0 1 op2 ck=2",
            "@0 2 op1 ck=1 v=1",
            "@0 3 op3 ck=0",
            "@0 4 op5 ck=0",
            "@0 5 op8 ck=3",
            "@0 6 op4 end_of_batch=1",
        ],
    );
    check(
        &none,
        write()
            .cell(1, "v", Some(1), T + 2, 0)
            .cell(1, "w", Some(2), T + 1, 0)
            .statics(Some(3), T),
        &[
            "@0 0 op1 end_of_batch=1 s=3",
            "@1 0 op1 ck=1 end_of_batch=1 w=2",
            "@2 0 op1 ck=1 end_of_batch=1 v=1",
        ],
    );
    // Uniform in ScyllaDB's eyes: clustering order. The other way round it is not.
    check(
        &none,
        write().delete_row(1, T).marker(2, T, 0),
        &["@0 0 op3 ck=1", "@0 1 op2 ck=2 end_of_batch=1"],
    );
    check(
        &none,
        write().delete_row(1, T).marker(2, T, 0).delete_row(3, T),
        &["@0 0 op2 ck=2", "@0 1 op3 ck=1", "@0 2 op3 ck=3 end_of_batch=1"],
    );
    check(
        &none,
        write().cell(1, "v", Some(1), T, 0).marker(2, T, 0),
        &["@0 0 op1 ck=1 v=1", "@0 1 op2 ck=2 end_of_batch=1"],
    );
}

#[test]
fn preimages_show_existing_rows_only() {
    let touched = table(CdcOptions {
        preimage: PreimageMode::Touched,
        ..options()
    });
    let full = table(CdcOptions {
        preimage: PreimageMode::Full,
        ..options()
    });
    let before = || Before::default().row(Some(1), &[("v", 5)]).row(None, &[("s", 8)]);
    check(
        &before(),
        Write::new(&touched).cell(1, "v", Some(6), T, 0),
        &["@0 0 op0 ck=1 v=5", "@0 1 op1 ck=1 end_of_batch=1 v=6"],
    );
    check(
        &before(),
        Write::new(&touched).cell(1, "w", Some(6), T, 0),
        &["@0 0 op0 ck=1 deleted_w=1", "@0 1 op1 ck=1 end_of_batch=1 w=6"],
    );
    check(
        &before(),
        Write::new(&full).cell(1, "w", Some(6), T, 0),
        &[
            "@0 0 op0 ck=1 deleted_m=1 deleted_w=1 v=5",
            "@0 1 op1 ck=1 end_of_batch=1 w=6",
        ],
    );
    check(
        &before(),
        Write::new(&touched).delete_row(1, T),
        &[
            "@0 0 op0 ck=1 deleted_m=1 deleted_w=1 v=5",
            "@0 1 op3 ck=1 end_of_batch=1",
        ],
    );
    check(
        &before(),
        Write::new(&touched)
            .cell(2, "v", Some(6), T, 0)
            .statics(Some(9), T),
        &["@0 0 op0 s=8", "@0 1 op1 s=9", "@0 2 op1 ck=2 end_of_batch=1 v=6"],
    );
    check(
        &before(),
        Write::new(&touched)
            .cell(1, "v", Some(6), T, 0)
            .cell(1, "w", Some(7), T + 1, 0),
        &[
            "@0 0 op0 ck=1 v=5",
            "@0 1 op1 ck=1 end_of_batch=1 v=6",
            "@1 0 op0 ck=1 deleted_w=1",
            "@1 1 op1 ck=1 end_of_batch=1 w=7",
        ],
    );
}

#[test]
fn postimages_follow_every_change() {
    let post = table(CdcOptions {
        postimage: true,
        ..options()
    });
    let before = || {
        Before::default()
            .row(Some(1), &[("v", 5)])
            .map(1, &[(1, 10), (2, 20)])
    };
    let write = || Write::new(&post);
    check(
        &before(),
        write().map(1, None, &[(1, None, T, 0), (3, Some(30), T, 0)]),
        &[
            "@0 0 op1 ck=1 deleted_elements_m={1} m={3,30}",
            "@0 1 op9 ck=1 end_of_batch=1 m={2,20,3,30} v=5",
        ],
    );
    check(
        &before(),
        write().map(1, Some(T - 1), &[(3, Some(30), T, 9)]),
        &[
            "@0 0 op1 ck=1 deleted_m=1",
            "@0 1 op1 ck=1 m={3,30} ttl=9",
            "@0 2 op9 ck=1 end_of_batch=1 m={3,30} v=5",
        ],
    );
    check(
        &before(),
        write()
            .cell(1, "w", Some(1), T, 0)
            .delete_row(1, T + 1)
            .marker(1, T + 2, 0),
        &[
            "@0 0 op1 ck=1 w=1",
            "@0 1 op9 ck=1 end_of_batch=1 m={1,10,2,20} v=5 w=1",
            "@1 0 op3 ck=1 end_of_batch=1",
            "@2 0 op2 ck=1",
            "@2 1 op9 ck=1 end_of_batch=1",
        ],
    );
    check(
        &before(),
        write()
            .cell(1, "v", Some(6), T, 0)
            .delete_range(Some((1, true)), Some((1, true)), T),
        &[
            "@0 0 op1 ck=1 v=6",
            "@0 1 op5 ck=1",
            "@0 2 op7 ck=1 end_of_batch=1",
        ],
    );
}

#[test]
fn delta_keys_leaves_values_out() {
    let keys = table(CdcOptions {
        delta: DeltaMode::Keys,
        ..options()
    });
    check(
        &Before::default(),
        Write::new(&keys).marker(1, T, 9).cell(1, "v", Some(5), T, 9),
        &["@0 0 op2 ck=1 end_of_batch=1 ttl=9"],
    );
}
