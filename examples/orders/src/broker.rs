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
        Self::start_with(dir, brokers, &[])
    }

    /// Starts one broker that also listens with TLS and SASL and asks for authorisation; see [`Self::secured`].
    pub fn start_secure(dir: &Path) -> Result<Self, BrokerError> {
        Self::start_with(dir, 1, &["--secure"])
    }

    fn start_with(dir: &Path, brokers: u8, options: &[&str]) -> Result<Self, BrokerError> {
        let mut broker = Self {
            dir: dir.to_owned(),
            bootstrap: String::new(),
        };
        let (brokers, owner) = (brokers.to_string(), std::process::id().to_string());
        let dir = broker.dir_argument()?;
        let output = script(&[&["start", &brokers, &dir, "--owner", &owner], options].concat())?;
        broker.bootstrap = output.trim().to_owned();
        Ok(broker)
    }

    pub fn cluster(&self) -> Cluster {
        Cluster {
            bootstrap: self.bootstrap.clone(),
            properties: Vec::new(),
        }
    }

    /// A way to a secure broker: `ssl`, `sasl_plaintext` or `sasl_ssl`, and for SASL a mechanism (PLAIN, SCRAM-SHA-256,
    /// SCRAM-SHA-512), user and password. User `relay` (password `relay-secret`) may do everything, `stranger`
    /// (`stranger-secret`) nothing.
    pub fn secured(&self, protocol: &str, login: Option<(&str, &str, &str)>) -> Result<Cluster, BrokerError> {
        let failed = |detail: String| BrokerError {
            attempt: format!("finding the broker's {protocol} listener"),
            detail,
        };
        let file =
            std::fs::read_to_string(self.dir.join("secure")).map_err(|error| failed(error.to_string()))?;
        let value = |name: &str| {
            let found = file
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            found
                .map(str::to_owned)
                .ok_or_else(|| failed(format!("no {name} in {file}")))
        };
        let mut properties = vec![("security.protocol".to_owned(), protocol.to_owned())];
        if protocol.ends_with("ssl") {
            properties.push(("ssl.ca.location".to_owned(), value("CA")?));
        }
        if let Some((mechanism, user, password)) = login {
            for (name, value) in [
                ("mechanism", mechanism),
                ("username", user),
                ("password", password),
            ] {
                properties.push((format!("sasl.{name}"), value.to_owned()));
            }
        }
        Ok(Cluster {
            bootstrap: value(&protocol.to_uppercase())?,
            properties,
        })
    }

    /// Gives a user of a secure broker another password for SCRAM-SHA-512. Who is connected stays so. Blocks for some seconds.
    pub fn change_password(&self, user: &str, password: &str) -> Result<(), BrokerError> {
        script(&["password", user, password, &self.dir_argument()?]).map(drop)
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
