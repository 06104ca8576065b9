//! Several nodes in one process: one ring for drivers, nodes that stop and start, events.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

use std::net::SocketAddr;
use std::time::Duration;

use sandbox::Sandbox;
use sandbox::server::NodeError;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Long enough for a driver to notice; every wait ends as soon as it has.
const PATIENCE: Duration = Duration::from_secs(20);

/// An empty table.
const TABLE: [&str; 2] = [
    "CREATE KEYSPACE ks WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 3}",
    "CREATE TABLE ks.t (pk int PRIMARY KEY)",
];

async fn rows(session: &Session) -> i64 {
    let count = session
        .query_unpaged("SELECT count(*) FROM ks.t", ())
        .await
        .unwrap();
    let count = count.into_rows_result().unwrap();
    count.single_row::<(i64,)>().unwrap().0
}

async fn connect(sandbox: &Sandbox) -> Session {
    let builder = SessionBuilder::new().known_node_addr(sandbox.addr());
    builder.build().await.unwrap()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn drivers_see_one_cluster_of_three_nodes() {
    let sandbox = Sandbox::builder()
        .nodes(3)
        .datacenter("dc-a")
        .start()
        .await
        .unwrap();
    let session = connect(&sandbox).await;
    let state = session.get_cluster_state();
    let nodes = state.get_nodes_info();
    assert_eq!(nodes.len(), 3);
    assert!(
        nodes
            .iter()
            .all(|node| node.datacenter.as_deref() == Some("dc-a"))
    );
    assert_eq!(state.replica_locator().ring().len(), 3 * 16);
    for statement in TABLE {
        session.query_unpaged(statement, ()).await.unwrap();
    }
    // Prepared on all nodes; the driver insists on one id.
    let insert = session.prepare("INSERT INTO ks.t (pk) VALUES (?)").await.unwrap();
    for pk in 0..50 {
        session.execute_unpaged(&insert, (pk,)).await.unwrap();
    }
    assert_eq!(rows(&session).await, 50);
}

#[tokio::test]
async fn a_node_stops_and_starts_and_nothing_is_lost() {
    let sandbox = Sandbox::builder().nodes(3).start().await.unwrap();
    let session = connect(&sandbox).await;
    for statement in TABLE {
        session.query_unpaged(statement, ()).await.unwrap();
    }
    let mut insert = session.prepare("INSERT INTO ks.t (pk) VALUES (?)").await.unwrap();
    insert.set_is_idempotent(true);

    let stopped = sandbox.cluster().nodes()[1].address;
    let mut open = connected(stopped).await;
    let mut elsewhere = connected(sandbox.addr()).await;
    sandbox.stop_node(1).await.unwrap();
    assert!(TcpStream::connect(stopped).await.is_err(), "the port is closed");
    assert!(drops(&mut open).await);
    assert!(answers(&mut elsewhere).await, "other nodes go on");
    assert!(matches!(sandbox.stop_node(1).await, Err(NodeError::Stopped(1))));
    assert!(matches!(sandbox.start_node(0).await, Err(NodeError::Running(0))));
    assert!(matches!(
        sandbox.start_node(9).await,
        Err(NodeError::Unknown { index: 9, last: 2 })
    ));
    for pk in 0..50 {
        session.execute_unpaged(&insert, (pk,)).await.unwrap();
    }

    sandbox.start_node(1).await.unwrap();
    let direct = SessionBuilder::new()
        .known_node_addr(stopped)
        .build()
        .await
        .unwrap();
    assert_eq!(rows(&direct).await, 50);
    eventually("the first session uses the node again", async || {
        session.execute_unpaged(&insert, (1,)).await.unwrap();
        let state = session.get_cluster_state();
        state.get_nodes_info().iter().all(|node| node.is_connected())
    })
    .await;
}

#[tokio::test]
async fn who_registered_hears_of_nodes_and_schema() {
    let sandbox = Sandbox::builder().nodes(2).start().await.unwrap();
    let mut listener = connected(sandbox.addr()).await;
    let events = b"\0\x03\0\x0fTOPOLOGY_CHANGE\0\x0dSTATUS_CHANGE\0\x0dSCHEMA_CHANGE";
    listener.write_all(&frame(0x0b, events)).await.unwrap();
    assert_eq!(next_frame(&mut listener).await.0, 0x02);

    sandbox.stop_node(1).await.unwrap();
    let (opcode, body) = next_frame(&mut listener).await;
    assert_eq!(opcode, 0x0c);
    assert!(
        body.starts_with(b"\0\x0dSTATUS_CHANGE\0\x04DOWN\x04\x7f\0\0\x02"),
        "{body:02x?}"
    );
    sandbox.start_node(1).await.unwrap();
    let (_, body) = next_frame(&mut listener).await;
    assert!(
        body.starts_with(b"\0\x0dSTATUS_CHANGE\0\x02UP\x04\x7f\0\0\x02"),
        "{body:02x?}"
    );

    let session = connect(&sandbox).await;
    let heard: [&[u8]; 2] = [
        b"\0\x0dSCHEMA_CHANGE\0\x07CREATED\0\x08KEYSPACE\0\x02ks",
        b"\0\x0dSCHEMA_CHANGE\0\x07CREATED\0\x05TABLE\0\x02ks\0\x01t",
    ];
    for (statement, expected) in TABLE.into_iter().zip(heard) {
        session.query_unpaged(statement, ()).await.unwrap();
        let (_, body) = next_frame(&mut listener).await;
        assert_eq!(body, expected);
    }
}

#[tokio::test]
async fn a_node_stops_and_starts_by_http() {
    let sandbox = Sandbox::builder().nodes(2).start().await.unwrap();
    let http = reqwest::Client::new();
    let call = async |what: &str| {
        let url = format!("http://{}/nodes/1/{what}", sandbox.admin_addr());
        let answer = http.post(url).send().await.unwrap();
        let status = answer.status().as_u16();
        let body: serde_json::Value = answer.json().await.unwrap();
        (status, body["nodes"][1]["up"].as_bool())
    };
    let address = sandbox.cluster().nodes()[1].address;
    let mut open = connected(address).await;
    assert_eq!(call("stop").await, (200, Some(false)));
    assert!(drops(&mut open).await);
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(call("stop").await, (409, None));
    assert_eq!(call("start").await, (200, Some(true)));
    assert!(answers(&mut connected(address).await).await);
    assert_eq!(call("start").await, (409, None));
}

/// A connection that has introduced itself.
async fn connected(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let hello = frame(0x01, b"\0\x01\0\x0bCQL_VERSION\0\x053.3.1");
    stream.write_all(&hello).await.unwrap();
    assert_eq!(next_frame(&mut stream).await.0, 0x02);
    stream
}

/// Whether the other side ends the connection.
async fn drops(stream: &mut TcpStream) -> bool {
    let ended = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await;
    // Closed, or reset.
    !matches!(ended.expect("an end"), Ok(1..))
}

/// Whether OPTIONS are answered.
async fn answers(stream: &mut TcpStream) -> bool {
    stream.write_all(&frame(0x05, b"")).await.unwrap();
    next_frame(stream).await.0 == 0x06
}

fn frame(opcode: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![4, 0, 0, 1, opcode];
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend(body);
    frame
}

/// Opcode and body of what comes next.
async fn next_frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let read = async {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; u32::from_be_bytes(header[5..9].try_into().unwrap()) as usize];
        stream.read_exact(&mut body).await.unwrap();
        (header[4], body)
    };
    tokio::time::timeout(PATIENCE, read).await.expect("a frame")
}
