//! A broker of one's own, and what is in its topics.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::{Mutex, MutexGuard};

use crate::messages::Messages;

/// One broker at a time: several would have to share two cores with the tests.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    pub(crate) bootstrap: String,
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Also with TLS, SASL and authorisation; see [`Self::listener`].
    pub(crate) async fn start_secure() -> Self {
        Self::start_with(&["--secure"]).await
    }

    async fn start_with(options: &[&str]) -> Self {
        let turn = ONE_AT_A_TIME.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        let owner = std::process::id().to_string();
        let arguments = ["start", "1", &path, "--owner", &owner];
        let output = run(&[&arguments, options].concat());
        Self {
            bootstrap: output.lines().last().expect("the bootstrap address").to_owned(),
            folder,
            _turn: turn,
        }
    }

    /// What the script says of its secure listeners: `SSL`, `SASL_PLAINTEXT`, `SASL_SSL`, and the authority's `CA`.
    pub(crate) fn listener(&self, name: &str) -> String {
        let listeners = std::fs::read_to_string(self.folder.path().join("secure")).unwrap();
        let value = listeners
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap().to_owned()
    }

    /// `kill`, `pause`, `resume`, or `start` again with the same port and data.
    pub(crate) async fn script(&self, command: &'static str) {
        let path = self.folder.path().to_str().unwrap().to_owned();
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

    /// All that a topic holds now.
    pub(crate) async fn read(&self, topic: &str) -> Messages {
        let (config, topic) = (self.config(), topic.to_owned());
        tokio::task::spawn_blocking(move || read(&config, &topic))
            .await
            .unwrap()
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

impl Drop for Cluster {
    fn drop(&mut self) {
        run(&["kill", self.folder.path().to_str().unwrap()]);
    }
}

fn read(config: &ClientConfig, topic: &str) -> Messages {
    let consumer: BaseConsumer = config.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).unwrap();
    let mut assignment = TopicPartitionList::new();
    let mut expected = 0;
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), TIMEOUT).unwrap();
        expected += high - low;
        assignment
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut messages = Messages::default();
    while (messages.len() as i64) < expected {
        let message = consumer.poll(TIMEOUT).expect("more messages").unwrap();
        messages.push(&message);
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
