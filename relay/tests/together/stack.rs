//! What relays stand on: a ScyllaDB node, a broker, and per scenario a keyspace with an outbox and a topic.

use std::io::Write;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orders::broker::Broker;
use orders::dead_letters::DeadLetters;
use orders::load::target::Target;
use orders::load::{self, Plan};
use orders::store::statements;
use orders::verify::follow::Follow;
use orders::verify::{Bounds, Report};
use sandbox::Sandbox;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Short, so that takeovers take seconds; every bound follows from it.
pub(crate) const LEASE: Duration = Duration::from_secs(4);

/// Writes per second, over all processes.
pub(crate) const RATE: u32 = 200;

pub(crate) struct Stack {
    /// None: another database, which `address` names.
    node: Option<Sandbox>,
    pub(crate) address: String,
    pub(crate) broker: Arc<Broker>,
    pub(crate) session: Session,
    folder: tempfile::TempDir,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Guarantee {
    AtLeastOnce,
    ExactlyOnce,
}

/// One outbox with its topic and its relays' configuration.
pub(crate) struct Flow<'a> {
    stack: &'a Stack,
    name: &'static str,
    config: tempfile::NamedTempFile,
}

impl Stack {
    /// The broker also listens with SASL.
    pub(crate) async fn start() -> Self {
        Self::of_nodes(1).await
    }

    pub(crate) async fn of_nodes(nodes: usize) -> Self {
        let node = Sandbox::builder().nodes(nodes).start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("kafka");
        let broker = tokio::task::spawn_blocking(move || Broker::start_secure(&dir).unwrap())
            .await
            .unwrap();
        let address = node.addr().to_string();
        Self {
            node: Some(node),
            ..Self::on(address, Arc::new(broker), folder).await
        }
    }

    /// A database that is there, and a broker that others use as well.
    pub(crate) async fn on(address: String, broker: Arc<Broker>, folder: tempfile::TempDir) -> Self {
        let session = SessionBuilder::new().known_node(&address).build().await.unwrap();
        Self {
            node: None,
            address,
            broker,
            session,
            folder,
        }
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        self.node.as_ref().expect("the database is a sandbox")
    }

