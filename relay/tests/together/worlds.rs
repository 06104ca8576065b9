//! Worlds that are not there yet, or not fit, as far as ScyllaDB is concerned: nothing listens at Kafka.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use relay::journal::Mark;
use relay::model::SlotId;
use relay::state::checkpoint::{Base, base_checksum};
use sandbox::Sandbox;
use sandbox::embed::TlsFiles;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use crate::process::{Relay, free_address};

const KEYSPACE: &str =
    "CREATE KEYSPACE app WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}";

const OUTBOX: &str = "CREATE TABLE app.outbox (aggregate_id uuid, sequence bigint, id uuid, event_type text, payload text, \
                      PRIMARY KEY (aggregate_id, sequence)) WITH cdc = {'enabled': true}";

struct World {
    node: Sandbox,
    session: Session,
    config: tempfile::NamedTempFile,
}

fn configuration(node: SocketAddr, more: &str) -> tempfile::NamedTempFile {
    let kafka = free_address();
    let text = format!(
        "identity: test.worlds\nsource: {{contactPoints: [\"{node}\"], keyspace: app, table: outbox{more}}}\n\
         sink: {{bootstrapServers: [\"{kafka}\"], topic: events}}\nstate: {{leaseSeconds: 2}}\n"
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

const PASSWORD: (&str, &str) = ("CQL_PASSWORD", "relay-secret");

const LOGIN: &str = ", credentials: {username: relay, passwordEnv: CQL_PASSWORD}";

impl World {
    async fn new(builder: sandbox::SandboxBuilder, login: Option<(&str, &str)>) -> Self {
        let node = builder.start().await.unwrap();
        let mut session = SessionBuilder::new().known_node_addr(node.addr());
        if let Some((user, password)) = login {
            session = session.user(user, password);
        }
        let session = session.build().await.unwrap();
        let config = configuration(node.addr(), if login.is_some() { LOGIN } else { "" });
        let world = Self {
            node,
            session,
            config,
        };
        world.cql(KEYSPACE).await;
        world.cql(OUTBOX).await;
        world
    }

    async fn cql(&self, statement: &str) {
        let done = self.session.query_unpaged(statement, ()).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    fn relay(&self) -> Relay {
        Relay::start_with(self.config.path(), "1/1", &[PASSWORD])
    }

    fn check(&self) -> String {
        check(self.config.path())
    }
}

/// What `outbox-relay check` finds.
fn check(config: &Path) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    command
        .args(["check", "-f", config.to_str().unwrap()])
        .envs([PASSWORD]);
    let output = tokio::task::block_in_place(|| command.output().unwrap());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything but Kafka is well, and every slot owned.
const ONLY_KAFKA: &str = "not ready: sink: ";

fn readyz(relay: &Relay, part: &str) -> String {
    tokio::task::block_in_place(|| relay.readyz(503, part))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scylladb_that_comes_later_needs_no_restart() {
    let world = World::new(Sandbox::builder(), None).await;
    world.node.stop_node(0).await.unwrap();
    let relay = world.relay();
    let said = readyz(&relay, "source: ");
    assert!(said.contains(&world.node.addr().to_string()), "{said}");
    world.node.start_node(0).await.unwrap();
    readyz(&relay, ONLY_KAFKA);
    relay.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_are_said_without_the_password() {
    let world = World::new(
        Sandbox::builder().user("admin", "secret"),
        Some(("admin", "secret")),
    )
    .await;
    let relay = world.relay();
    let said = readyz(&relay, "source: ");
    assert!(
        said.to_lowercase().contains("authentication") || said.contains("incorrect"),
        "{said}"
    );
    assert!(!said.contains("relay-secret") && !relay.said().contains("relay-secret"));
    relay.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_with_nodes_whose_certificate_is_trusted_and_names_their_address() {
    let folder = tempfile::tempdir().unwrap();
    let stranger = certificate(folder.path(), "stranger", "IP:127.0.0.1");
    for (name, address) in [("address", "IP:127.0.0.1"), ("name", "DNS:scylla.internal")] {
        let files = certificate(folder.path(), name, address);
        let trusted = files.certificate.to_str().unwrap().to_owned();
        let node = Sandbox::builder().tls(files).start().await.unwrap();
        let mut anyone = SslConnector::builder(SslMethod::tls()).unwrap();
        anyone.set_verify(SslVerifyMode::NONE);
        let session = SessionBuilder::new()
            .known_node_addr(node.addr())
            .tls_context(Some(anyone))
            .build()
            .await
            .unwrap();
        session.query_unpaged(KEYSPACE, ()).await.unwrap();
        session.query_unpaged(OUTBOX, ()).await.unwrap();
        let tls = |ca: &str, more: &str| format!(", tls: {{caFile: \"{ca}\"{more}}}");
        let any_name = ", verifyHostname: false";
        let refused = "certificate verify failed";
        let cases = [
            (
                tls(&trusted, ""),
                if name == "address" { ONLY_KAFKA } else { refused },
            ),
            (tls(&trusted, any_name), ONLY_KAFKA),
            (tls(stranger.certificate.to_str().unwrap(), any_name), refused),
            (String::new(), "source: "),
        ];
        for (more, expected) in cases {
            let config = configuration(node.addr(), &more);
            let relay = Relay::start(config.path(), "1/1");
            let said = readyz(&relay, expected);
            assert_eq!(
                expected == ONLY_KAFKA,
                !said.contains("source: "),
                "{more}: {said}"
            );
            relay.stop();
        }
        let missing = folder.path().join("missing.pem");
        let config = configuration(node.addr(), &tls(missing.to_str().unwrap(), ""));
        let found = check(config.path());
        assert!(found.contains("source.tls.caFile: cannot read"), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_shown_to_nodes_that_ask_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let [relay, stranger] =
        ["relay", "stranger"].map(|name| certificate(folder.path(), name, "DNS:client.internal"));
    let node = TlsFiles {
        client_authorities: Some(relay.certificate.clone()),
        ..certificate(folder.path(), "node", "IP:127.0.0.1")
    };
    let ca = node.certificate.to_str().unwrap().to_owned();
    let node = Sandbox::builder().tls(node).start().await.unwrap();
    let mut known = SslConnector::builder(SslMethod::tls()).unwrap();
    known.set_verify(SslVerifyMode::NONE);
    known.set_certificate_chain_file(&relay.certificate).unwrap();
    known.set_private_key_file(&relay.key, SslFiletype::PEM).unwrap();
    let session = SessionBuilder::new()
        .known_node_addr(node.addr())
        .tls_context(Some(known))
        .build()
        .await
        .unwrap();
    session.query_unpaged(KEYSPACE, ()).await.unwrap();
    session.query_unpaged(OUTBOX, ()).await.unwrap();
    let shown = |files: &TlsFiles| {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        format!(", certificateFile: \"{certificate}\", keyFile: \"{key}\"")
    };
    let refused = "source: source.tls: no TLS session with";
    for (certificate, expected) in [
        (shown(&relay), ONLY_KAFKA),
        (shown(&stranger), refused),
        (String::new(), refused),
    ] {
        let config = configuration(node.addr(), &format!(", tls: {{caFile: \"{ca}\"{certificate}}}"));
        let relay = Relay::start(config.path(), "1/1");
        let said = readyz(&relay, expected);
        assert_eq!(expected == ONLY_KAFKA, !said.contains("source: "), "{said}");
        relay.stop();
    }
    let mixed = TlsFiles {
        key: stranger.key,
        ..relay
    };
    let config = configuration(
        node.addr(),
        &format!(", tls: {{caFile: \"{ca}\"{}}}", shown(&mixed)),
    );
    let found = check(config.path());
    assert!(
        found.contains("source.tls.keyFile: the private key in") && found.contains("is not that of"),
        "{found}"
    );
}

/// A certificate that names this address or host, signed by itself, and its key.
fn certificate(folder: &Path, name: &str, address: &str) -> TlsFiles {
    let files = TlsFiles {
        certificate: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
        client_authorities: None,
    };
    let made = std::process::Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
        ])
        .args([
            &format!("/CN={name}"),
            "-addext",
            &format!("subjectAltName={address}"),
        ])
        .args(["-keyout".as_ref(), files.key.as_os_str()])
        .args(["-out".as_ref(), files.certificate.as_os_str()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_make_the_tables_is_told_the_exact_cql() {
    let world = World::new(
        Sandbox::builder().user("admin", "secret"),
        Some(("admin", "secret")),
    )
    .await;
    world
        .cql("CREATE ROLE relay WITH PASSWORD = 'relay-secret' AND LOGIN = true")
        .await;
    // What the documentation says is enough, and all of it.
    let documented = include_str!("../../../docs/permissions.md");
    let grants = documented.lines().filter(|line| line.starts_with("GRANT "));
    let (state, source): (Vec<_>, Vec<_>) = grants.partition(|grant| grant.contains(" outbox_relay "));
    let check = world.check();
    assert!(
        check.contains("error    source.table: ") && check.contains("fix: grant SELECT"),
        "{check}"
    );
    for grant in source {
        world.cql(grant.trim_end_matches(';')).await;
    }
    let check = world.check();
    assert!(
        check.contains("ok       source.table: its log can be read"),
        "{check}"
    );
    assert!(check.contains("error    state.keyspace"), "{check}");
    let relay = world.relay();
    let said = readyz(&relay, "state: ");
    let statements: Vec<_> = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("CREATE "))
        .map(|rest| format!("CREATE {}", rest.trim_end_matches(';')))
        .collect();
    assert_eq!(
        statements.len(),
        5,
        "keyspace, slots, processes, audits, dead letters: {said}"
    );
    for statement in &statements {
        world.cql(statement).await;
    }
    let said = readyz(&relay, "permission on");
    assert!(said.contains("state: "), "{said}");
    let check = world.check();
    for refused in ["error    state.keyspace", "error    deadLetter.table"] {
        assert!(check.contains(refused), "{check}");
    }
    for grant in state {
        world.cql(grant.trim_end_matches(';')).await;
    }
    readyz(&relay, ONLY_KAFKA);
    relay.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_keyspace_with_tablets_is_refused_only_where_transactions_are() {
    for supported in [false, true] {
        let builder = Sandbox::builder().lwt_with_tablets(supported);
        let world = World::new(builder, None).await;
        world
            .cql(
                "CREATE KEYSPACE outbox_relay WITH replication = {'class': 'NetworkTopologyStrategy', \
                  'replication_factor': 1} AND tablets = {'enabled': true}",
            )
            .await;
        let relay = world.relay();
        if supported {
            readyz(&relay, ONLY_KAFKA);
        } else {
            let said = readyz(&relay, "state: ");
            for part in [
                "outbox_relay",
                "uses tablets",
                "tablets = {'enabled': false}",
                "state.keyspace",
            ] {
                assert!(said.contains(part), "should say {part}: {said}");
            }
        }
        relay.stop();
    }
}

/// The relay's own keyspace has none, whatever the default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keyspace_that_the_relay_makes_has_no_tablets() {
    let builder = Sandbox::builder()
        .lwt_with_tablets(false)
        .tablets_by_default(true);
    let world = World::new(builder, None).await;
    let relay = world.relay();
    readyz(&relay, ONLY_KAFKA);
    relay.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_that_are_corrupt_newer_or_foreign_are_refused_and_the_others_are_read() {
    let world = World::new(Sandbox::builder(), None).await;
    let relay = world.relay();
    tokio::task::block_in_place(|| crate::process::wait("all slots", || relay.owned() == 64));
    relay.stop();
    let slot = |slot: u8, change: &str| {
        format!(
            "UPDATE outbox_relay.slots SET {change} WHERE identity = 'test.worlds' AND slot = {slot} IF epoch = 1"
        )
    };
    world.cql(&slot(3, "bound = 5")).await;
    world.cql(&slot(4, "format = 3")).await;
    // As if copied from another identity: everything fits but the checksum.
    world
        .cql(
            "INSERT INTO outbox_relay.slots (identity, slot, second, revision, ids) \
             VALUES ('test.worlds', 5, 99, 1024, 0x0102030405060708aabbccdd)",
        )
        .await;
    let relay = world.relay();
    let said = readyz(&relay, "state: ");
    assert!(said.contains("checkpoint of slot 3 refused"), "{said}");
    tokio::task::block_in_place(|| crate::process::wait("all others", || relay.owned() == 61));
    let said = relay.said();
    for part in [
        "its checksum does not match",
        "it has format 3, this version reads formats 1 to 2",
        "is corrupt",
    ] {
        assert!(said.contains(part), "should say {part}: {said}");
    }
    relay.stop();
}

/// As a relay of format 1 left it.
const FORMAT_1: [&str; 2] = [
    "CREATE KEYSPACE outbox_relay WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1} \
     AND tablets = {'enabled': false}",
    "CREATE TABLE outbox_relay.slots (identity text, slot int, owner text static, epoch bigint static, \
     transactional_id text static, format int static, bound bigint static, saved_revision bigint static, \
     checksum bigint static, second bigint, revision bigint, ids blob, \
     PRIMARY KEY ((identity, slot), second, revision))",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_of_an_earlier_format_are_read_and_brought_to_this_one() {
    let world = World::new(Sandbox::builder(), None).await;
    for statement in FORMAT_1 {
        world.cql(statement).await;
    }
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3_600);
    let bound = hour_ago
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_micros() as i64;
    let base = Base {
        format: 1,
        bound,
        revision: 7,
        mark: Mark::default(),
    };
    let checksum = base_checksum("test.worlds", SlotId::new(3).unwrap(), &base);
    world
        .cql(&format!(
            "UPDATE outbox_relay.slots SET epoch = 1, format = 1, bound = {bound}, saved_revision = 7, \
             checksum = {checksum} WHERE identity = 'test.worlds' AND slot = 3"
        ))
        .await;
    let relay = world.relay();
    tokio::task::block_in_place(|| crate::process::wait("all slots", || relay.owned() == 64));
    relay.stop();
    let row = "SELECT format, saved_revision, mark_sequence FROM outbox_relay.slots \
               WHERE identity = 'test.worlds' AND slot = 3";
    let row = world.session.query_unpaged(row, ()).await.unwrap();
    let row = row.into_rows_result().unwrap();
    let (format, revision, mark) = row.first_row::<(i32, i64, i64)>().unwrap();
    assert_eq!((format, mark), (2, 0));
    assert!(revision > 7, "it was saved in the new format");
}
