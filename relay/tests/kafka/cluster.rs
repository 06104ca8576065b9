//! Brokers, and what is in their topics.
//!
//! A start takes seconds, so tests share a broker and keep to topics of their own. A test that makes its broker fail
//! has one to itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use crate::messages::Messages;

/// Brokers that fail at a time: each start keeps a core busy for seconds.
static FAILING: Semaphore = Semaphore::const_new(2);

/// End with the process of the tests.
static SHARED: OnceCell<Broker> = OnceCell::const_new();
static SECURE: OnceCell<Broker> = OnceCell::const_new();

const TIMEOUT: Duration = Duration::from_secs(30);

/// A broker as one test sees it.
pub(crate) struct Cluster {
    pub(crate) bootstrap: String,
    folder: PathBuf,
    own: Option<Own>,
}

struct Own {
    folder: tempfile::TempDir,
    _turn: SemaphorePermit<'static>,
}

struct Broker {
    bootstrap: String,
    folder: PathBuf,
}

impl Cluster {
    /// The broker of all tests that let it be.
    pub(crate) async fn shared() -> Self {
        Self::of(SHARED.get_or_init(|| shared_broker("plain", &[])).await)
    }

    /// Another one, also with TLS, SASL and authorisation; see [`Self::listener`].
    pub(crate) async fn shared_secure() -> Self {
        Self::of(
            SECURE
                .get_or_init(|| shared_broker("secure", &["--secure"]))
                .await,
        )
    }

    /// A broker of one's own, for [`Self::script`].
    pub(crate) async fn own() -> Self {
        let turn = FAILING.acquire().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let broker = start(folder.path().to_owned(), &[]).await;
        Self {
            bootstrap: broker.bootstrap,
            folder: broker.folder,
            own: Some(Own { folder, _turn: turn }),
        }
    }

    fn of(broker: &Broker) -> Self {
        Self {
            bootstrap: broker.bootstrap.clone(),
            folder: broker.folder.clone(),
            own: None,
        }
    }

    /// What the script says of its secure listeners: `SSL`, `SASL_PLAINTEXT`, `SASL_SSL`, and the authority's `CA`.
    pub(crate) fn listener(&self, name: &str) -> String {
        let listeners = std::fs::read_to_string(self.folder.join("secure")).unwrap();
        let value = listeners
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap().to_owned()
    }

    /// `kill`, `pause`, `resume`, or `start` again with the same port and data.
    pub(crate) async fn script(&self, command: &'static str) {
        assert!(self.own.is_some(), "others share the broker");
        let path = self.folder.to_str().unwrap().to_owned();
        tokio::task::spawn_blocking(move || match command {
            "start" => run(&["start", "1", &path]),
            command => run(&[command, &path]),
        })
        .await
        .unwrap();
    }

    pub(crate) async fn topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let created = self.admin().create_topics([&topic], &options()).await.unwrap();
        created.into_iter().next().unwrap().unwrap();
        name.to_owned()
    }

    pub(crate) async fn alter(&self, topic: &str, key: &str, value: &str) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(key, value);
        let altered = self.admin().alter_configs([&change], &options()).await.unwrap();
        altered.into_iter().next().unwrap().unwrap();
    }

    pub(crate) async fn delete(&self, topic: &str) {
        let deleted = self.admin().delete_topics(&[topic], &options()).await.unwrap();
        deleted.into_iter().next().unwrap().unwrap();
    }

    /// All that a topic holds now, for whoever reads what is committed.
    pub(crate) async fn read(&self, topic: &str) -> Messages {
        let (config, topic) = (self.config(), topic.to_owned());
        tokio::task::spawn_blocking(move || read(&config, &topic))
            .await
            .unwrap()
    }

    /// Writes messages in a transaction that nobody ends: as a process that dies in the middle of it leaves it.
    pub(crate) async fn leave_open(&self, id: &str, messages: &[relay::encode::Message]) {
        let (mut config, messages) = (self.config(), messages.to_vec());
        config.set("transactional.id", id);
        let write = move || {
            let producer: BaseProducer = config.create().unwrap();
            producer.init_transactions(TIMEOUT).unwrap();
            producer.begin_transaction().unwrap();
            for message in &messages {
                let mut headers = OwnedHeaders::new();
                for (name, value) in &message.headers {
                    let value = Some(&value[..]);
                    headers = headers.insert(Header { key: name, value });
                }
                let mut record = BaseRecord::<[u8], [u8]>::to(&message.topic).headers(headers);
                (record.key, record.payload) = (message.key.as_deref(), message.payload.as_deref());
                producer.send(record).map_err(|(error, _)| error).unwrap();
            }
            producer.flush(TIMEOUT).unwrap();
            // Closing it would abort the transaction.
            std::mem::forget(producer);
        };
        tokio::task::spawn_blocking(write).await.unwrap();
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", "test");
        config
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        run(&["kill", self.folder.path().to_str().unwrap()]);
    }
}

async fn start(folder: PathBuf, options: &'static [&'static str]) -> Broker {
    let starting = tokio::task::spawn_blocking(move || {
        let (path, owner) = (
            folder.to_str().unwrap().to_owned(),
            std::process::id().to_string(),
        );
        let arguments = ["start", "1", &path, "--owner", &owner];
        let output = run(&[&arguments, options].concat());
        Broker {
            bootstrap: output.lines().last().expect("the bootstrap address").to_owned(),
            folder,
        }
    });
    starting.await.unwrap()
}

/// Nothing is left at the end of the process that could remove its folder: the next one does.
async fn shared_broker(name: &str, options: &'static [&'static str]) -> Broker {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kafka").join(name);
    for folder in std::fs::read_dir(&all).into_iter().flatten().map(Result::unwrap) {
        if !Path::new("/proc").join(folder.file_name()).exists() {
            std::fs::remove_dir_all(folder.path()).unwrap();
        }
    }
    let folder = all.join(std::process::id().to_string());
    std::fs::create_dir_all(&folder).unwrap();
    start(folder, options).await
}

/// What is committed. Transactions leave gaps, so the end is where the broker says.
fn read(config: &ClientConfig, topic: &str) -> Messages {
    let consumer: BaseConsumer = config
        .clone()
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).unwrap();
    let mut assignment = TopicPartitionList::new();
    let mut open = BTreeSet::new();
    for partition in metadata.topics()[0].partitions() {
        open.insert(partition.id());
        assignment
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut messages = Messages::default();
    while !open.is_empty() {
        match consumer.poll(TIMEOUT).expect("more messages, or the end") {
            Ok(message) => messages.push(&message),
            Err(KafkaError::PartitionEOF(partition)) => drop(open.remove(&partition)),
            Err(error) => panic!("{error}"),
        }
    }
    messages
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(TIMEOUT))
        .operation_timeout(Some(TIMEOUT))
}

fn run(arguments: &[&str]) -> String {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/kafka.sh");
    let output = Command::new(script).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "kafka.sh {arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}