    pub(crate) async fn flow(&self, name: &'static str) -> Flow<'_> {
        self.flow_with(name, Guarantee::AtLeastOnce).await
    }

    pub(crate) async fn flow_with(&self, name: &'static str, guarantee: Guarantee) -> Flow<'_> {
        self.flow_in(name, guarantee, |schema| schema).await
    }

    pub(crate) async fn flow_on_tablets(&self, name: &'static str) -> Flow<'_> {
        let tablets = |schema: String| {
            let replication = "'replication_factor': 1}";
            schema.replace(
                replication,
                &format!("{replication} AND tablets = {{'enabled': true}}"),
            )
        };
        self.flow_in(name, Guarantee::AtLeastOnce, tablets).await
    }

    /// The schema is that of the order service, and what `altered` makes of it.
    pub(crate) async fn flow_in(
        &self,
        name: &'static str,
        guarantee: Guarantee,
        altered: impl Fn(String) -> String,
    ) -> Flow<'_> {
        let schema = include_str!("../../../examples/orders/schema.cql");
        let schema = altered(schema.replace("orders_ks", name));
        for statement in statements(&schema) {
            self.session.query_unpaged(statement.as_str(), ()).await.unwrap();
        }
        self.broker.create_topic(name, 4, &[]).await.unwrap();
        let mut flow = Flow {
            stack: self,
            name,
            config: tempfile::NamedTempFile::new().unwrap(),
        };
        let text = flow.text(guarantee);
        flow.config.write_all(text.as_bytes()).unwrap();
        flow
    }

    /// A configuration in the contract's words.
    pub(crate) fn config(&self, name: &str, sink: &str) -> String {
        let (node, lease) = (&self.address, LEASE.as_secs());
        format!(
            "identity: test.{name}\nsource: {{contactPoints: [\"{node}\"], keyspace: {name}, table: outbox_messages}}\n\
             sink: {sink}\nstate: {{leaseSeconds: {lease}, checkpointIntervalMilliseconds: 500}}\n"
        )
    }
}

impl Flow<'_> {
    pub(crate) fn config(&self) -> &Path {
        self.config.path()
    }

    pub(crate) async fn cql(&self, statement: &str) {
        let done = self.stack.session.query_unpaged(statement, ()).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    pub(crate) fn configure(&mut self, config: tempfile::NamedTempFile) {
        self.config = config;
    }

    pub(crate) fn text(&self, guarantee: Guarantee) -> String {
        let bootstrap = self.stack.broker.cluster().bootstrap;
        let sink = format!(
            "{{bootstrapServers: [\"{bootstrap}\"], topic: {}, guarantee: {guarantee:?}}}",
            self.name
        );
        self.stack.config(self.name, &sink)
    }

    /// Writes for so many seconds.
    pub(crate) async fn load(&self, seconds: u64) -> JoinHandle<()> {
        self.load_with(seconds, None).await
    }

    /// The same; every so many writes the payload has so many bytes.
    pub(crate) async fn load_with(&self, seconds: u64, large: Option<(u64, usize)>) -> JoinHandle<()> {
        self.load_at(RATE, seconds, large).await
    }

    pub(crate) async fn load_at(
        &self,
        rate: u32,
        seconds: u64,
        large: Option<(u64, usize)>,
    ) -> JoinHandle<()> {
        let session = SessionBuilder::new()
            .known_node(&self.stack.address)
            .build()
            .await
            .unwrap();
        let target = Target::direct(session, self.name).await.unwrap();
        let plan = Plan {
            events: u64::from(rate) * seconds,
            rate: Some(rate),
            writers: 16,
            orders: 64,
            events_per_order: 20,
            payload_bytes: 100,
            large,
            journal: self.stack.folder.path().join(self.name),
        };
        tokio::spawn(async move {
            let summary = load::run(plan, target, CancellationToken::new(), |_| ())
                .await
                .unwrap();
            assert!(summary.totals.committed > 0);
        })
    }

    /// Everything arrived, in order, with at most so many repeats.
    pub(crate) async fn verify(&self, duplicates: u64) -> Report {
        self.verify_with(duplicates, DeadLetters::default(), 0..=0).await
    }

    /// The same, with so many dead letters.
    pub(crate) async fn verify_with(
        &self,
        duplicates: u64,
        dead_letters: DeadLetters,
        buried: RangeInclusive<u64>,
    ) -> Report {
        self.verify_found(duplicates, dead_letters, buried, 0).await
    }

    /// The same, with so many found by reconciliation at most.
    pub(crate) async fn verify_found(
        &self,
        duplicates: u64,
        dead_letters: DeadLetters,
        buried: RangeInclusive<u64>,
        reconciled: u64,
    ) -> Report {
        let bounds = Bounds {
            committed: 1,
            duplicates,
            late: 0,
            replayed: 0,
            reconciled,
            dead_letters: buried,
            ordered: true,
            foreign: 0,
        };
        self.judge(bounds, dead_letters).await
    }

    /// Everything arrived once, in order but for at most so many replayed dead letters.
    pub(crate) async fn verify_replayed(&self, replayed: u64) -> Report {
        let bounds = Bounds {
            committed: 1,
            duplicates: 0,
            late: 0,
            replayed,
            reconciled: 0,
            dead_letters: 0..=0,
            ordered: true,
            foreign: 0,
        };
        self.judge(bounds, DeadLetters::default()).await
    }

    async fn judge(&self, bounds: Bounds, dead_letters: DeadLetters) -> Report {
        let duplicates = bounds.duplicates;
        let follow = Follow {
            cluster: self.stack.broker.cluster(),
            topic: self.name.to_owned(),
            journal: self.stack.folder.path().join(self.name),
            dead_letters,
            during_load: false,
            patience: Duration::from_secs(60),
            settle: Duration::from_secs(1),
            bounds,
        };
        let report = follow.run(|_| ()).await.unwrap();
        eprintln!(
            "{}: {} committed, {} delivered, {} lost, {} reordered, {} duplicated (at most {duplicates})",
            self.name,
            report.committed,
            report.delivered,
            report.lost.count,
            report.reordered.count,
            report.duplicated.count
        );
        assert!(report.is_clean(), "{}:\n{report}", self.name);
        report
    }
}
