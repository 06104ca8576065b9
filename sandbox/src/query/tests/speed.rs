//! How fast the engine alone is: `cargo test -p outbox-sandbox --lib query::tests::speed -- --ignored --nocapture`.

use std::time::Instant;

use bytes::Bytes;
use uuid::Uuid;

use crate::cdc::generations::RingToken;
use crate::cdc::service::CdcService;
use crate::query::api::{BindValue, QueryParams, QueryResult, Values};
use crate::query::engine::EngineOptions;
use crate::storage::clock::SystemClock;

const ROWS: usize = 200_000;
const PAYLOAD: usize = 300;

#[test]
#[ignore = "a measurement"]
fn outbox_inserts_and_log_reads() {
    let clock = std::sync::Arc::new(SystemClock);
    let ring = vec![RingToken { token: 0, shards: 1 }];
    let mut fixture = super::Fixture::timed(EngineOptions {
        clock: clock.clone(),
        cdc: std::sync::Arc::new(CdcService::new(clock, ring)),
        ..EngineOptions::default()
    });
    fixture.ok(
        "CREATE TABLE outbox (aggregate_id uuid, id uuid, event_type text, payload text, created_at timestamp, \
         PRIMARY KEY (aggregate_id, id)) WITH cdc = {'enabled': true}",
    );
    let text =
        "INSERT INTO outbox (aggregate_id, id, event_type, payload, created_at) VALUES (?, ?, ?, ?, ?)";
    let insert = fixture.engine.prepare(&fixture.session, text).unwrap();
    let payload = Bytes::from(vec![b'x'; PAYLOAD]);
    let started = Instant::now();
    for row in 0..ROWS {
        let values = Values::Positional(vec![
            BindValue::Value(Bytes::copy_from_slice(Uuid::new_v4().as_bytes())),
            BindValue::Value(Bytes::copy_from_slice(Uuid::new_v4().as_bytes())),
            BindValue::Value(Bytes::from_static(b"OrderCreated")),
            BindValue::Value(payload.clone()),
            BindValue::Value(Bytes::copy_from_slice(&(row as i64).to_be_bytes())),
        ]);
        let params = QueryParams::default();
        fixture
            .engine
            .execute(&mut fixture.session, &insert.id, &values, &params)
            .unwrap();
    }
    let inserted = ROWS as f64 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    let (mut read, mut state) = (0, None);
    loop {
        let params = QueryParams {
            page_size: Some(5000),
            paging_state: state,
            ..QueryParams::default()
        };
        let log = "SELECT * FROM outbox_scylla_cdc_log";
        let Ok(QueryResult::Rows(rows)) = fixture.query(log, &params) else {
            panic!("no rows")
        };
        read += rows.row_count;
        state = rows.paging_state;
        if state.is_none() {
            break;
        }
    }
    let per_second = f64::from(read) / started.elapsed().as_secs_f64();
    assert_eq!(read as usize, ROWS);
    println!("{inserted:.0} inserts/s with CDC, {per_second:.0} log rows/s read, one thread");
}
