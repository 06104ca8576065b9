//! The program as people meet it: exit codes, findings, what it waits for. ScyllaDB is the sandbox; Kafka is not there.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use sandbox::Sandbox;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

/// Far beyond what anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const OUTBOX: &str = "CREATE TABLE app.outbox (aggregate_id uuid, sequence bigint, id uuid, event_type text, payload text, \
                      PRIMARY KEY (aggregate_id, sequence))";

fn relay(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// A configuration for this node; nothing listens at its Kafka.
fn config(scylla: SocketAddr) -> tempfile::NamedTempFile {
    let kafka = free_address();
    file(&format!(
        "identity: test.relay\nsource: {{contactPoints: [\"{scylla}\"], keyspace: app, table: outbox}}\n\
         sink: {{bootstrapServers: [\"{kafka}\"], topic: events}}\n"
    ))
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn node() -> (Sandbox, Session) {
    let node = Sandbox::builder().start().await.unwrap();
    let session = SessionBuilder::new()
        .known_node_addr(node.addr())
        .build()
        .await
        .unwrap();
    let keyspace = "CREATE KEYSPACE app WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}";
    session.query_unpaged(keyspace, ()).await.unwrap();
    (node, session)
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_whole_with_exit_code_2() {
    let (node, session) = node().await;
    let wrong = file(&format!(
        "identity: test.relay\n\
         source: {{contactPoints: [\"{}\"], keyspace: app, table: outbox, horizonSeconds: -1}}\n\
         sink: {{bootstrapServers: [\"broker\"], topic: \"not a topic\", guarantee: ExactlyTwice}}\nretries: 7\n",
        node.addr()
    ));
    for command in ["run", "check", "setup"] {
        let refused = output(relay(&[command, "-f", wrong.path().to_str().unwrap()])).await;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{command}: {said}");
        for field in [
            "source.horizonSeconds",
            "sink.bootstrapServers",
            "sink.topic",
            "sink.guarantee",
            "retries",
        ] {
            assert!(said.contains(field), "{command} should name {field}: {said}");
        }
    }
    let keyspaces = "SELECT keyspace_name FROM system_schema.keyspaces";
    let keyspaces = session.query_unpaged(keyspaces, ()).await.unwrap();
    let keyspaces = keyspaces.into_rows_result().unwrap();
    let names = keyspaces.rows::<(String,)>().unwrap().map(|row| row.unwrap().0);
    assert!(
        !names.collect::<Vec<_>>().contains(&"outbox_relay".to_owned()),
        "nothing is touched"
    );
    let several = std::fs::read_to_string(config(node.addr()).path()).unwrap() + "shares: 3\n";
    let unsaid = output(relay(&["run", "-f", file(&several).path().to_str().unwrap()])).await;
    let said = String::from_utf8_lossy(&unsaid.stderr);
    assert_eq!(unsaid.status.code(), Some(2), "{said}");
    assert!(
        said.contains("shares: 3") && said.contains("--share 1/3"),
        "{said}"
    );
    let missing = output(relay(&["run", "-f", "/nonexistent/relay.yaml"])).await;
    assert_eq!(missing.status.code(), Some(2));
    assert_eq!(
        output(relay(&["run", "--share", "5/4", "-f", "x"]))
            .await
            .status
            .code(),
        Some(2)
    );
}

#[tokio::test]
async fn a_log_filter_that_cannot_be_read_is_refused_with_exit_code_2() {
    let config = config(([127, 0, 0, 1], 1).into());
    let mut command = relay(&["run", "-f", config.path().to_str().unwrap()]);
    command.env("RUST_LOG", "info,relay=loud");
    let refused = output(command).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    for part in ["RUST_LOG: ", "\"info,relay=loud\"", "accepted: error, warn, info"] {
        assert!(said.contains(part), "should say {part}: {said}");
    }
}

/// What `check` says of a node after these statements, and after `setup` if that is asked for.
async fn check(statements: &[&str], setup: bool, expected: &[&str]) {
    let (node, session) = node().await;
    let config = config(node.addr());
    let path = config.path().to_str().unwrap();
    for statement in statements {
        session.query_unpaged(*statement, ()).await.unwrap();
    }
    if setup {
        let made = output(relay(&["setup", "-f", path])).await;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let found = output(relay(&["check", "-f", path])).await;
    let said = String::from_utf8_lossy(&found.stdout);
    assert_eq!(
        found.status.code(),
        Some(1),
        "{said}{}",
        String::from_utf8_lossy(&found.stderr)
    );
    for part in expected {
        assert!(said.contains(part), "should say {part}: {said}");
    }
}

/// Side by side: each waits long enough for a broker that is slow.
#[tokio::test(flavor = "multi_thread")]
async fn check_finds_what_is_unfit_and_names_the_fix() {
    let hidden = "ALTER TABLE app.outbox WITH cdc = {'enabled': true, 'delta': 'keys'}";
    let shown = "ALTER TABLE app.outbox WITH cdc = {'enabled': true, 'delta': 'full'}";
    let (keys_only, whole) = ([OUTBOX, hidden], [OUTBOX, hidden, shown]);
    let no_table = [
        "there is no table app.outbox",
        "state.keyspace",
        "topic events",
        "fix:",
    ];
    let no_cdc = ["CDC is not enabled", "ALTER TABLE app.outbox WITH cdc"];
    let fit = [
        "ok       state.keyspace",
        "ok       deadLetter.table",
        "keep their order",
        "error    sink.topic",
    ];
    let printed = output(relay(&["schema", "--keyspace", "app", "--table", "outbox"])).await;
    // This is one node.
    let printed = String::from_utf8(printed.stdout)
        .unwrap()
        .replace("'replication_factor': 3", "'replication_factor': 1");
    let lines: Vec<_> = printed.lines().filter(|line| !line.starts_with("--")).collect();
    let printed = lines.join("\n");
    let printed: Vec<_> = printed
        .split(';')
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
        .collect();
    tokio::join!(
        check(&printed, false, &fit),
        check(&[], false, &no_table),
        check(&[OUTBOX], false, &no_cdc),
        check(&keys_only, false, &["hides column payload"]),
        check(&whole, true, &fit),
    );
}

/// `outbox-relay dead-letters`, with what it says.
async fn dead_letters(config: &tempfile::NamedTempFile, arguments: &[&str]) -> (Option<i32>, String, String) {
    let file = ["-f", config.path().to_str().unwrap()];
    let output = output(relay(&[&["dead-letters"], arguments, &file].concat())).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Three letters in the tables that it makes; their keys are shorter than a relay's.
async fn write_letters(session: &Session, config: &tempfile::NamedTempFile) {
    let made = output(relay(&["setup", "-f", config.path().to_str().unwrap()])).await;
    assert!(made.status.success());
    for (number, class, status) in [
        (1, "message", "waiting"),
        (2, "transient", "waiting"),
        (3, "message", "pending"),
    ] {
        let row = format!(
            "INSERT INTO outbox_relay.dead_letters (identity, slot, source_time, source_stream, source_seq, event_id, \
             event_type, aggregate_id, payload, error_message, error_class, last_failed_at, status) VALUES \
             ('test.relay', {number}, 5000000{number}-0000-1000-8080-808080808080, 0x00, 0, 'event-{number}', 'Created', \
             'a', 0x7b7d, 'refused', '{class}', {number}000, '{status}')"
        );
        session.query_unpaged(row, ()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_and_discarded_as_asked() {
    let (node, session) = node().await;
    let config = config(node.addr());
    let run = async |arguments: &[&str]| dead_letters(&config, arguments).await;
    let (code, _, said) = run(&["list"]).await;
    assert!(
        code == Some(1) && said.contains("outbox_relay.dead_letters"),
        "{said}"
    );
    write_letters(&session, &config).await;
    let (code, listed, _) = run(&["list", "--class", "message"]).await;
    assert_eq!(code, Some(0));
    let ids = ["event-1", "event-2", "event-3"].map(|id| listed.contains(id));
    assert!(
        ids == [true, false, true] && listed.ends_with("2 dead letters\n"),
        "{listed}"
    );
    let (_, newest, _) = run(&["list", "--newest", "1", "--json", "--older-than", "1h"]).await;
    let newest: serde_json::Value = serde_json::from_str(&newest).unwrap();
    assert_eq!(
        (&newest["eventId"], &newest["payload"]),
        (&"event-3".into(), &"{}".into())
    );
    let (code, shown, _) = run(&["show", "event-2"]).await;
    assert!(
        code == Some(0) && shown.contains("\"class\": \"transient\""),
        "{shown}"
    );
    assert_eq!(run(&["show", "event-9"]).await.0, Some(1));

    let (code, _, said) = run(&["discard", "--yes"]).await;
    assert!(code == Some(2) && said.contains("accepted: --event-id"), "{said}");
    let (_, dry, _) = run(&["discard", "--class", "message"]).await;
    assert!(
        dry.contains("1 dead letters would be discarded") && dry.contains("1 are not decided yet"),
        "{dry}"
    );
    let (_, done, _) = run(&["discard", "--class", "message", "--yes"]).await;
    assert!(done.contains("1 dead letters discarded"), "{done}");
    let (_, left, _) = run(&["list"]).await;
    let ids = ["event-1", "event-2", "event-3"].map(|id| left.contains(id));
    assert_eq!(ids, [false, true, true], "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_refused_before_anything_is_asked_for_if_nobody_would_carry_it_out() {
    let (node, session) = node().await;
    let config = config(node.addr());
    write_letters(&session, &config).await;
    let run = async |arguments: &[&str]| dead_letters(&config, arguments).await;
    let (code, _, said) = run(&["replay"]).await;
    assert!(code == Some(2) && said.contains("accepted: --event-id"), "{said}");
    let (code, _, said) = run(&["replay", "--newest", "1", "--rate", "10"]).await;
    assert!(code == Some(2) && said.contains("accepted: 1/s to"), "{said}");
    let (code, dry, said) = run(&["replay", "--class", "message", "--dry-run"]).await;
    assert!(
        code == Some(1) && dry.contains("0 dead letters would be replayed, 2 would not"),
        "{dry}"
    );
    assert!(
        said.contains("event-1: its key is not one") && said.contains("event-3: it is not decided yet"),
        "{said}"
    );
    // With a topic it is the brokers that are asked, and none is there.
    let topic = "deadLetter: {target: Topic, topic: letters}\n";
    let changed = std::fs::read_to_string(config.path()).unwrap() + topic;
    let changed = file(&changed);
    let (code, _, said) = dead_letters(&changed, &["replay"]).await;
    assert!(code == Some(2) && said.contains("accepted: --event-id"), "{said}");
    let (code, _, said) = dead_letters(&changed, &["replay", "--newest", "1", "--dry-run"]).await;
    assert!(code == Some(1) && said.contains("topic letters: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_waits_for_what_is_not_there_and_readyz_says_what() {
    let nobody = free_address();
    let config = config(nobody);
    let listen = free_address();
    let arguments = [
        "run",
        "-f",
        config.path().to_str().unwrap(),
        "--listen",
        &listen.to_string(),
    ]
    .map(str::to_owned);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut running = Running(relay(&arguments).stderr(Stdio::null()).spawn().unwrap());
    let answer = tokio::task::spawn_blocking(move || until(listen, "/readyz", "source: "))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains(&nobody.to_string()),
        "it names the contact point: {answer}"
    );
    let lives = tokio::task::spawn_blocking(move || get(listen, "/livez").unwrap())
        .await
        .unwrap();
    assert!(lives.starts_with("HTTP/1.1 200"), "{lives}");
    let taken = output(relay(&arguments)).await;
    assert_eq!(taken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&taken.stderr).contains(&listen.to_string()));
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_deleted_when_asked_twice_and_no_relay_runs() {
    let (node, session) = node().await;
    session
        .query_unpaged(format!("{OUTBOX} WITH cdc = {{'enabled': true}}"), ())
        .await
        .unwrap();
    let config = config(node.addr());
    let path = config.path().to_str().unwrap();
    let delete = async |arguments: &[&str], code: i32, expected: &str| {
        let arguments = [&["state", "delete", "-f", path], arguments].concat();
        let done = output(relay(&arguments)).await;
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            done.status.code() == Some(code) && said.contains(expected),
            "{said}"
        );
    };
    delete(&["--yes"], 0, "keyspace outbox_relay has no state tables").await;
    let listen = free_address();
    let start = || {
        let arguments = ["run", "-f", path, "--listen", &listen.to_string()].map(str::to_owned);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        Running(relay(&arguments).stderr(Stdio::null()).spawn().unwrap())
    };
    let owns_all = async || {
        let answer = tokio::task::spawn_blocking(move || until(listen, "/status", "\"owned\":64"));
        answer.await.unwrap()
    };
    let mut running = start();
    owns_all().await;
    delete(&[], 2, "--yes").await;
    delete(&["--yes"], 1, "renews its heartbeat").await;
    running.stop();
    every_slot_is_shown(path).await;
    // What a relay leaves that was killed: an owner that beats no more, and a segment.
    for left in [
        "UPDATE outbox_relay.slots SET owner = 'gone' WHERE identity = 'test.relay' AND slot = 3 IF EXISTS",
        "INSERT INTO outbox_relay.slots (identity, slot, second, revision, ids) VALUES ('test.relay', 3, 1, 1, 0x00) IF NOT EXISTS",
        "UPDATE outbox_relay.slots SET incarnation = 6f757462-6f78-5265-8c61-7920706f7331 \
         WHERE identity = 'test.relay' AND slot = -1 IF incarnation = null",
    ] {
        session.query_unpaged(left, ()).await.unwrap();
    }
    let said = shown(path, 1).await;
    assert!(
        said.contains("the segment of second 1, revision 1 is corrupt"),
        "{said}"
    );
    delete(
        &["--yes"],
        0,
        "deleted the progress of identity test.relay: 64 slots",
    )
    .await;
    let rows = session
        .query_unpaged(
            "SELECT owner, format, bound, second, epoch FROM outbox_relay.slots",
            (),
        )
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    type Row = (Option<String>, Option<i32>, Option<i64>, Option<i64>, Option<i64>);
    let rows: Vec<_> = rows.rows::<Row>().unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 64);
    for (owner, format, bound, second, epoch) in rows {
        assert_eq!((owner, format, bound, second), (None, None, None, None));
        assert!(
            epoch.is_some_and(|epoch| epoch >= 2),
            "the epoch stays: {epoch:?}"
        );
    }
    let mut again = start();
    owns_all().await;
    again.stop();
}

async fn shown(path: &str, code: i32) -> String {
    let shown = output(relay(&["checkpoint", "show", "-f", path])).await;
    let said = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.status.code(), Some(code), "{said}");
    said
}

async fn every_slot_is_shown(path: &str) {
    let said = shown(path, 0).await;
    let whole = "identity test.relay, keyspace outbox_relay: 64 slots; everything before 20";
    assert!(said.contains(whole), "{said}");
    let exported = output(relay(&["checkpoint", "export", "-f", path])).await;
    let exported: serde_json::Value = serde_json::from_slice(&exported.stdout).unwrap();
    assert_eq!(exported["slots"].as_array().unwrap().len(), 64);
    let revision = &exported["slots"][63]["checkpoint"]["revision"];
    assert!(revision.as_i64().unwrap() >= 1, "{exported:#}");
}

struct Running(Child);

impl Running {
    /// SIGTERM ends it well, whatever it waits for.
    fn stop(&mut self) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.0.kill();
    }
}

fn until(address: SocketAddr, path: &str, part: &str) -> String {
    let started = Instant::now();
    loop {
        let answer = get(address, path).unwrap_or_default();
        if answer.contains(part) && !answer.contains("starting") {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{path} never said {part}: {answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
