//! A real broker for tests and benchmarks, run by `scripts/kafka.sh`.

use std::path::{Path, PathBuf};
use std::process::Command;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::kafka::Cluster;

/// Brokers on this machine. They end when this is dropped, or when the process ends in any way.
pub struct Broker {
    dir: PathBuf,
    bootstrap: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{attempt}: {detail}")]
pub struct BrokerError {
    attempt: String,
    detail: String,
}

impl Broker {
    /// Starts one or three brokers with their data in `dir`, fetching Kafka if this machine does not have it. Blocks
    /// for one to three seconds, longer when Kafka has to be fetched.
    pub fn start(dir: &Path, brokers: u8) -> Result<Self, BrokerError> {
        let mut broker = Self {
            dir: dir.to_owned(),
            bootstrap: String::new(),
        };
        let (brokers, owner) = (brokers.to_string(), std::process::id().to_string());
        let dir = broker.dir_argument()?;
        let output = script(&["start", &brokers, &dir, "--owner", &owner])?;
        broker.bootstrap = output.trim().to_owned();
        Ok(broker)
    }

    pub fn cluster(&self) -> Cluster {
        Cluster {
            bootstrap: self.bootstrap.clone(),
            properties: Vec::new(),
        }
    }

    /// Kills all brokers at once (SIGKILL).
    pub fn kill(&self) -> Result<(), BrokerError> {
        script(&["kill", &self.dir_argument()?]).map(drop)
    }

    /// Starts killed brokers again, with their data and ports.
    pub fn restart(&self) -> Result<(), BrokerError> {
        script(&[
            "start",
            &self.dir_argument()?,
            "--owner",
            &std::process::id().to_string(),
        ])
        .map(drop)
    }

    /// Stops the brokers in their tracks: connections stay, nothing answers (SIGSTOP).
    pub fn pause(&self) -> Result<(), BrokerError> {
        script(&["pause", &self.dir_argument()?]).map(drop)
    }

    /// Lets paused brokers go on.
    pub fn resume(&self) -> Result<(), BrokerError> {
        script(&["resume", &self.dir_argument()?]).map(drop)
    }

    /// Creates a topic on as many brokers as there are.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        properties: &[(&str, &str)],
    ) -> Result<(), BrokerError> {
        let failed = |detail: String| BrokerError {
            attempt: format!("creating topic {name}"),
            detail,
        };
        let admin: AdminClient<DefaultClientContext> = self
            .cluster()
            .config()
            .create()
            .map_err(|error| failed(error.to_string()))?;
        let replicas = self.bootstrap.split(',').count();
        let topic = NewTopic {
            name,
            num_partitions: partitions,
            replication: TopicReplication::Fixed(i32::try_from(replicas).unwrap_or(1)),
            config: properties.to_vec(),
        };
        let created = admin
            .create_topics([&topic], &AdminOptions::new())
            .await
            .map_err(|error| failed(error.to_string()))?;
        match created.into_iter().next() {
            Some(Ok(_)) => Ok(()),
            Some(Err((_, code))) => Err(failed(code.to_string())),
            None => Err(failed("the broker gave no answer".to_owned())),
        }
    }

    fn dir_argument(&self) -> Result<String, BrokerError> {
        self.dir.to_str().map(str::to_owned).ok_or_else(|| BrokerError {
            attempt: "naming the broker's folder".to_owned(),
            detail: format!("{} is not UTF-8", self.dir.display()),
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(%error, "broker may still run");
        }
    }
}

fn script(arguments: &[&str]) -> Result<String, BrokerError> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/kafka.sh");
    let failed = |detail: String| BrokerError {
        attempt: format!("kafka.sh {}", arguments.join(" ")),
        detail,
    };
    let output = Command::new(path)
        .args(arguments)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
