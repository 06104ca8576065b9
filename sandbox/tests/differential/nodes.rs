//! Who is asked.

use std::process::Command;

use sandbox::Sandbox;
use sandbox::query::engine::Dialect;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

/// A node under test, and the form of its answers.
pub(crate) struct Node {
    pub(crate) session: Session,
    pub(crate) dialect: Dialect,
    /// None: the node that `SCYLLA_CONTACT_POINT` names.
    _sandbox: Option<Sandbox>,
}

/// A sandbox for each form, or the node that `SCYLLA_CONTACT_POINT` names, as `SCYLLA_USER` if it wants a login.
pub(crate) async fn ours() -> Vec<Node> {
    if let Ok(address) = std::env::var("SCYLLA_CONTACT_POINT") {
        let mut builder = SessionBuilder::new().known_node(address);
        if let Ok(user) = std::env::var("SCYLLA_USER") {
            builder = builder.user(user, std::env::var("SCYLLA_PASSWORD").unwrap_or_default());
        }
        return vec![Node {
            session: builder.build().await.unwrap(),
            dialect: Dialect::Scylla,
            _sandbox: None,
        }];
    }
    let mut nodes = Vec::new();
    for dialect in [Dialect::Cassandra, Dialect::Scylla] {
        let sandbox = Sandbox::builder().dialect(dialect).start().await.unwrap();
        let builder = SessionBuilder::new().known_node_addr(sandbox.addr());
        nodes.push(Node {
            session: builder.build().await.unwrap(),
            dialect,
            _sandbox: Some(sandbox),
        });
    }
    nodes
}

/// A running Cassandra: one that is there already, or one that is started for this test.
pub(crate) async fn cassandra() -> Session {
    let address = std::env::var("CASSANDRA_CONTACT_POINT").unwrap_or_else(|_| start_cassandra());
    SessionBuilder::new().known_node(address).build().await.unwrap()
}

/// Its address.
fn start_cassandra() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/cassandra.sh");
    let directory = std::env::temp_dir().join(format!("outbox-differential-{}", std::process::id()));
    let output = Command::new(script)
        .args([
            "start",
            directory.to_str().unwrap(),
            "--owner",
            &std::process::id().to_string(),
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "Cassandra did not start: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
