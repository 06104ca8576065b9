//! More is written than usual, and what the relay needs is slow or overloaded: it goes on within its bounds, and when that
//! is over it needs nobody.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sandbox::fault::rule::{ErrorName, Rule};
use tokio::time::sleep;

use crate::process::{Relay, get, wait};
use crate::stack::{Flow, Guarantee, RATE, Stack};

const LOG: &str = "_scylla_cdc_log";

/// Queries at a time that the relay is allowed.
const QUERIES: u64 = 4;

/// Events in flight that it is allowed: half a second of a burst.
const IN_FLIGHT: u64 = 1000;

/// What a relay without load has (some 25 MiB), and for each event in flight 2 KiB of row and message, a page of the log
/// per query, librdkafka's buffers; a backlog that were kept in memory would add 10,000 events.
const PEAK_KIB: u64 = 64 * 1024;

/// What a query takes while ScyllaDB is slow.
const SLOW: Duration = Duration::from_millis(200);

/// The largest values of these metrics that were seen.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<BTreeMap<&'static str, u64>>,
}

const WATCHED: [&str; 2] = [
    "outbox_relay_in_flight_messages",
    "outbox_relay_cql_queries_in_flight",
];

impl Watch {
    fn start(relay: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeMap::new();
            while !ends.load(Ordering::Relaxed) {
                let said = get(relay, "/metrics").unwrap_or_default();
                for name in WATCHED {
                    let most = seen.entry(name).or_default();
                    *most = value(&said, name).max(*most);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            seen
        });
        Self { stop, thread }
    }

    fn end(self) -> BTreeMap<&'static str, u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn value(metrics: &str, name: &str) -> u64 {
    let of = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    metrics.lines().find_map(of).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bursts_and_slow_parts_cost_time_and_nothing_else() {
    let stack = Stack::start().await;
    let mut flow = stack.flow("overload").await;
    let text = flow.text(Guarantee::AtLeastOnce).replace(
        "table:",
        &format!("load: {{maxConcurrentQueries: {QUERIES}}}, table:"),
    );
    let mut config = tempfile::NamedTempFile::new().unwrap();
    writeln!(config, "{text}memory: {{inFlightMessages: {IN_FLIGHT}}}").unwrap();
    flow.configure(config);
    let relay = Relay::start(flow.config(), "1/1");
    tokio::task::block_in_place(|| relay.readyz(200, "ready"));
    let watch = Watch::start(relay.address());

    flow.load(2).await.await.unwrap();
    burst(&flow).await.await.unwrap();
    slow_broker(&stack, burst(&flow).await).await;
    slow_scylladb(&stack, flow.load(4).await).await;
    overloaded_scylladb(&stack, &relay, flow.load(4).await).await;
    // Nothing of it is left, and what comes now is as usual.
    flow.load(2).await.await.unwrap();
    flow.verify(0).await;

    tokio::task::block_in_place(|| relay.readyz(200, "ready"));
    let (seen, peak) = (watch.end(), relay.peak_memory());
    eprintln!("at most {seen:?}, {peak} KiB");
    let [in_flight, queries] = WATCHED.map(|name| seen[name]);
    assert!(
        in_flight > IN_FLIGHT / 2,
        "there was too little to hold: {in_flight}"
    );
    assert!(in_flight <= IN_FLIGHT, "{in_flight} events in flight");
    assert!((1..=QUERIES).contains(&queries), "{queries} queries at a time");
    assert!(peak <= PEAK_KIB, "{peak} KiB");
    assert!(!relay.said().contains("part failed"), "{}", relay.said());
    relay.stop();
}

/// Ten times as much as usual.
async fn burst(flow: &Flow<'_>) -> tokio::task::JoinHandle<()> {
    flow.load_at(10 * RATE, 5, None).await
}

/// It works a tenth of the time.
async fn slow_broker(stack: &Stack, load: tokio::task::JoinHandle<()>) {
    while !load.is_finished() {
        stack.broker.pause().unwrap();
        sleep(Duration::from_millis(900)).await;
        stack.broker.resume().unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    load.await.unwrap();
}

async fn slow_scylladb(stack: &Stack, load: tokio::task::JoinHandle<()>) {
    let rule = Rule::slow(SLOW).statement(LOG);
    let began = tokio::time::Instant::now();
    let rule = stack.sandbox().faults().add(rule).unwrap();
    load.await.unwrap();
    let asked = hits(stack, rule);
    let most = began.elapsed().as_millis() as u64 / SLOW.as_millis() as u64 * QUERIES + 2 * QUERIES;
    assert!(
        asked <= most,
        "{asked} queries in {:?}, not {most}",
        began.elapsed()
    );
    stack.sandbox().faults().remove(rule);
}

/// It refuses what is asked of it, so it is asked less.
async fn overloaded_scylladb(stack: &Stack, relay: &Relay, load: tokio::task::JoinHandle<()>) {
    let rule = Rule::error(ErrorName::Overloaded).statement(LOG);
    let rule = stack.sandbox().faults().add(rule).unwrap();
    tokio::task::block_in_place(|| {
        wait("fewer queries at a time", || {
            value(&relay.metrics(), "outbox_relay_cql_queries_allowed") < QUERIES
        })
    });
    load.await.unwrap();
    let asked = hits(stack, rule);
    eprintln!("{asked} queries of an overloaded ScyllaDB");
    stack.sandbox().faults().remove(rule);
}

fn hits(stack: &Stack, id: u64) -> u64 {
    stack.sandbox().faults().get(id).unwrap().hits
}
