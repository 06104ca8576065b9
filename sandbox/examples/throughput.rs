//! How much the sandbox takes and gives, with the client on the same cores:
//! `cargo run --release -p outbox-sandbox --example throughput -- [rows] [rounds]`.
//!
//! Inserts outbox rows of 300 B payload (half of it random) through the Rust driver, then reads their log rows
//! page by page, as the relay does in a drain. One line of JSON per round, then median, least and most of all of them.
//! The goal, on two cores: 60,000 inserts/s and 400,000 log rows/s.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use rand::RngCore;
use sandbox::Sandbox;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::prepared::PreparedStatement;
use serde_json::json;
use uuid::Uuid;

/// Inserts in flight, as from a service with many workers.
const CONCURRENCY: usize = 512;
/// Log streams read at a time.
const READERS: usize = 8;
const PAGE: i32 = 5_000;
const PAYLOAD_BYTES: usize = 300;
/// Partitions that the rows spread over.
const AGGREGATES: usize = 10_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let rows = arguments.next().transpose()?.unwrap_or(200_000);
    let rounds = arguments.next().transpose()?.unwrap_or(5);
    anyhow::ensure!(rows > 0 && rounds > 0, "rows and rounds: from 1 on");
    let (mut inserts, mut reads) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let sandbox = Sandbox::builder().start().await?;
        let session = SessionBuilder::new()
            .known_node_addr(sandbox.addr())
            .build()
            .await?;
        let session = Arc::new(session);
        let insert = prepare(&session).await?;
        let inserts_per_second = write(&session, &insert, rows).await?;
        let (found, rows_per_second) = read(&session).await?;
        anyhow::ensure!(found == rows, "{found} log rows of {rows} writes");
        let line = json!({
            "round": round,
            "rows": rows,
            "inserts_per_second": inserts_per_second.round(),
            "log_rows_per_second": rows_per_second.round(),
        });
        println!("{line}");
        inserts.push(inserts_per_second);
        reads.push(rows_per_second);
        sandbox.stop().await;
    }
    let summary = json!({
        "rounds": rounds,
        "rows": rows,
        "payload_bytes": PAYLOAD_BYTES,
        "inserts_per_second": spread(&mut inserts),
        "log_rows_per_second": spread(&mut reads),
    });
    println!("{summary}");
    Ok(())
}

/// Of at least one measurement.
fn spread(measured: &mut [f64]) -> serde_json::Value {
    measured.sort_by(f64::total_cmp);
    let at = |index: usize| measured[index].round();
    json!({ "median": at(measured.len() / 2), "least": at(0), "most": at(measured.len() - 1) })
}

async fn prepare(session: &Session) -> anyhow::Result<PreparedStatement> {
    for statement in [
        "CREATE KEYSPACE bench WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "CREATE TABLE bench.outbox (aggregate_id uuid, event_id timeuuid, event_type text, payload text, \
         PRIMARY KEY (aggregate_id, event_id)) WITH cdc = {'enabled': true}",
    ] {
        session.query_unpaged(statement, ()).await?;
    }
    let text =
        "INSERT INTO bench.outbox (aggregate_id, event_id, event_type, payload) VALUES (?, now(), ?, ?)";
    session.prepare(text).await.context("the insert")
}

async fn write(session: &Arc<Session>, insert: &PreparedStatement, rows: usize) -> anyhow::Result<f64> {
    let aggregates: Arc<[Uuid]> = (0..AGGREGATES).map(|_| Uuid::new_v4()).collect();
    let payloads: Arc<[String]> = (0..1_000).map(|_| payload()).collect();
    let started = Instant::now();
    stream::iter(0..rows)
        .map(Ok::<_, anyhow::Error>)
        .try_for_each_concurrent(CONCURRENCY, |i| {
            let values = (
                aggregates[i % AGGREGATES],
                "OrderCreated",
                payloads[i % 1_000].clone(),
            );
            let (session, insert) = (session.clone(), insert.clone());
            async move {
                session.execute_unpaged(&insert, values).await?;
                Ok(())
            }
        })
        .await?;
    Ok(rows as f64 / started.elapsed().as_secs_f64())
}

/// Reads every stream of the log, each row decoded as far as its values' bounds.
async fn read(session: &Arc<Session>) -> anyhow::Result<(usize, f64)> {
    let text = "SELECT streams FROM system_distributed.cdc_streams_descriptions_v2";
    let streams = session.query_unpaged(text, ()).await?.into_rows_result()?;
    let streams: Vec<(Vec<Vec<u8>>,)> = streams.rows()?.collect::<Result<_, _>>()?;
    let streams: Vec<Vec<u8>> = streams.into_iter().flat_map(|(streams,)| streams).collect();
    let text = "SELECT * FROM bench.outbox_scylla_cdc_log WHERE \"cdc$stream_id\" = ?";
    let mut select = session.prepare(text).await?;
    select.set_page_size(PAGE);
    let started = Instant::now();
    let counts: Vec<usize> = stream::iter(streams)
        .map(|id| {
            let (session, select) = (session.clone(), select.clone());
            async move {
                let mut pages = scylla::response::PagingState::start();
                let mut count = 0;
                loop {
                    let (page, next) = session.execute_single_page(&select, (&id,), pages).await?;
                    count += page.into_rows_result()?.rows_num();
                    match next.into_paging_control_flow() {
                        std::ops::ControlFlow::Break(()) => return anyhow::Ok(count),
                        std::ops::ControlFlow::Continue(state) => pages = state,
                    }
                }
            }
        })
        .buffer_unordered(READERS)
        .try_collect()
        .await?;
    let found = counts.iter().sum();
    Ok((found, found as f64 / started.elapsed().as_secs_f64()))
}

/// Half random, so that nothing compresses or caches better than real events do.
fn payload() -> String {
    let mut random = [0; PAYLOAD_BYTES / 4];
    rand::rng().fill_bytes(&mut random);
    format!("{:<width$}", hex::encode(random), width = PAYLOAD_BYTES)
}
