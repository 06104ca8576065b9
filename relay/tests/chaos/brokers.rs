//! Brokers of one's own, behind proxies.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tokio::net::TcpListener;

use crate::proxy::Proxy;

pub(crate) struct Brokers {
    dir: PathBuf,
    /// The way past the proxies.
    pub(crate) bootstrap: String,
    /// The way of the relays.
    pub(crate) proxied: String,
    pub(crate) proxies: Vec<Proxy>,
}

impl Brokers {
    pub(crate) async fn start(dir: PathBuf, count: u8) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..count {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses: Vec<SocketAddr> = listeners.iter().map(|it| it.local_addr().unwrap()).collect();
        let ports: Vec<String> = addresses.iter().map(|it| it.port().to_string()).collect();
        let mut brokers = Self {
            dir,
            bootstrap: String::new(),
            proxied: addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(","),
            proxies: Vec::new(),
        };
        let options = ["--proxied".to_owned(), ports.join(",")];
        brokers.bootstrap = brokers.start_again(&count.to_string(), &options).await;
        for (node, listener) in (1..).zip(listeners) {
            let file = brokers.dir.join(format!("node-{node}/proxied"));
            let port: u16 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
            brokers
                .proxies
                .push(Proxy::start(listener, SocketAddr::from(([127, 0, 0, 1], port))));
        }
        brokers
    }

    /// `kill`, `pause` or `resume` of one.
    pub(crate) async fn signal(&self, what: &'static str, node: usize) {
        self.script(vec![what.to_owned(), self.dir(), node.to_string()])
            .await;
    }

    /// Starts those that were killed.
    pub(crate) async fn revive(&self) {
        self.start_again(&self.proxies.len().to_string(), &[]).await;
    }

    pub(crate) async fn create_topic(&self, name: &str, partitions: i32) {
        let replicas = TopicReplication::Fixed(self.proxies.len() as i32);
        // The broker's time of arrival tells which repeats a crash explains.
        let topic = NewTopic::new(name, partitions, replicas).set("message.timestamp.type", "LogAppendTime");
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .create()
            .unwrap();
        let created = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
        created.into_iter().next().unwrap().unwrap();
    }

    async fn start_again(&self, count: &str, options: &[String]) -> String {
        let owner = std::process::id().to_string();
        let mut arguments = vec!["start".to_owned(), count.to_owned(), self.dir()];
        arguments.extend(["--owner".to_owned(), owner]);
        arguments.extend_from_slice(options);
        let said = self.script(arguments).await;
        said.lines().last().expect("the bootstrap address").to_owned()
    }

    async fn script(&self, arguments: Vec<String>) -> String {
        tokio::task::spawn_blocking(move || script(&arguments))
            .await
            .unwrap()
    }

    fn dir(&self) -> String {
        self.dir.to_str().unwrap().to_owned()
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        // They end with this process in any case.
        let kill = ["kill".to_owned(), self.dir()];
        if !std::thread::panicking() {
            script(&kill);
        }
    }
}

fn script(arguments: &[String]) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/kafka.sh");
    let output = Command::new(path).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "kafka.sh {arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}
