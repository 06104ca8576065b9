//! The node under test: a sandbox of its own, or the one that `SCYLLA_CONTACT_POINT` names, as `SCYLLA_USER` if
//! it wants a login.

use std::sync::Arc;

use sandbox::Sandbox;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::statement::Consistency;

pub(crate) struct Node {
    pub(crate) session: Session,
    _sandbox: Option<Sandbox>,
}

impl Node {
    pub(crate) async fn start() -> Self {
        if let Ok(address) = std::env::var("SCYLLA_CONTACT_POINT") {
            return Self {
                session: connect(&address, true).await,
                _sandbox: None,
            };
        }
        let sandbox = Sandbox::builder().start().await.expect("the sandbox starts");
        Self {
            session: connect(&sandbox.addr().to_string(), false).await,
            _sandbox: Some(sandbox),
        }
    }

    /// An empty keyspace of that name in use.
    pub(crate) async fn use_keyspace(&self, name: &str, tablets: bool) {
        use_keyspace(&self.session, name, tablets).await;
    }
}

pub(crate) async fn use_keyspace(session: &Session, name: &str, tablets: bool) {
    for statement in [
        format!("DROP KEYSPACE IF EXISTS {name}"),
        format!(
            "CREATE KEYSPACE {name} WITH replication = {{'class': 'NetworkTopologyStrategy', \
             'replication_factor': 1}} AND tablets = {{'enabled': {tablets}}}"
        ),
    ] {
        session
            .query_unpaged(statement, ())
            .await
            .expect("the keyspace is made");
    }
    session
        .use_keyspace(name, false)
        .await
        .expect("the keyspace is used");
}

/// A session that fails at once instead of retrying. `patient` waits for schema agreement, which a sandbox
/// always has.
pub(crate) async fn connect(address: &str, patient: bool) -> Session {
    let profile = ExecutionProfile::builder()
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .consistency(Consistency::One)
        .build();
    let mut builder = SessionBuilder::new().known_node(address);
    if let Ok(user) = std::env::var("SCYLLA_USER") {
        builder = builder.user(user, std::env::var("SCYLLA_PASSWORD").unwrap_or_default());
    }
    builder
        .default_execution_profile_handle(profile.into_handle())
        .fetch_schema_metadata(patient)
        .auto_await_schema_agreement(patient)
        .build()
        .await
        .expect("a session")
}
