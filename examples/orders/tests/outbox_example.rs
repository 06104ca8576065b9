//! The example of a service in Rust, as a program, on the sandbox.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

use std::path::Path;
use std::process::Command;

use sandbox::Sandbox;

#[tokio::test(flavor = "multi_thread")]
async fn the_example_writes_an_order_and_its_event() {
    let node = Sandbox::builder().start().await.unwrap();
    let deps = std::env::current_exe().unwrap();
    let example = deps.ancestors().nth(2).unwrap().join("examples/outbox");
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../outbox/schema.cql");
    let address = node.addr().to_string();
    let run = move || Command::new(example).arg(schema).env("SCYLLA", address).output();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let output = output
        .expect("`cargo test` of the whole workspace builds examples; so does `cargo build --examples`");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.starts_with("order "),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
