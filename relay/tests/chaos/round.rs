//! One round: everything is started, taken away, given back, and judged.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use orders::dead_letters::DeadLetters;
use orders::kafka::Cluster;
use orders::load::target::Target;
use orders::load::{self, Plan};
use orders::store::statements;
use orders::verify::follow::Follow;
use orders::verify::{Bounds, Report};
use sandbox::Sandbox;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::brokers::Brokers;
use crate::plan::Round;
use crate::proxy::Proxy;
use crate::relays::Relays;
use crate::repeats::{self, Repeats};
use crate::troubles::{KEYSPACE, Trouble, World, perform};

const TOPIC: &str = "chaos";

/// Writes per second.
const RATE: u32 = 200;

/// What is left when the trouble is over has to arrive within this time: breakers, leases and starts take seconds of it.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Outcome {
    pub(crate) kills: usize,
    report: Report,
    repeats: Repeats,
    folder: tempfile::TempDir,
}

/// Until so many kills, or until this time has passed.
pub(crate) async fn run(round: &Round, kills: usize, limit: Duration) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.jsonl");
    let node = Sandbox::builder().start().await.unwrap();
    let session = connect(&node).await;
    create(&session, round.tablets).await;
    let brokers = Brokers::start(folder.path().join("kafka"), round.brokers).await;
    brokers.create_topic(TOPIC, 4).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(
        folder.path(),
        &listener.local_addr().unwrap().to_string(),
        &brokers.proxied,
        round,
    );
    let scylla = Proxy::start(listener, node.addr());
    let cluster = Cluster {
        bootstrap: brokers.bootstrap.clone(),
        properties: Vec::new(),
    };
    let relays = Relays::start(&config, folder.path(), round.auto).await;
    let world = Arc::new(World {
        node,
        scylla,
        brokers,
        relays,
        tablets: round.tablets,
        late_rows: round.late_rows,
        troubles: Default::default(),
        kills: Default::default(),
        turns: Default::default(),
    });
    let stop = CancellationToken::new();
    let loading = load(session, &journal, stop.clone()).await;
    // Their first starts are not what is tested.
    sleep(Duration::from_secs(2)).await;
    make_trouble(round, &world, kills, limit).await;
    stop.cancel();
    loading.await.unwrap();
    let report = verify(&cluster, &journal, round).await;
    world.relays.stop().await;
    let troubles = world.troubles.lock().clone();
    let repeats = explain(&cluster, &troubles, round).await;
    summarise(round, &troubles, &report, &repeats);
    if std::env::var_os("CHAOS_TRACE").is_some() {
        tell(&troubles, &repeats);
    }
    let done = world.kills.load(Ordering::Relaxed);
    // A round without a kill counts as done when it is over.
    let counted = if round.late_rows { kills } else { done };
    Outcome {
        kills: counted,
        report,
        repeats,
        folder,
    }
}

/// In exactly-once there is nothing to explain: the verifier allows no repeat.
async fn explain(cluster: &Cluster, troubles: &[Trouble], round: &Round) -> Repeats {
    if round.exactly {
        return Repeats::default();
    }
    let (cluster, troubles) = (cluster.clone(), troubles.to_vec());
    tokio::task::spawn_blocking(move || repeats::explain(&cluster, TOPIC, &troubles))
        .await
        .unwrap()
}

fn summarise(round: &Round, troubles: &[Trouble], report: &Report, repeats: &Repeats) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for trouble in troubles {
        *counts.entry(trouble.action.name()).or_default() += 1;
    }
    eprintln!(
        "round {}, {}, {} broker(s), {}, {}{}: {counts:?}",
        round.number,
        round.guarantee(),
        round.brokers,
        if round.tablets { "tablets" } else { "vnodes" },
        if round.auto { "auto" } else { "pinned" },
        if round.late_rows { ", late rows" } else { "" },
    );
    eprintln!(
        "  {} committed, {} lost, {} reordered, {} late, {} repeated ({} without cause)",
        report.committed,
        report.lost.count,
        report.reordered.count,
        report.late,
        report.duplicated.count,
        repeats.unexplained.len()
    );
    for (count, trouble) in repeats.by_trouble.iter().take(3) {
        eprintln!("  {count} repeated after {trouble:?}");
    }
}

async fn make_trouble(round: &Round, world: &Arc<World>, kills: usize, limit: Duration) {
    let (mut actions, mut underway) = (round.actions(), JoinSet::new());
    let (started, mut done) = (Instant::now(), 0);
    let over = |done: usize| {
        let killed = if round.late_rows {
            done / 2
        } else {
            world.kills.load(Ordering::Relaxed)
        };
        killed >= kills || started.elapsed() >= limit
    };
    while !over(done) {
        let (pause, action) = actions.next();
        sleep(pause).await;
        underway.spawn(perform(world.clone(), action));
        done += 1;
        while let Some(ended) = underway.try_join_next() {
            ended.unwrap();
        }
    }
    while let Some(ended) = underway.join_next().await {
        ended.unwrap();
    }
}

