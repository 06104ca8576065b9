//! Connections to ScyllaDB.

use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::NewSessionError;
use scylla::policies::timestamp_generator::MonotonicTimestampGenerator;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct Nodes {
    /// `host:port` of at least one node.
    pub contact_points: Vec<String>,
    pub credentials: Option<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
#[error("ScyllaDB at {contact_points}: {cause}")]
pub struct ConnectError {
    contact_points: String,
    cause: Box<NewSessionError>,
}

/// Opens a session whose writes carry rising timestamps: two writes of one aggregate keep their order in the CDC log
/// even if they go through coordinators whose clocks differ.
pub async fn connect(nodes: &Nodes) -> Result<Session, ConnectError> {
    let mut builder = SessionBuilder::new()
        .known_nodes(&nodes.contact_points)
        .connection_timeout(CONNECT_TIMEOUT)
        .timestamp_generator(Arc::new(MonotonicTimestampGenerator::new()));
    if let Some((user, password)) = &nodes.credentials {
        builder = builder.user(user, password);
    }
    builder.build().await.map_err(|cause| ConnectError {
        contact_points: nodes.contact_points.join(","),
        cause: Box::new(cause),
    })
}
