//! Clients that we did not write, from their registries, against the sandbox. A missing client fails.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

use std::process::Command;

/// Runs a client's tests on a sandbox, or on the node that `SCYLLA_CONTACT_POINT` names, as `SCYLLA_USER` with
/// `SCYLLA_PASSWORD` if it wants one.
async fn check(client: &'static str) {
    if let Ok(address) = std::env::var("SCYLLA_CONTACT_POINT") {
        let (host, port) = address
            .rsplit_once(':')
            .expect("SCYLLA_CONTACT_POINT is host:port");
        let user = std::env::var("SCYLLA_USER").ok();
        let password = std::env::var("SCYLLA_PASSWORD").unwrap_or_default();
        let credentials = user.as_deref().map(|user| (user, password.as_str()));
        return run(client, host, port, credentials).await;
    }
    on_a_sandbox(client, sandbox::Sandbox::builder(), None).await;
}

async fn on_a_sandbox(
    client: &'static str,
    builder: sandbox::SandboxBuilder,
    credentials: Option<(&str, &str)>,
) {
    let node = builder.start().await.unwrap();
    let (host, port) = (node.addr().ip().to_string(), node.addr().port().to_string());
    run(client, &host, &port, credentials).await;
}

async fn run(client: &'static str, host: &str, port: &str, credentials: Option<(&str, &str)>) {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/clients.sh"));
    command.args([client, host, port]);
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
    let did = ["passed", "ok", "order "].iter().any(|word| text.contains(word));
    assert!(did, "{client} ran no test:\n{text}");
    println!("{}", text.lines().last().unwrap_or_default());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scylla_driver_for_python() {
    check("scylla-driver").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cassandra_driver_for_python() {
    check("cassandra-driver").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cqlsh() {
    check("cqlsh").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gocql() {
    check("gocql").await;
}

/// What the documentation shows writes a row and its event; each reads the event back itself.
#[tokio::test(flavor = "multi_thread")]
async fn services_with_an_outbox_in_python_go_and_java() {
    for language in ["outbox-python", "outbox-go", "outbox-java"] {
        check(language).await;
    }
}

/// Each code block stands in the file that is run, line by line.
#[test]
fn the_documentation_shows_what_is_run() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/outbox");
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/outbox-in-your-service.md");
    let page = std::fs::read_to_string(page).unwrap();
    let lines = |text: &str| {
        text.lines()
            .map(|line| line.trim().to_owned())
            .collect::<Vec<_>>()
    };
    for (language, file) in [
        ("python", "python/outbox.py"),
        ("go", "go/main.go"),
        ("java", "java/Outbox.java"),
        ("rust", "rust/outbox.rs"),
    ] {
        let whole = lines(&std::fs::read_to_string(format!("{examples}/{file}")).unwrap());
        let begin = format!("```{language}\n");
        let blocks = page.split(&begin).skip(1);
        let mut shown = 0;
        for block in blocks.map(|rest| lines(rest.split("```").next().unwrap())) {
            let is_there = whole.windows(block.len()).any(|window| window == block);
            assert!(is_there, "{file} does not hold:\n{}", block.join("\n"));
            shown += 1;
        }
        assert!(shown > 0, "nothing in {language}");
    }
}

/// Passwords, which the sandbox is started with.
mod sandbox_only {
    use super::on_a_sandbox;

    async fn with_a_password(client: &'static str) {
        let (user, password) = ("relay", "secret");
        // From 4.0 on cqlsh sends DESCRIBE; to what calls itself as ScyllaDB does, it sends none.
        let builder = sandbox::Sandbox::builder().release_version("4.0.0");
        on_a_sandbox(client, builder.user(user, password), Some((user, password))).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_cassandra_driver_for_python_with_a_password() {
        with_a_password("cassandra-driver").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn cqlsh_with_a_password() {
        with_a_password("cqlsh").await;
    }
}