/// Everything that was done, and how many repeats it explains; milliseconds from the first on.
fn tell(troubles: &[Trouble], repeats: &Repeats) {
    let mut troubles = troubles.to_vec();
    troubles.sort_unstable_by_key(|trouble| trouble.from);
    let start = troubles.first().map_or(0, |trouble| trouble.from);
    for Trouble { action, from, until } in troubles {
        let of = |(_, explained): &&(usize, Trouble)| explained.from == from && explained.until == until;
        let count = repeats.by_trouble.iter().find(of).map_or(0, |(count, _)| *count);
        eprintln!(
            "  {:>6} to {:>6}: {action:?}, {count} repeated",
            from - start,
            until - start
        );
    }
}

impl Outcome {
    /// What was found stays on the disk if it is not clean.
    pub(crate) fn assert_clean(self, round: &Round) {
        let unexplained = &self.repeats.unexplained;
        if self.report.is_clean() && unexplained.is_empty() {
            return;
        }
        let shown: Vec<_> = unexplained.iter().take(10).collect();
        let folder = self.folder.keep();
        panic!(
            "{round:?}\n{}\nrepeats without cause: {} {shown:#?}\nlogs and journal: {}",
            self.report,
            unexplained.len(),
            folder.display()
        );
    }
}

async fn connect(node: &Sandbox) -> Session {
    SessionBuilder::new()
        .known_node_addr(node.addr())
        .build()
        .await
        .unwrap()
}

async fn create(session: &Session, tablets: bool) {
    let mut schema = include_str!("../../../examples/orders/schema.cql").replace("orders_ks", KEYSPACE);
    if tablets {
        let replication = "'replication_factor': 1}";
        let with_tablets = format!("{replication} AND tablets = {{'enabled': true, 'initial': 4}}");
        assert!(schema.contains(replication));
        schema = schema.replace(replication, &with_tablets);
    }
    for statement in statements(&schema) {
        session.query_unpaged(statement.as_str(), ()).await.unwrap();
    }
}

fn config(folder: &Path, scylla: &str, kafka: &str, round: &Round) -> std::path::PathBuf {
    let path = folder.join("relay.yaml");
    let kafka = kafka.replace(',', "\", \"");
    let mut file = std::fs::File::create(&path).unwrap();
    write!(
        file,
        "identity: test.chaos\n\
         source: {{contactPoints: [\"{scylla}\"], keyspace: {KEYSPACE}, table: outbox_messages}}\n\
         sink: {{bootstrapServers: [\"{kafka}\"], topic: {TOPIC}, guarantee: {}}}\n\
         state: {{leaseSeconds: 4, checkpointIntervalMilliseconds: 500}}\n\
         retry: {{maxAttempts: 3, attemptTimeoutMilliseconds: 2000}}\n\
         circuitBreaker: {{failureThreshold: 3, openSeconds: 1, successThreshold: 1}}\n",
        round.guarantee()
    )
    .unwrap();
    path
}

/// Past the proxy, as the application does.
async fn load(session: Session, journal: &Path, stop: CancellationToken) -> JoinHandle<()> {
    let target = Target::direct(session, KEYSPACE).await.unwrap();
    let plan = Plan {
        events: u64::from(RATE) * 24 * 3600,
        rate: Some(RATE),
        writers: 16,
        orders: 64,
        events_per_order: 20,
        payload_bytes: 100,
        large: None,
        journal: journal.to_owned(),
    };
    tokio::spawn(async move {
        let summary = load::run(plan, target, stop, |_| ()).await.unwrap();
        assert!(summary.totals.committed > 0);
    })
}

async fn verify(cluster: &Cluster, journal: &Path, round: &Round) -> Report {
    let follow = Follow {
        cluster: cluster.clone(),
        topic: TOPIC.to_owned(),
        journal: journal.to_owned(),
        dead_letters: DeadLetters::default(),
        during_load: false,
        patience: PATIENCE,
        settle: Duration::from_secs(3),
        bounds: Bounds {
            // Each is explained by a crash; see `repeats`.
            duplicates: if round.exactly { 0 } else { u64::MAX },
            late: if round.late_rows { u64::MAX } else { 0 },
            ..Bounds::default()
        },
    };
    follow.run(|_| ()).await.unwrap()
}
