//! Clients that we did not write, from their registries, against the sandbox. A missing client fails.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::Command;

/// Runs a client's tests, with and without a password where that is another code path.
async fn check(client: &'static str, credentials: Option<(&str, &str)>) {
    let mut builder = sandbox::Sandbox::builder();
    if client == "cqlsh" {
        // It sends DESCRIBE only to what calls itself 4.0 or later, which ScyllaDB does not.
        builder = builder.release_version("4.0.0");
    }
    if let Some((user, password)) = credentials {
        builder = builder.user(user, password);
    }
    let node = builder.start().await.unwrap();
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/clients.sh"));
    command.args([
        client,
        &node.addr().ip().to_string(),
        &node.addr().port().to_string(),
    ]);
    if let Some((user, password)) = credentials {
        command.args([user, password]);
    }
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{client}:\n{text}");
    assert!(
        text.contains("passed") || text.contains("ok"),
        "{client} ran no test:\n{text}"
    );
    println!("{}", text.lines().last().unwrap_or_default());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scylla_driver_for_python() {
    check("scylla-driver", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cassandra_driver_for_python_with_a_password() {
    check("cassandra-driver", Some(("relay", "secret"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cqlsh() {
    check("cqlsh", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cqlsh_with_a_password() {
    check("cqlsh", Some(("relay", "secret"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gocql() {
    check("gocql", None).await;
}
