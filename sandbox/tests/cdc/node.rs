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
    /// None: a real node.
    pub(crate) sandbox: Option<Sandbox>,
}

impl Node {
    pub(crate) async fn start() -> Self {
        match std::env::var("SCYLLA_CONTACT_POINT") {
            Ok(address) => Self {
                session: connect(&address, true).await,
                sandbox: None,
            },
            Err(_) => Self::sandbox().await,
        }
    }

    /// For tests that switch what only the sandbox can switch.
    pub(crate) async fn sandbox() -> Self {
        let sandbox = Sandbox::builder().start().await.expect("the sandbox starts");
        let session = connect(&sandbox.addr().to_string(), false).await;
        Self {
            session,
            sandbox: Some(sandbox),
        }
    }

    /// An empty keyspace of that name in use.
    pub(crate) async fn use_keyspace(&self, name: &str, tablets: bool) {
        for statement in [
            format!("DROP KEYSPACE IF EXISTS {name}"),
            format!(
                "CREATE KEYSPACE {name} WITH replication = {{'class': 'NetworkTopologyStrategy', \
                 'replication_factor': 1}} AND tablets = {{'enabled': {tablets}}}"
            ),
        ] {
            self.session
                .query_unpaged(statement, ())
                .await
                .expect("the keyspace is made");
        }
        self.session
            .use_keyspace(name, false)
            .await
            .expect("the keyspace is used");
    }
}

/// A session that fails at once instead of retrying. `patient` waits for schema agreement, which a sandbox
/// always has.
async fn connect(address: &str, patient: bool) -> Session {
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
